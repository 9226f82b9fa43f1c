"""Names of a package that load on first use, so that importing the package imports nothing else."""

import importlib
import re
from collections.abc import Callable
from typing import Any


def lazy_names(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package from its ``if TYPE_CHECKING:`` block.

    The names are those of the relative imports in it. So each name is written once, and editors and type
    checkers see it too.

    Args:
        package: its ``__name__``.
        file: its ``__file__``.
    """
    homes: dict[str, str] = {}
    # Python's own parser would cost more time than everything else that importing the package needs.
    with open(file, encoding="utf-8") as source:
        block = source.read().partition("\nif TYPE_CHECKING:")[2].partition("\n__getattr__")[0]
    for statement in re.findall(r"^ +from (\.\S*) import (\([^)]+\)|.+)$", block, re.MULTILINE):
        homes |= dict.fromkeys(re.findall(r"\w+", statement[1]), statement[0])

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(homes[name], package), name)

    public = sorted(homes)
    return get, lambda: public, public
