"""The supercell of a phonon calculation."""

from __future__ import annotations

import itertools

import ase
import numpy as np
import spglib
from ase.cell import Cell

from .phonon_settings import LatticeSettings


def supercell_matrix(unitcell: ase.Atoms, settings: LatticeSettings) -> np.ndarray:
    """The (3, 3) matrix M of the settings in phonopy's sense: vectors of the supercell are (a b c) M."""
    if settings.supercell_matrix is not None:
        return np.reshape(settings.supercell_matrix, (3, 3))
    if settings.supercell is not None:
        return np.diag(settings.supercell)
    return diagonal_supercell(unitcell, settings.supercell_length, settings.symprec)


def diagonal_supercell(unitcell: ase.Atoms, length: float, symprec: float = 1e-5) -> np.ndarray:
    """The smallest diagonal supercell in which no atom is nearer than ``length`` (Å) to an image of itself.

    Supercells that break the point group of the crystal are left out: phonopy could use fewer symmetries,
    and force constants would be cut off at different distances along equivalent directions.
    """
    cell = unitcell.cell
    rotations = _rotations(unitcell, symprec)
    # Where every height reaches the length every image does, so the answer lies at or below these numbers.
    heights = 1 / np.linalg.norm(cell.reciprocal(), axis=1)
    most = int(np.ceil(length / heights.min() - 1e-9))
    candidates = sorted(itertools.product(range(1, most + 1), repeat=3), key=lambda n: (np.prod(n), n))
    for repeats in candidates:
        matrix = np.diag(repeats)
        if _keeps(matrix, rotations) and shortest_image(matrix.T @ cell.array) >= length - 1e-9:
            return matrix
    raise AssertionError("the largest candidate satisfies both conditions")


def shortest_image(cell: np.ndarray) -> float:
    """Length of the shortest vector of a lattice, Å."""
    return float(Cell(cell).minkowski_reduce()[0].lengths().min())


def _rotations(unitcell: ase.Atoms, symprec: float) -> np.ndarray:
    """Point group of the crystal in the basis of the cell, (n, 3, 3); W acts on columns of coordinates."""
    structure = (unitcell.cell.array, unitcell.get_scaled_positions(), unitcell.numbers)
    found = spglib.get_symmetry(structure, symprec=symprec)
    assert found is not None  # errors are raised
    return np.unique(found["rotations"], axis=0)


def _keeps(matrix: np.ndarray, rotations: np.ndarray) -> bool:
    """Whether rotations map the superlattice onto itself."""
    turned = np.linalg.inv(matrix) @ rotations @ matrix
    return bool(np.allclose(turned, np.rint(turned), atol=1e-6))
