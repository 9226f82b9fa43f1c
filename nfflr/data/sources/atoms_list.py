"""Structures in memory: a list of ``ase.Atoms`` with their results, ``info`` and arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ase

from ...errors import StructureError
from ...structures.checks import check_structure
from . import Entry, Wanted
from .ase_files import ENERGY_UNITS, KEYS, STRESS, entry

__all__ = ["ENERGY_UNITS", "KEYS", "STRESS", "opens", "read"]


def opens(source: object) -> bool:
    """Whether it is a list of anything but paths, which are sources of their own."""
    if not isinstance(source, Sequence) or isinstance(source, str | bytes):
        return False
    return not len(source) or not all(isinstance(item, str | Path) for item in source)


def read(source: Sequence[ase.Atoms], wanted: Wanted = None) -> list[Entry]:
    found = []
    for k, atoms in enumerate(source):
        if not isinstance(atoms, ase.Atoms):
            raise StructureError(f"structures[{k}]: got a {type(atoms).__qualname__}; expected ase.Atoms")
        check_structure(atoms, f"structures[{atoms.info.get('config_id', k)}]")
        found.append(entry(atoms, k, "structures", wanted))
    return found
