"""Trajectories of one molecule in NumPy's ``.npz``: MD17, rMD17 and what sGDML writes.

``z`` or ``nuclear_charges`` (N,) are atomic numbers; ``R`` or ``coords`` (F, N, 3) positions in Å. Labels are
not given here, since the file does not fix their unit: ``nfflr.data.sources.molecule_npz_labels`` asks for
it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import ase
import numpy as np

from ...errors import StructureError

NUMBERS = ("nuclear_charges", "z")
POSITIONS = ("coords", "R")
ENERGIES = ("energies", "E")
FORCES = ("forces", "F")
LENGTHS = ("ang", "a", "å", "angstrom")


def opens(path: Path) -> bool:
    """Whether the name ends in ``.npz``; no other format of structures does."""
    return path.suffix == ".npz"


def read(path: Path) -> Iterator[ase.Atoms]:
    """Every frame, without labels; raises StructureError as ``Molecule``."""
    molecule = Molecule(path)
    yield from (molecule.atoms(k) for k in range(len(molecule)))


class Molecule:
    """Arrays of a file, read once when they are asked for.

    Raises:
        StructureError: the file is damaged, or an array is missing or has another shape; names it.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                self.names = set(archive.files)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise StructureError(f"{path}: cannot be read ({error}); it is no .npz or truncated") from error
        if "r_unit" in self.names and str(self._load("r_unit")).lower() not in LENGTHS:
            raise StructureError(f"{path}: lengths are in {self._load('r_unit')}; convert them to Å")

    def __len__(self) -> int:
        return len(self.positions)

    @cached_property
    def numbers(self) -> np.ndarray:
        """Atomic numbers (N,)."""
        return self._array(NUMBERS, 1, "atomic numbers").astype(int)

    @cached_property
    def positions(self) -> np.ndarray:
        """Positions (F, N, 3) in Å."""
        positions = self._array(POSITIONS, 3, "positions")
        if positions.shape[1:] != (len(self.numbers), 3):
            raise StructureError(
                f"{self.path}: positions have shape {positions.shape}, expected (frames, "
                f"{len(self.numbers)}, 3)"
            )
        return positions

    @cached_property
    def energies(self) -> np.ndarray | None:
        """Energies (F,) in the unit of the file, or None."""
        if not self.names.intersection(ENERGIES):
            return None
        energies = self._array(ENERGIES, None, "energies").reshape(-1)
        if len(energies) != len(self):
            raise StructureError(f"{self.path}: has {len(energies)} energies and {len(self)} frames")
        return energies

    @cached_property
    def forces(self) -> np.ndarray | None:
        """Forces (F, N, 3) in the unit of energies per Å, or None."""
        if not self.names.intersection(FORCES):
            return None
        forces = self._array(FORCES, 3, "forces")
        if forces.shape != self.positions.shape:
            raise StructureError(
                f"{self.path}: forces have shape {forces.shape}, expected {self.positions.shape}"
            )
        return forces

    def atoms(self, k: int) -> ase.Atoms:
        """Frame ``k``, without periodic boundaries."""
        return ase.Atoms(self.numbers, self.positions[k])

    def _array(self, names: tuple[str, str], dimensions: int | None, what: str) -> np.ndarray:
        name = next((name for name in names if name in self.names), None)
        if name is None:
            raise StructureError(f"{self.path}: has no {what}; expected an array {' or '.join(names)}")
        array = self._load(name)
        if array.dtype.kind not in "fiu" or (dimensions is not None and array.ndim != dimensions):
            raise StructureError(
                f"{self.path}: {name} holds {array.dtype} of shape {array.shape}; expected {what}"
            )
        return array.astype(float)

    def _load(self, name: str) -> np.ndarray:
        try:
            with open(self.path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                array: np.ndarray = archive[name]
                return array
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise StructureError(
                f"{self.path}: {name} cannot be read ({error}); copy the file again"
            ) from error
