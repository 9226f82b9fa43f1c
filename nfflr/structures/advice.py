"""Notes about a structure that can be computed but may not be what was meant."""

from __future__ import annotations

import ase
import numpy as np
from ase.data import covalent_radii

from ..notes import note
from .close_pairs import close_pairs
from .vacuum import VACUUM, widest_gaps

BONDED = (0.7, 1.35)  # shortest distance in a crystal, as a share of the sum of covalent radii


def advise(atoms: ase.Atoms, name: str) -> None:
    """Give a note about a cell that is filled as in a crystal, but periodic along no axis.

    A molecule in a box with vacuum, and one without a cell, need no note.
    """
    if atoms.cell.rank == 3 and not atoms.pbc.any() and _looks_periodic(atoms):
        note(
            f"{name}: has a cell that its atoms fill, but no periodic axis; it is computed as a cluster. "
            'For a crystal, switch the axes on (extended XYZ: pbc="T T T"; ASE: atoms.pbc = True)'
        )


def _looks_periodic(atoms: ase.Atoms) -> bool:
    """Whether the cell, repeated, would be a crystal: no wide gap, and bonds across its faces."""
    cell, everywhere = atoms.cell.array, np.ones(3, bool)
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    if (widest_gaps(atoms) > VACUUM).any():
        return False
    radii = covalent_radii[atoms.numbers]
    if heights.min() < 0.5:
        return False
    pairs = close_pairs(atoms.positions, cell, everywhere, BONDED[1] * 2 * radii.max())
    shares = pairs.distances / (radii[pairs.first] + radii[pairs.second])
    across = shares[pairs.shifts.any(axis=1)]
    return bool(len(across) and shares.min() >= BONDED[0] and across.min() <= BONDED[1])
