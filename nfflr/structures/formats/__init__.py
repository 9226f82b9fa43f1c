"""File formats that NFFLr reads itself: one file each, which is all that a new format needs.

A format is a module with

- ``opens(path) -> bool``: whether the file is of this format, by its name or its first lines; it is cheap
  and raises nothing;
- ``read(path) -> Iterator[ase.Atoms]``: the structures in the order of the file. Labels are where ASE's
  readers leave them: results in a ``SinglePointCalculator``, other values in ``info`` and ``arrays``. Raises
  ``StructureError`` whose message names the file, the frame and the line.

ASE reads every other file.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from types import ModuleType


@cache
def modules() -> tuple[ModuleType, ...]:
    """Every format of this folder, in the order of their names."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    return tuple(importlib.import_module(f"{__name__}.{name}") for name in names)


def find(path: Path) -> ModuleType | None:
    """The format that reads a file, or None where that is left to ASE."""
    return next((module for module in modules() if module.opens(path)), None)
