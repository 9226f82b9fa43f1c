"""Kinds of source that structures come from: one file each, found by being here.

A source is a module with

- ``opens(source) -> bool``: whether ``source`` is of this kind; cheap, raises nothing;
- ``read(source, wanted=None) -> Sequence[Entry]``: the structures; of the values stored with them only those
  named in ``wanted`` need be kept (None: all). Raises ``StructureError`` naming file and record. What is
  returned may read lazily;
- ``KEYS``: by which names it stores ``total_energy``, ``forces`` and ``stress``;
- ``ENERGY_UNITS``: the unit that the format fixes, or None if the user has to say it;
- ``STRESS``: likewise unit, sign and order (see ``nfflr.data.records``), or None.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import ase

from ...errors import ConfigError

Wanted = Collection[str] | None


@dataclass(frozen=True)
class Entry:
    """A structure as a source has it, with the values stored under their own names and in their own units."""

    id: str
    group: str
    atoms: ase.Atoms
    values: Mapping[str, Any]


def modules() -> list[ModuleType]:
    """Every source, the one for any file (``FALLBACK``) last."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    found = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return sorted(found, key=lambda module: getattr(module, "FALLBACK", False))


def find(source: object) -> ModuleType:
    """The module that reads ``source``.

    Raises:
        ConfigError: none does.
    """
    for module in modules():
        if module.opens(source):
            return module
    if not isinstance(source, str | Path):
        raise ConfigError(
            f"data source: got a {type(source).__qualname__}; expected a file, a folder, the name of a "
            "JARVIS data set, or a list of ase.Atoms"
        )
    if Path(source).is_dir():
        raise ConfigError(
            f"{source}: the folder holds no id_prop.csv or id_prop.json; give a folder that does, one of "
            "deepmd (type.raw, set.*) or of .aselmdb files, or a file"
        )
    raise ConfigError(
        f"{source}: no such file; check the path (a JARVIS data set has a name such as dft_3d; "
        "names beyond the common ones are known to nfflr[jarvis])"
    )


def display_name(source: object) -> str:
    """How messages and ids call a source: its file name."""
    return Path(source).name if isinstance(source, str | Path) else "structures"
