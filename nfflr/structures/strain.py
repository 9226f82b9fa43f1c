"""Strain: copies of structures under it, and the strain between two cells."""

from __future__ import annotations

import ase
import numpy as np
from ase.stress import voigt_6_to_full_3x3_strain
from scipy.linalg import polar


def strained(atoms: ase.Atoms, strain: np.ndarray) -> ase.Atoms:
    """Copy under a strain (6,) without rotation, shears as engineering strains; positions follow the cell.

    Example:
        >>> from ase.build import bulk
        >>> silicon = bulk("Si", cubic=True)
        >>> longer = strained(silicon, np.array([0.01, 0, 0, 0, 0, 0]))
        >>> round(longer.cell.lengths()[0] / silicon.cell.lengths()[0], 3)
        1.01
    """
    copy: ase.Atoms = atoms.copy()
    copy.set_cell(atoms.cell.array @ voigt_6_to_full_3x3_strain(strain), scale_atoms=True)  # ASE adds one
    return copy


def logarithmic_strain(reference: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rotation and the logarithmic strain between two cells (3, 3) of one handedness.

    Returns:
        turn (3, 3), which brings a vector v of ``cell`` into the frame of the reference as ``turn @ v``;
        strain (3, 3), symmetric, in that frame.
    """
    turn, stretch = polar(np.linalg.solve(reference, cell), side="left")
    values, axes = np.linalg.eigh(stretch)
    return turn, (axes * np.log(np.maximum(values, 1e-3))) @ axes.T
