"""Packages whose potentials can be used by name: one file each, named by the prefix, found by being here.

Other distributions add theirs by entry points of the group ``nfflr.adapters``: prefix = module.

An adapter is a module with

- ``PACKAGE``: what pip calls it, None for what needs no package; ``MODULE``: what is imported; ``EXTRA``: the
  extra of NFFLr that brings it;
- ``MODELS``: where models can be had, and ``EXAMPLE``: what one of the files is called. Such a file is read
  only if it is trusted. None if no file is given, or none that is unpickled;
- ``HELD``: names that stand for files of the package, if it brings any besides;
- ``UNIVERSAL``: True if the bare prefix names a potential of most elements whose weights are in the package;
- ``DTYPES``: precisions that it can be asked for;
- ``load(argument, device, dtype) -> Peer``: the calculator of what stands after the prefix. Whatever it
  raises but ``NFFLrError`` is taken for a file that is damaged.
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
