"""Pairs of atoms that are very close, in any cell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.geometry import minkowski_reduce
from scipy.spatial import cKDTree


@dataclass(frozen=True)
class ClosePairs:
    """Pairs, each once, sorted by distance.

    Attributes:
        first, second: (n,) atoms.
        shifts: (n, 3) whole lattice vectors to add to the second atom.
        distances: (n,) Å.
    """

    first: np.ndarray
    second: np.ndarray
    shifts: np.ndarray
    distances: np.ndarray


def close_pairs(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> ClosePairs:
    """Pairs of atoms at most ``cutoff`` Å apart, an atom and its own image among them.

    Time and memory grow with the number of atoms and of pairs.

    Args:
        positions: (N, 3) Å.
        cell: (3, 3) Å, rows are lattice vectors; those along open axes do not matter.
        pbc: (3,) periodic axes.
        cutoff: Å.
    """
    pbc = np.asarray(pbc, bool)
    if not pbc.any() or not len(positions):
        pairs = cKDTree(positions).query_pairs(cutoff, output_type="ndarray") if len(positions) else []
        pairs = np.array(pairs, int).reshape(-1, 2)
        return _sorted(positions, pairs, np.zeros((len(pairs), 3), int), np.zeros((3, 3)))
    full = completed(cell, pbc)
    reduced, operation = minkowski_reduce(full, pbc)  # reduced = operation @ full
    fractional = np.linalg.solve(reduced.T, positions.T).T
    base = np.where(pbc, np.floor(fractional), 0.0)  # (N, 3) cells that atoms are moved back by
    images, sources, steps = _images(fractional - base, reduced, pbc, cutoff)
    pairs = cKDTree(images @ reduced).query_pairs(cutoff * (1 + 1e-12), output_type="ndarray")
    pairs = pairs.reshape(-1, 2)
    # Of pairs that differ by a lattice vector, the one whose steps have no common part stands for all.
    pairs = pairs[(np.minimum(steps[pairs[:, 0]], steps[pairs[:, 1]]) == 0).all(axis=1)]
    swapped = sources[pairs[:, 0]] > sources[pairs[:, 1]]
    pairs = np.where(swapped[:, None], pairs[:, ::-1], pairs)
    atoms = sources[pairs]  # (n, 2)
    cells = steps[pairs] - base[atoms]  # (n, 2, 3) in reduced vectors
    shifts = np.rint((cells[:, 1] - cells[:, 0]) @ operation).astype(int)
    return _sorted(positions, atoms, shifts, full)


def completed(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """The cell with vectors of length 1 Å across the periodic ones in place of those along open axes."""
    full = np.where(np.asarray(pbc, bool)[:, None], cell, 0.0)
    if not pbc.all():
        basis = np.linalg.svd(full[pbc])[2][pbc.sum() :]  # (3 - n, 3), orthogonal to the periodic vectors
        full[~pbc] = basis
    return full


def _images(
    fractional: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atoms, then their images behind the cell's upper faces within the cutoff.

    Returns:
        fractional positions (M, 3), atoms (M,) that they are images of, steps (M, 3).
    """
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)  # Å between opposite faces
    positions, sources = fractional, np.arange(len(fractional))
    steps = np.zeros_like(fractional)
    for axis in np.flatnonzero(pbc):
        reach = cutoff / heights[axis] * (1 + 1e-9)
        parts = [(positions, sources, steps)]
        for step in range(1, int(np.ceil(reach)) + 1):
            near = positions[:, axis] + step <= 1 + reach
            shift = np.zeros(3)
            shift[axis] = step
            parts.append((positions[near] + shift, sources[near], steps[near] + shift))
        positions, sources, steps = (np.concatenate(part) for part in zip(*parts, strict=True))
    return positions, sources, steps


def _sorted(positions: np.ndarray, pairs: np.ndarray, shifts: np.ndarray, cell: np.ndarray) -> ClosePairs:
    vectors = positions[pairs[:, 1]] - positions[pairs[:, 0]] + shifts @ cell
    distances = np.linalg.norm(vectors, axis=1)
    order = np.argsort(distances, kind="stable")
    return ClosePairs(pairs[order, 0], pairs[order, 1], shifts[order], distances[order])
