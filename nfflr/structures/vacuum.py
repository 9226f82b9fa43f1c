"""Vacuum in a cell: gaps between planes of atoms that are wider than any crystal has."""

from __future__ import annotations

import ase
import numpy as np
from ase.data import covalent_radii

from ..notes import note
from .neighbours import close_pairs, heights

VACUUM = 4.5  # Å; a wider gap between planes of atoms separates a molecule or a slab from its images
BONDED = (0.7, 1.35)  # shortest distance in a crystal, as a share of the sum of covalent radii


def widest_gaps(atoms: ase.Atoms) -> np.ndarray:
    """Widest gap between neighbouring planes of atoms parallel to each face of the cell, (3,) Å.

    Args:
        atoms: with a cell that has a volume; images along every axis count, whether periodic or not.
    """
    cell = atoms.cell.array
    planes = np.sort(np.linalg.solve(cell.T, atoms.positions.T).T % 1, axis=0)  # (N, 3)
    gaps: np.ndarray = np.diff(planes, axis=0, append=planes[:1] + 1).max(axis=0) * heights(cell)
    return gaps


def vacuum_axes(atoms: ase.Atoms) -> list[str]:
    """Names of the periodic axes along which there is vacuum, ``["c"]`` of a slab."""
    if atoms.cell.rank < 3:
        return []
    gaps = widest_gaps(atoms)
    return ["abc"[k] for k in range(3) if atoms.pbc[k] and gaps[k] > VACUUM]


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
    if heights(cell).min() < 0.5 or (widest_gaps(atoms) > VACUUM).any():
        return False
    radii = covalent_radii[atoms.numbers]
    pairs = close_pairs(atoms.positions, cell, everywhere, BONDED[1] * 2 * radii.max())
    shares = pairs.distances / (radii[pairs.first] + radii[pairs.second])
    across = shares[pairs.shifts.any(axis=1)]
    return bool(len(across) and shares.min() >= BONDED[0] and across.min() <= BONDED[1])
