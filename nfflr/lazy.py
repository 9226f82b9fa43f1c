"""Names of a package that load on first use, so that importing the package imports nothing else."""

import ast
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def lazy_names(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package from its ``if TYPE_CHECKING:`` block.

    The names are those of the relative imports in it.

    So editors and type checkers see the names too, and each is said once.

    Args:
        package: its ``__name__``.
        file: its ``__file__``.
    """
    homes = {
        alias.name: "." * node.level + (node.module or "")
        for block in ast.parse(Path(file).read_text(encoding="utf-8")).body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(homes[name], package), name)

    names = sorted(homes)
    return get, lambda: names, names
