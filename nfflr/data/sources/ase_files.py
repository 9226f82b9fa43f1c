"""Any file that ASE reads: extended XYZ (also .xz and .gz), ASE db, trajectories, CIF …"""

from __future__ import annotations

from pathlib import Path

import ase
import numpy as np

from ...structures.readers import read_structures
from . import Entry, Wanted, display_name

FALLBACK = True
KEYS = {"total_energy": ("energy",), "forces": ("forces",), "stress": ("stress", "stress6")}
ENERGY_UNITS = "eV"
STRESS = ("eV/Å^3", 1, None)  # of six numbers only ASE's own result has an order
PER_ATOM_RESULTS = {"forces", "energies", "stresses", "charges", "magmoms"}  # of ASE's calculators
VOIGT = [[0, 5, 4], [5, 1, 3], [4, 3, 2]]  # where each element of the 3×3 stands among ASE's six


def opens(source: object) -> bool:
    return isinstance(source, str | Path) and Path(source).is_file()


def read(source: str | Path, wanted: Wanted = None) -> list[Entry]:
    name = display_name(source)
    return [entry(atoms, k, name, wanted) for k, atoms in enumerate(read_structures(source))]


def entry(atoms: ase.Atoms, index: int, name: str, wanted: Wanted = None) -> Entry:
    """What ASE keeps of a calculation: results, then ``info``, then per-atom arrays.

    The result ``stress`` is in Voigt's order by ASE's definition and becomes 3×3; six numbers of any other
    name are kept as they stand.
    """
    values = {k: v for k, v in atoms.arrays.items() if k not in ("numbers", "positions")}
    values |= atoms.info
    results = dict(atoms.calc.results) if atoms.calc is not None else {}
    if "stress" in results and np.shape(results["stress"]) == (6,):
        results["stress"] = np.asarray(results["stress"])[VOIGT]
    values |= results
    per_atom = (atoms.arrays.keys() - atoms.info.keys()) | PER_ATOM_RESULTS
    plain = ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    return Entry(
        id=f"{name}[{atoms.info.get('config_id', index)}]",
        group=str(atoms.info.get("group", atoms.info.get("config_type", "other"))),
        atoms=plain,
        values=values if wanted is None else {k: values[k] for k in wanted if k in values},
        per_atom=per_atom & values.keys(),
    )
