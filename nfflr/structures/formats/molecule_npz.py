"""Trajectories of one molecule in NumPy's ``.npz``: MD17, rMD17 and what sGDML writes.

``z`` or ``nuclear_charges`` (N,) are atomic numbers; ``R`` or ``coords`` (F, N, 3) positions in Å. Labels are
not given here, since the file does not fix their unit: ``nfflr.data.sources.ase_files`` asks for it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

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
        self.names = set(self._loaded())
        unit = str(self._loaded("r_unit")["r_unit"]) if "r_unit" in self.names else LENGTHS[0]
        if unit.lower() not in LENGTHS:
            raise StructureError(f"{path}: lengths are in {unit}; convert them to Å")

    def __len__(self) -> int:
        return len(self.positions)

    @cached_property
    def numbers(self) -> np.ndarray:
        """Atomic numbers (N,)."""
        return self._array(self._name(NUMBERS, "atomic numbers"), "atomic numbers", (None,)).astype(int)

    @cached_property
    def positions(self) -> np.ndarray:
        """Positions (F, N, 3) in Å."""
        name = self._name(POSITIONS, "positions")
        return self._array(name, "positions", (None, len(self.numbers), 3))

    @cached_property
    def energies(self) -> np.ndarray | None:
        """Energies (F,) in the unit of the file, or None."""
        if not self.names.intersection(ENERGIES):
            return None
        energies = self._array(self._name(ENERGIES, "energies"), "energies").reshape(-1)
        if len(energies) != len(self):
            raise StructureError(f"{self.path}: has {len(energies)} energies and {len(self)} frames")
        return energies

    @cached_property
    def forces(self) -> np.ndarray | None:
        """Forces (F, N, 3) in the unit of energies per Å, or None."""
        if not self.names.intersection(FORCES):
            return None
        return self._array(self._name(FORCES, "forces"), "forces", self.positions.shape)

    def atoms(self, k: int) -> ase.Atoms:
        """Frame ``k``, without periodic boundaries."""
        return ase.Atoms(self.numbers, self.positions[k])

    def _name(self, names: tuple[str, str], what: str) -> str:
        for name in names:
            if name in self.names:
                return name
        raise StructureError(f"{self.path}: has no {what}; expected an array {' or '.join(names)}")

    def _array(self, name: str, what: str, shape: tuple[int | None, ...] | None = None) -> np.ndarray:
        """Numbers of a shape, of which None is any length."""
        array = self._loaded(name)[name]
        if array.dtype.kind not in "fiu":
            raise StructureError(f"{self.path}: {name} holds {array.dtype}; expected {what}")
        lengths = array.shape if shape is None else shape
        if array.ndim != len(lengths) or any(
            n not in (None, m) for n, m in zip(lengths, array.shape, strict=True)
        ):
            expected = ", ".join("frames" if n is None else str(n) for n in lengths)
            raise StructureError(
                f"{self.path}: {what} have shape {array.shape}, expected ({expected}); correct {name}"
            )
        return array.astype(float)

    def _loaded(self, *names: str) -> dict[str, Any]:
        """The arrays of these names; without names, all names without arrays."""
        try:
            with open(self.path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in names} if names else dict.fromkeys(archive.files)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            what = f"{names[0]} " if names else ""
            raise StructureError(
                f"{self.path}: {what}cannot be read ({error}); it is no .npz, or truncated: copy it again"
            ) from error
