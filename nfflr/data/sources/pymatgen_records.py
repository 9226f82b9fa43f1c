"""JSON records with a structure of pymatgen's each, from no data set whose stresses are known.

Energies are eV per structure and forces eV/Å, as pymatgen has them. Unit, sign and order of ``stress`` are
asked for. MPtrj and MatPES fix theirs: they are read as any file is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...structures.formats import pymatgen_json
from . import Entry, Wanted, file_of
from .ase_files import read as read_any

KEYS = {"total_energy": ("energy",), "forces": ("forces",), "stress": (pymatgen_json.STORED_STRESS,)}
ENERGY_UNITS = "eV"
STRESS = None  # usually VASP's kbar, pressure positive, but nothing says so


def opens(source: object) -> bool:
    path = file_of(source)
    return path is not None and pymatgen_json.opens(path) and not pymatgen_json.has_stress_convention(path)


def read(source: str | Path, wanted: Wanted = None) -> Sequence[Entry]:
    return read_any(source, wanted)
