"""Names of a package that load on first use, so that importing the package imports nothing else."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_names(package: str, modules: Mapping[str, Sequence[str]]) -> tuple[Callable[[str], Any], list[str]]:
    """``__getattr__`` and ``__all__`` of a package.

    Args:
        package: its ``__name__``.
        modules: names to offer by the module that holds them, relative to the package: ``".moment"``.

    Example:
        >>> get, names = lazy_names("nfflr", {".units": ("GPA",)})
        >>> names, round(get("GPA"), 5)  # eV/Å³
        (['GPA'], 0.00624)
    """
    homes = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(homes[name], package), name)

    return get, sorted(homes)
