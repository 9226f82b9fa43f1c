"""Energies and forces of one molecule in NumPy's ``.npz``: MD17, rMD17 and what sGDML writes.

MD17 (http://www.sgdml.org) and rMD17 (Christensen and von Lilienfeld, arXiv:2007.09593) have kcal/mol and
kcal/mol/Å. Other files of this form have eV or Hartree, so the unit is asked for.
"""

from __future__ import annotations

from pathlib import Path

from ...structures.checks import check_structure
from ...structures.formats import molecule_npz
from . import Entry, LazyEntries, Wanted, display_name, file_of

KEYS = {"total_energy": ("energies",), "forces": ("forces",), "stress": ("stress",)}
ENERGY_UNITS = None  # kcal/mol in MD17, but other sets of this form have eV
STRESS = ("eV/Å^3", 1, "voigt")  # of a molecule there is none


def opens(source: object) -> bool:
    return (path := file_of(source)) is not None and molecule_npz.opens(path)


def read(source: str | Path, wanted: Wanted = None) -> MoleculeEntries:
    return MoleculeEntries(Path(source), wanted)


class MoleculeEntries(LazyEntries):
    """The frames of a file; holds its arrays and makes a structure when it is asked for."""

    def __init__(self, path: Path, wanted: Wanted = None):
        self.molecule, self.wanted = molecule_npz.Molecule(path), wanted
        self.name = display_name(path)

    def __len__(self) -> int:
        return len(self.molecule)

    def entry(self, k: int) -> Entry:
        molecule = self.molecule
        atoms = molecule.atoms(k)
        check_structure(atoms, f"{molecule.path}: frame {k}")
        values: dict = {}
        for label, array in (("energies", molecule.energies), ("forces", molecule.forces)):
            if array is not None and (self.wanted is None or label in self.wanted):
                values[label] = float(array[k]) if array.ndim == 1 else array[k]
        return Entry(f"{self.name}[{k}]", "other", atoms, values)
