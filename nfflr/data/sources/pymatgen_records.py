"""JSON records with a structure of pymatgen's each, from no data set whose stresses are known.

Energies are eV per structure and forces eV/Å, as pymatgen has them. Unit, sign and order of ``stress`` are
asked for. MPtrj and MatPES fix theirs: they are read as any file is.
"""

from __future__ import annotations

from pathlib import Path

from ...structures.formats import pymatgen_json
from ...structures.readers import read_structures
from . import Entry, Wanted, display_name
from .ase_files import entry

KEYS = {"total_energy": ("energy",), "forces": ("forces",), "stress": (pymatgen_json.STORED_STRESS,)}
ENERGY_UNITS = "eV"
STRESS = None  # usually VASP's kbar, pressure positive, but nothing says so


def opens(source: object) -> bool:
    if not isinstance(source, str | Path) or not Path(source).is_file():
        return False
    path = Path(source)
    return pymatgen_json.opens(path) and not pymatgen_json.has_stress_convention(path)


def read(source: str | Path, wanted: Wanted = None) -> list[Entry]:
    name = display_name(source)
    return [entry(atoms, k, name, wanted) for k, atoms in enumerate(read_structures(source))]
