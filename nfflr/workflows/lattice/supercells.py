"""Supercells of phonon calculations: their settings, shape and symmetry."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Literal

import ase
import numpy as np
import spglib
from ase.cell import Cell
from phonopy import Phonopy
from phonopy.structure.cells import compute_all_sg_permutations
from phonopy.structure.symmetry import Symmetry
from pydantic import Field, field_validator, model_validator
from scipy.spatial import cKDTree

from ...structures.cells import heights
from ...units import Unit
from ..framework.interface import Repeats, Settings

Nine = tuple[int, int, int, int, int, int, int, int, int]


class LatticeSettings(Settings):
    """How force constants are made, and where in reciprocal space they are looked at."""

    supercell: Repeats | None = Field(
        None, description="repeats of the cell; default: from --supercell-length"
    )
    supercell_matrix: Nine | None = Field(
        None, description="M row by row; the supercell is (a b c) M, as in phonopy; default: none"
    )
    supercell_length: Annotated[float, Unit("Å")] = Field(
        12.0, gt=0, description="without the two above: least distance between images in the supercell"
    )
    displacement: Annotated[float, Unit("Å")] = Field(0.01, gt=0, description="how far an atom is moved")
    relax: Literal["cell", "positions", "none"] = Field(
        "cell", description="what to relax before, with symmetry"
    )
    fmax: Annotated[float, Unit("eV/Å")] = Field(1e-4, gt=0, description="target of that relaxation")
    steps: int = Field(500, ge=0, description="most steps of that relaxation")
    symprec: Annotated[float, Unit("Å")] = Field(1e-5, gt=0, description="how well symmetry must be obeyed")
    symmetrize: bool = Field(True, description="impose translation and permutation on force constants")
    born: Path | None = Field(
        None, description="BORN file of phonopy, for the splitting of LO and TO; default: no splitting"
    )
    mesh: Repeats | None = Field(
        None, description="q-points along each axis, Γ among them; default: from --mesh-length"
    )
    mesh_length: Annotated[float, Unit("Å")] = Field(
        50.0, gt=0, description="without --mesh: its density, as a length over the cell vectors"
    )

    @field_validator("supercell_matrix", mode="before")
    @classmethod
    def _rows_in_a_row(cls, value):
        """A file of settings may hold three rows of three."""
        if isinstance(value, list | tuple) and all(isinstance(row, list | tuple) for row in value):
            return [number for row in value for number in row]
        return value

    @field_validator("supercell_matrix")
    @classmethod
    def _has_a_volume(cls, value):
        if value is not None and round(np.linalg.det(np.reshape(value, (3, 3)))) < 1:
            raise ValueError("needs a positive determinant, for a right-handed supercell")
        return value

    @model_validator(mode="after")
    def _one_supercell(self):
        if self.supercell is not None and self.supercell_matrix is not None:
            raise ValueError("--supercell and --supercell-matrix exclude each other; give one")
        return self


class ThermalSettings(LatticeSettings):
    """Temperatures as well."""

    t_min: Annotated[float, Unit("K")] = Field(0.0, ge=0, description="first temperature")
    t_max: Annotated[float, Unit("K")] = Field(1000.0, gt=0, description="last temperature")
    t_step: Annotated[float, Unit("K")] = Field(10.0, gt=0, description="step between temperatures")

    @model_validator(mode="after")
    def _a_range(self):
        if self.t_max <= self.t_min:
            raise ValueError("--t-max must lie above --t-min")
        return self

    def temperatures(self, beyond: int = 0) -> np.ndarray:
        """(T,) K from ``t_min`` to ``t_max``, and ``beyond`` more."""
        count = int((self.t_max - self.t_min) / self.t_step + 1e-9) + 1 + beyond
        return self.t_min + self.t_step * np.arange(count)


def supercell_matrix(unitcell: ase.Atoms, settings: LatticeSettings) -> np.ndarray:
    """The (3, 3) matrix M of the settings in phonopy's sense: vectors of the supercell are (a b c) M."""
    if settings.supercell_matrix is not None:
        return np.reshape(settings.supercell_matrix, (3, 3))
    if settings.supercell is not None:
        return np.diag(settings.supercell)
    return diagonal_supercell(unitcell, settings.supercell_length, settings.symprec)


def diagonal_supercell(unitcell: ase.Atoms, length: float, symprec: float = 1e-5) -> np.ndarray:
    """The smallest diagonal supercell in which no atom is nearer than ``length`` (Å) to an image of itself.

    It keeps the point group of the crystal: otherwise phonopy could use fewer symmetries, and force constants
    would be cut off at different distances along equivalent directions.
    """
    cell = unitcell.cell
    structure = (cell.array, unitcell.get_scaled_positions(), unitcell.numbers)
    symmetry = spglib.get_symmetry(structure, symprec=symprec)
    assert symmetry is not None  # errors are raised
    rotations = np.unique(symmetry["rotations"], axis=0)  # (n, 3, 3), they act on columns of coordinates
    # Where every height reaches the length every image does, so the answer lies at or below these numbers.
    most = int(np.ceil(length / heights(cell.array).min() - 1e-9))
    candidates = sorted(itertools.product(range(1, most + 1), repeat=3), key=lambda n: (np.prod(n), n))
    for repeats in candidates:
        matrix = np.diag(repeats)
        if _is_invariant(matrix, rotations) and shortest_image(matrix.T @ cell.array) >= length - 1e-9:
            return matrix
    raise AssertionError("the largest candidate satisfies both conditions")


def shortest_image(cell: np.ndarray) -> float:
    """Length of the shortest vector of a lattice, Å."""
    return float(Cell(cell).minkowski_reduce()[0].lengths().min())


def _is_invariant(matrix: np.ndarray, rotations: np.ndarray) -> bool:
    """Whether rotations map the superlattice onto itself."""
    turned = np.linalg.inv(matrix) @ rotations @ matrix
    return bool(np.allclose(turned, np.rint(turned), atol=1e-6))


class SupercellSymmetry(Symmetry):
    """Phonopy's, for cells with many pure translations.

    A 4×4×4 cubic cell of silicon has 12288 operations: 48 rotations times 256 translations. Phonopy walks
    through them one by one, several times. Only those stay that leave an independent atom where it is, those
    that take each other atom to its independent one, and one of each rotation; and which atom goes where
    is worked out for the 48 and the 256, and composed.
    """

    _composed = None

    def _set_symmetry_dataset(self) -> None:
        super()._set_symmetry_dataset()
        needed = self._needed()
        if needed is not None:
            indices, self._composed = needed
            operations = self._symmetry_operations
            self._symmetry_operations = {
                "rotations": operations["rotations"][indices],
                "translations": operations["translations"][indices],
            }

    def _set_atomic_permutations(self) -> None:
        if self._composed is None:
            super()._set_atomic_permutations()
        else:
            self._atomic_permutations = self._composed

    def _needed(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Indices (m,) of operations and where they take the atoms (m, N), or None if all are needed."""
        operations = self._symmetry_operations
        rotations, translations = operations["rotations"], operations["translations"]
        _, first, which = np.unique(rotations, axis=0, return_index=True, return_inverse=True)
        which = which.ravel()  # (n,) index of the rotation
        pure = np.flatnonzero((rotations == np.eye(3, dtype=int)).all(axis=(1, 2)))
        if len(pure) == 1 or len(first) == 1 or len(first) * len(pure) != len(rotations):
            return None
        shifts = translations - translations[first[which]]  # (n, 3) what follows the first of that rotation
        distance, after = cKDTree(_wrapped(translations[pure]), boxsize=1.0).query(_wrapped(shifts))
        shortest = np.linalg.norm(self._cell.cell, axis=1).min()
        if distance.max() > 10 * self._symprec / shortest:
            return None
        turned = self._match(rotations[first], translations[first])  # (R, N)
        moved = self._match(rotations[pure], translations[pure])  # (T, N)
        independent = np.unique(self._map_atoms)
        fixing = (moved[after[:, None], turned[:, independent][which]] == independent).any(axis=1)  # (n,)
        covering = _covering_rotations(turned, moved.min(axis=0), self._map_atoms)
        if covering is None:
            return None
        keep = fixing | np.isin(which, covering)
        keep[first] = True
        indices = np.flatnonzero(keep)
        return indices, np.take_along_axis(moved[after[indices]], turned[which[indices]], axis=1)

    def _match(self, rotations: np.ndarray, translations: np.ndarray) -> np.ndarray:
        return compute_all_sg_permutations(
            self._cell.scaled_positions,
            rotations,
            translations,
            np.array(self._cell.cell.T, dtype="double", order="C"),
            self._symprec,
            self._cell.totuple()[2],
            lang=self._lang,
        )


class SupercellPhonopy(Phonopy):
    """Phonopy with ``SupercellSymmetry``; displacements and force constants are the same.

    The hook is private to phonopy: were it renamed, phonopy's own search would take its place.
    """

    def _search_symmetry(self) -> None:
        self._symmetry = SupercellSymmetry(
            self._supercell,
            self._symprec,
            self._is_symmetry,
            s2p_map=self._primitive.s2p_map,
            lang=self._lang,
        )


def _covering_rotations(
    turned: np.ndarray, sublattice: np.ndarray, independent: np.ndarray
) -> list[int] | None:
    """Few rotations that, with all translations, take every atom to the independent one.

    ``turned`` (R, N) says where the first operation of each rotation takes the atoms, ``sublattice`` (N,) the
    first atom that pure translations lead to, ``independent`` (N,) the independent atom of each.
    """
    indices: list[int] = []
    for atom in np.unique(sublattice):
        fit = np.flatnonzero(sublattice[turned[:, atom]] == sublattice[independent[atom]])
        if len(fit) == 0:
            return None
        if not np.isin(fit, indices).any():
            indices.append(int(fit[0]))
    return indices


def _wrapped(fractional: np.ndarray) -> np.ndarray:
    inside = fractional % 1.0
    return np.where(inside >= 1.0, 0.0, inside)  # -1e-17 % 1 is 1
