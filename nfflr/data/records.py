"""Labelled structures in the package's units, whatever the source used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ase
import ase.units
import numpy as np

from ..atoms import check_structure
from ..errors import StructureError
from ..units import GPA
from .readers import read_structures

ENERGY_UNITS = {
    "eV": 1.0,
    "eV/atom": 1.0,
    "Ha": ase.units.Hartree,
    "kcal/mol": ase.units.kcal / ase.units.mol,
}
STRESS_UNITS = {"eV/Å^3": 1.0, "GPa": GPA, "kbar": 0.1 * GPA}
DEFAULT_KEYS = {"total_energy": "energy", "forces": "forces", "stress": "stress"}


@dataclass(frozen=True)
class Record:
    """A structure and its labels: ``total_energy`` () eV, ``forces`` (N, 3) eV/Å, ``stress`` (3, 3) eV/Å³."""

    id: str
    group: str
    atoms: ase.Atoms
    labels: dict[str, np.ndarray]


def read_records(
    source: str | Path | Sequence[ase.Atoms],
    energy_units: str = "eV",
    stress_factor: float = 1.0,
    keys: dict[str, str] = DEFAULT_KEYS,
) -> list[Record]:
    """Structures and their labels in eV, eV/Å and eV/Å³.

    Raises:
        ConfigError: the file is missing.
        StructureError: a structure cannot be used.
    """
    named = isinstance(source, str | Path)
    structures = read_structures(source) if named else list(source)
    if not structures:
        raise StructureError("data set: holds no structure; expected at least one")
    name = Path(source).name if named else "structures"
    records = []
    for k, atoms in enumerate(structures):
        scale = ENERGY_UNITS[energy_units]
        per = len(atoms) if energy_units.endswith("/atom") else 1
        factors = {"total_energy": scale * per, "forces": scale, "stress": stress_factor}
        ident = f"{name}[{atoms.info.get('config_id', k)}]"
        if not named:  # files have been checked frame by frame
            check_structure(atoms, ident)
        labels = {}
        for key, stored in keys.items():
            value = _stored(atoms, stored)
            if value is not None:
                labels[key] = _numbers(ident, key, value) * factors[key]
        plain = ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        records.append(Record(ident, str(atoms.info.get("group", "other")), plain, labels))
    return records


def _stored(atoms: ase.Atoms, key: str):
    results = atoms.calc.results if atoms.calc is not None else {}
    for place in (results, atoms.info, atoms.arrays):
        if key in place:
            return place[key]
    return None


def _numbers(ident: str, key: str, value) -> np.ndarray:
    try:
        numbers = np.array(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise StructureError(f"{ident}: {key} is {value!r}, expected numbers; correct the label") from error
    return _square(numbers) if key == "stress" else numbers


def _square(stress: np.ndarray) -> np.ndarray:
    """(3, 3) from ASE's Voigt order xx, yy, zz, yz, xz, xy, from nine numbers, or from itself."""
    if stress.shape == (6,):
        return stress[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
    return stress.reshape(3, 3) if stress.size == 9 else stress
