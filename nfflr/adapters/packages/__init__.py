"""Packages whose potentials can be used by name: one file each, named by the prefix, found by being here.

Other distributions add theirs by entry points of the group ``nfflr.adapters``: prefix = module.

An adapter is a module with

- ``PACKAGE``: what pip calls it, None for what needs no package; ``MODULE``: what is imported; ``EXTRA``: the
  extra of NFFLr that brings it;
- ``MODELS``: the address of models, and ``EXAMPLE``: the name of such a file, which is read only if it is
  trusted. None if the adapter reads no file, or unpickles none;
- ``HELD``: names of files in the package, if it has any;
- ``UNIVERSAL``: True if the bare prefix names a potential of most elements whose weights are in the package;
- ``DTYPES``: precisions that it offers;
- ``load(argument, device, dtype) -> foreign_calculator.Peer``: the calculator of the text after the prefix.
  Any error but ``NFFLrError`` counts as a damaged file.
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import entry_points
from types import ModuleType

GROUP = "nfflr.adapters"


def names() -> list[str]:
    """The prefixes."""
    return sorted({*(info.name for info in pkgutil.iter_modules(__path__)), *entry_points(group=GROUP).names})


def adapter(name: str) -> ModuleType:
    """The adapter of a prefix; the package itself is not imported by this."""
    for entry in entry_points(group=GROUP, name=name):
        return importlib.import_module(entry.module)
    return importlib.import_module(f"{__name__}.{name}")
