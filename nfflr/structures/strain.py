"""Strained copies of structures; strains are six numbers xx, yy, zz, yz, xz, xy (Voigt)."""

from __future__ import annotations

import ase
import numpy as np
from ase.stress import voigt_6_to_full_3x3_strain


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
