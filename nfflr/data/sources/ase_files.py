"""What ``nfflr.structures`` and ASE read or hold: files of structures, lists of ``ase.Atoms``, databases.

``.aselmdb`` files, alone or in a folder, are the form of the data sets of Open Catalyst, OMat24 and OMol25.
They may be larger than memory and need the extra ``nfflr[lmdb]``.

Three kinds of file have units or frames of their own:

- Output of electronic structure codes gives the steps that converged (``structures.formats.code_output``).
  The energy is that of ASE (σ → 0 extrapolation); ``keys={"total_energy": "free_energy"}`` takes the free
  energy, whose derivative VASP's forces are.
- Trajectories of one molecule in NumPy's ``.npz``: MD17 (http://www.sgdml.org) and rMD17 (Christensen and von
  Lilienfeld, arXiv:2007.09593) have kcal/mol and kcal/mol/Å. Other files of this form have eV or Hartree, so
  the unit is asked for.
- JSON records with a structure of pymatgen's each: energies are eV per structure and forces eV/Å, as pymatgen
  has them. Unit, sign and order of ``stress`` are asked for, except of MPtrj and MatPES, which fix theirs.
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
from ...quantities import STANDARD
from ...structures.checks import check_structure
from ...structures.formats import code_output, molecule_npz, pymatgen_json
from ...structures.formats.aselmdb import SUFFIX, Rows
from ...structures.readers import read_structures
from . import Entry, Kind, LazyEntries, Selection, display_name, file_of, selected

FALLBACK = True
KEYS = {"total_energy": ("energy",), "forces": ("forces",), "stress": ("stress", "stress6")}
ENERGY_UNITS = "eV"
STRESS = ("eV/Å^3", 1, None)  # only ASE's own result fixes the order of six numbers
PER_ATOM_RESULTS = {q.ase_name for q in STANDARD if q.per_atom and q.ase_name} | {"stresses"}


def opens(source: object) -> bool:
    """Whether it is a file, a folder of ``.aselmdb``, or a list of anything but paths."""
    if isinstance(source, str | Path):
        return file_of(source) is not None or any(_databases(Path(source)))
    if not isinstance(source, Sequence) or isinstance(source, bytes):
        return False
    return not len(source) or not all(isinstance(item, str | Path) for item in source)


def read(source: str | Path | Sequence[ase.Atoms], selection: Selection = None) -> Sequence[Entry]:
    if not isinstance(source, str | Path):
        return [_checked(atoms, k, selection) for k, atoms in enumerate(source)]
    path, name = Path(source), display_name(source)
    if path.suffix == SUFFIX or path.is_dir():
        return DatabaseEntries([path] if path.is_file() else _databases(path), selection)
    return [entry(atoms, k, name, selection) for k, atoms in enumerate(read_structures(path))]


def entry(atoms: ase.Atoms, index: int, name: str, selection: Selection = None) -> Entry:
    """The values that ASE keeps of a calculation: results, then ``info``, then per-atom arrays.

    The result ``stress`` is in Voigt's order by ASE's definition and becomes 3×3; six numbers of any other
    name are kept as they stand.
    """
    results = dict(atoms.calc.results) if atoms.calc is not None else {}
    if np.shape(results.get("stress", ())) == (6,):
        results["stress"] = voigt_6_to_full_3x3_stress(results["stress"])
    arrays = {k: v for k, v in atoms.arrays.items() if k not in ("numbers", "positions")}
    values = arrays | atoms.info | results
    per_atom = (atoms.arrays.keys() - atoms.info.keys()) | PER_ATOM_RESULTS
    return Entry(
        id=f"{name}[{atoms.info.get('config_id', index)}]",
        group=str(atoms.info.get("group", atoms.info.get("config_type", "other"))),
        atoms=ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc),
        values=selected(values, selection),
        per_atom=per_atom & values.keys(),
    )


def _checked(atoms: ase.Atoms, k: int, selection: Selection) -> Entry:
    if not isinstance(atoms, ase.Atoms):
        raise StructureError(f"structures[{k}]: got a {type(atoms).__qualname__}; expected ase.Atoms")
    check_structure(atoms, f"structures[{atoms.info.get('config_id', k)}]")
    return entry(atoms, k, "structures", selection)


def _databases(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []


class DatabaseEntries(LazyEntries):
    """The rows of ``.aselmdb`` files, the files in order; each is read when it is asked for."""

    def __init__(self, paths: Sequence[Path], selection: Selection = None):
        self.files, self.selection = [Rows(path) for path in paths], selection
        self.ends = list(accumulate(len(rows) for rows in self.files))

    def __len__(self) -> int:
        return self.ends[-1]

    def entry(self, k: int) -> Entry:
        place = bisect_right(self.ends, k)
        rows = self.files[place]
        row = k - (self.ends[place] - len(rows))
        return entry(rows[row], row, Path(rows.name).name, self.selection)


class MoleculeEntries(LazyEntries):
    """The frames of a file; holds its arrays and makes a structure when it is asked for."""

    def __init__(self, source: str | Path, selection: Selection = None):
        self.molecule, self.selection = molecule_npz.Molecule(Path(source)), selection
        self.name = display_name(source)

    def __len__(self) -> int:
        return len(self.molecule)

    def entry(self, k: int) -> Entry:
        atoms = self.molecule.atoms(k)
        check_structure(atoms, f"{self.molecule.path}: frame {k}")
        arrays = {"energies": self.molecule.energies, "forces": self.molecule.forces}
        values = {name: array[k] for name, array in arrays.items() if array is not None}
        return Entry(f"{self.name}[{k}]", "other", atoms, selected(values, self.selection))


def _code_output(source: str | Path, selection: Selection = None) -> list[Entry]:
    steps = code_output.converged_steps(Path(source), read_structures)
    return [entry(atoms, k, display_name(source), selection) for k, atoms in steps]


def _is_pymatgen(path: Path) -> bool:
    return pymatgen_json.opens(path) and not pymatgen_json.has_stress_convention(path)


KINDS = (
    Kind(code_output.is_output, _code_output, KEYS, ENERGY_UNITS, STRESS),
    Kind(
        molecule_npz.opens,
        MoleculeEntries,
        {"total_energy": ("energies",), "forces": ("forces",), "stress": ("stress",)},
        None,  # kcal/mol in MD17, but other sets of this form have eV
        ("eV/Å^3", 1, "voigt"),  # a molecule has no stress
    ),
    Kind(
        _is_pymatgen,
        read,
        KEYS | {"stress": (pymatgen_json.STORED_STRESS,)},
        "eV",
        None,  # usually VASP's kbar, pressure positive, but nothing says so
    ),
)
