"""Vacuum in a cell: gaps between planes of atoms that are wider than any crystal has."""

from __future__ import annotations

import ase
import numpy as np

VACUUM = 4.5  # Å; a wider gap between planes of atoms separates a molecule or a slab from its images


def widest_gaps(atoms: ase.Atoms) -> np.ndarray:
    """Widest gap between neighbouring planes of atoms parallel to each face of the cell, (3,) Å.

    Args:
        atoms: with a cell that has a volume; images along every axis count, whether periodic or not.
    """
    cell = atoms.cell.array
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)  # (3,) Å
    planes = np.sort(np.linalg.solve(cell.T, atoms.positions.T).T % 1, axis=0)  # (N, 3)
    gaps: np.ndarray = np.diff(planes, axis=0, append=planes[:1] + 1).max(axis=0) * heights
    return gaps


def vacuum_axes(atoms: ase.Atoms) -> list[str]:
    """Names of the periodic axes along which there is vacuum, ``["c"]`` of a slab."""
    if atoms.cell.rank < 3:
        return []
    gaps = widest_gaps(atoms)
    return ["abc"[k] for k in range(3) if atoms.pbc[k] and gaps[k] > VACUUM]
