"""What ASE reads or holds: any file of structures, a list of ``ase.Atoms``, ASE databases in LMDB.

``.aselmdb`` files, alone or in a folder, are the form of the data sets of Open Catalyst, OMat24 and OMol25.
They may be larger than memory and need the extra ``nfflr[lmdb]``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import ase
import numpy as np
from ase.stress import voigt_6_to_full_3x3_stress

from ...errors import StructureError
from ...structures.checks import check_structure
from ...structures.formats.aselmdb import SUFFIX, Rows
from ...structures.readers import read_structures
from . import Entry, LazyEntries, Wanted, display_name, file_of

FALLBACK = True
KEYS = {"total_energy": ("energy",), "forces": ("forces",), "stress": ("stress", "stress6")}
ENERGY_UNITS = "eV"
STRESS = ("eV/Å^3", 1, None)  # of six numbers only ASE's own result has an order
PER_ATOM_RESULTS = {"forces", "energies", "stresses", "charges", "magmoms"}  # of ASE's calculators


def opens(source: object) -> bool:
    """Whether it is a file, a folder of ``.aselmdb``, or a list of anything but paths."""
    if isinstance(source, str | Path):
        return file_of(source) is not None or any(_databases(Path(source)))
    if not isinstance(source, Sequence) or isinstance(source, bytes):
        return False
    return not len(source) or not all(isinstance(item, str | Path) for item in source)


def read(source: str | Path | Sequence[ase.Atoms], wanted: Wanted = None) -> Sequence[Entry]:
    if not isinstance(source, str | Path):
        return [_checked(atoms, k, wanted) for k, atoms in enumerate(source)]
    path, name = Path(source), display_name(source)
    if path.suffix == SUFFIX or path.is_dir():
        return DatabaseEntries([path] if path.is_file() else _databases(path), wanted)
    return [entry(atoms, k, name, wanted) for k, atoms in enumerate(read_structures(path))]


def entry(atoms: ase.Atoms, index: int, name: str, wanted: Wanted = None) -> Entry:
    """What ASE keeps of a calculation: results, then ``info``, then per-atom arrays.

    The result ``stress`` is in Voigt's order by ASE's definition and becomes 3×3; six numbers of any other
    name are kept as they stand.
    """
    values = {k: v for k, v in atoms.arrays.items() if k not in ("numbers", "positions")}
    values |= atoms.info
    results = dict(atoms.calc.results) if atoms.calc is not None else {}
    if "stress" in results and np.shape(results["stress"]) == (6,):
        results["stress"] = voigt_6_to_full_3x3_stress(results["stress"])
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


def _checked(atoms: ase.Atoms, k: int, wanted: Wanted) -> Entry:
    if not isinstance(atoms, ase.Atoms):
        raise StructureError(f"structures[{k}]: got a {type(atoms).__qualname__}; expected ase.Atoms")
    check_structure(atoms, f"structures[{atoms.info.get('config_id', k)}]")
    return entry(atoms, k, "structures", wanted)


def _databases(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []


class DatabaseEntries(LazyEntries):
    """The rows of ``.aselmdb`` files, the files in order; holds none of them."""

    def __init__(self, paths: Sequence[Path], wanted: Wanted = None):
        self.files, self.wanted = [Rows(path) for path in paths], wanted
        self.ends = list(accumulate(len(rows) for rows in self.files))

    def __len__(self) -> int:
        return self.ends[-1]

    def entry(self, k: int) -> Entry:
        place = bisect_right(self.ends, k)
        rows = self.files[place]
        row = k - (self.ends[place] - len(rows))
        return entry(rows[row], row, Path(rows.name).name, self.wanted)
