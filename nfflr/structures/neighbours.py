"""Neighbour search: all pairs of atoms and periodic images within a distance, in any cell."""

from __future__ import annotations

from dataclasses import dataclass

import ase
import numpy as np
from matscipy.neighbours import neighbour_list as matscipy_neighbours

from ..errors import ConfigError, StructureError
from .cells import check_cell, complete_box

Edges = tuple[np.ndarray, np.ndarray, np.ndarray]  # i (E,), j (E,), S (E, 3)
LEAST = 0.5  # Å; a shorter search would only lay more cells over the same few pairs


def neighbor_list(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float, backend: str = "auto"
) -> Edges:
    """All ordered pairs (i, j, S) with \\|x_j + S·cell − x_i\\| < cutoff, sorted by i.

    Args:
        positions: (N, 3), Å; atoms may lie outside the cell.
        cell: (3, 3), Å. Vectors along non-periodic axes may be anything, zero included.
        pbc: (3,) bool.
        cutoff: Å; may exceed the cell many times over.
        backend: ``"vesin"``, ``"matscipy"``, or ``"auto"`` for the faster: matscipy where some axes are
            periodic and some open (vesin slows down there with the open extent), vesin elsewhere. vesin
            imports torch, so code that works without torch asks for matscipy.

    Returns:
        i (E,), j (E,) int64 and S (E, 3) int64, the lattice translation for the positions as given.

    Raises:
        StructureError: a periodic axis has no cell vector, or a number is not finite.
        ConfigError: unknown backend, or a cutoff that is no length.
    """
    pbc = np.asarray(pbc, dtype=bool)
    if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
        raise StructureError("structure: a coordinate or the cell is not finite; check the file")
    check_cell(np.asarray(cell), pbc)
    if not (np.isfinite(cutoff) and cutoff > 0):
        raise ConfigError(f"neighbor_list: cutoff {cutoff}; expected a positive length (Å)")
    if backend == "auto":
        backend = "matscipy" if pbc.any() and not pbc.all() else "vesin"
    if backend not in BACKENDS:
        raise ConfigError(
            f"neighbor_list: unknown backend {backend!r}; expected auto or one of {sorted(BACKENDS)}"
        )
    if not len(positions):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3), np.int64)
    # Wrapping inside the search keeps its cost independent of where the atoms are; the shifts are
    # translated back, so the caller's coordinates are never touched.
    box, wrapped, image = _wrap(np.asarray(positions, float), np.asarray(cell, float), pbc)
    wrapped, box = _narrow_gaps(wrapped, box, pbc, cutoff)
    i, j, shift = BACKENDS[backend](wrapped, box, pbc, cutoff)
    if image.any():
        shift = shift + image.take(i, axis=0) - image.take(j, axis=0)
    return i, j, shift


@dataclass(frozen=True)
class ClosePairs:
    """Pairs of atoms, each once, sorted by distance."""

    first: np.ndarray  # (n,)
    second: np.ndarray  # (n,)
    shifts: np.ndarray  # (n, 3) whole lattice vectors to add to the second atom
    distances: np.ndarray  # (n,) Å


def close_pairs(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> ClosePairs:
    """Pairs of atoms at most ``cutoff`` Å apart, each once, an atom and its own image among them.

    Arguments as ``neighbor_list``'s; raises as it does.
    """
    i, j, shifts = neighbor_list(positions, cell, pbc, max(cutoff * (1 + 1e-9), LEAST), "matscipy")
    once = counted_once(i, j, shifts)
    i, j, shifts = i[once], j[once], shifts[once]
    translations = shifts @ np.where(np.asarray(pbc, bool)[:, None], cell, 0.0)  # (n, 3) Å
    distances = np.linalg.norm(positions[j] - positions[i] + translations, axis=1)
    order = np.argsort(distances, kind="stable")
    order = order[distances[order] <= cutoff]
    return ClosePairs(i[order], j[order], shifts[order], distances[order])


def same_atoms(atoms: ase.Atoms, others: ase.Atoms, tolerance: float = 0.02) -> bool:
    """Whether two periodic structures in one cell hold the same elements at the same places within Å."""
    if sorted(atoms.numbers) != sorted(others.numbers):
        return False
    joint = np.concatenate([atoms.positions, others.positions])  # (2 N, 3)
    pairs = close_pairs(joint, atoms.cell.array, atoms.pbc, tolerance)
    numbers, count = np.concatenate([atoms.numbers, others.numbers]), len(atoms)
    matching = (pairs.first < count) & (pairs.second >= count)
    matching &= numbers[pairs.first] == numbers[pairs.second]
    return len(set(pairs.first[matching])) == count == len(set(pairs.second[matching]))


def counted_once(i: np.ndarray, j: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Whether an edge stands for its pair, (E,) bool: of (i, j, S) and (j, i, −S), one does."""
    x, y, z = shifts.T
    positive = (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))
    return (i < j) | ((i == j) & positive)


def _wrap(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> tuple[np.ndarray, ...]:
    """Box, see ``complete_box``, wrapped positions, and integer images (N, 3)."""
    box = complete_box(cell, pbc)
    image = np.floor(positions @ np.linalg.inv(box))
    image[:, ~pbc] = 0
    wrapped = positions - image @ box
    if not pbc.all() and len(positions):
        wrapped = wrapped - wrapped.min(axis=0)  # a cluster far from the origin costs nothing extra
    return box, wrapped, image.astype(np.int64)


def _narrow_gaps(
    positions: np.ndarray, box: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray]:
    """Positions and box with every empty layer wider than two cutoffs narrowed to that width.

    No bond crosses such a layer, so none changes. Searches need memory for the cells that they lay over
    empty space (and vesin ends the process where there are too many): an atom that has flown off, or a cell
    given in the wrong unit, must cost nothing.
    """
    inverse = np.linalg.inv(box)
    widest = 2 * cutoff * np.linalg.norm(inverse, axis=0)  # (3,) in fractions of the box
    if pbc.all() and (widest >= 1).all():
        return positions, box
    fractions = positions @ inverse  # (N, 3)
    for k in range(3):
        order = np.argsort(fractions[:, k])
        place = fractions[order, k]
        steps = np.append(place, place[0] + 1) if pbc[k] else place
        excess = np.maximum(np.diff(steps) - widest[k], 0)  # the last is across the boundary if periodic
        if not excess.any():
            continue
        back = np.concatenate([[0.0], excess.cumsum()])  # (N,), and the whole box's if periodic
        moved = np.empty_like(positions)
        moved[order] = positions[order] - back[: len(order), None] * box[k]
        positions = moved
        if pbc[k]:
            box = np.where(np.arange(3)[:, None] == k, box * (1 - back[-1]), box)
    return positions, box


def _vesin(positions: np.ndarray, box: np.ndarray, pbc: np.ndarray, cutoff: float) -> Edges:
    import vesin  # it imports torch

    # One thread: callers that need more run several structures at once.
    # Each pair once, for less than half of what the sorted list of both directions costs.
    search = vesin.NeighborList(cutoff=cutoff, full_list=False, n_threads=1)
    try:
        i, j, shift = search.compute(positions, box, pbc, quantities="ijS")
    except RuntimeError:
        del search._neighbors  # after a failed allocation its own clean-up ends the process: rather leak
        raise
    i, j = np.concatenate([i, j]), np.concatenate([j, i])
    order = _stable_order(i)
    shift = np.concatenate([shift, -shift])
    return i[order].view(np.int64), j[order].view(np.int64), shift.take(order, axis=0).astype(np.int64)


def _stable_order(i: np.ndarray) -> np.ndarray:
    """``np.argsort(i, kind="stable")`` of indices (E,), as numpy's radix sort of 16 bits at a time."""
    digits = [(i >> shift).astype(np.uint16) for shift in range(0, int(i.max(initial=0)).bit_length(), 16)]
    return np.lexsort(digits) if digits else np.arange(len(i))


def _matscipy(positions: np.ndarray, box: np.ndarray, pbc: np.ndarray, cutoff: float) -> Edges:
    fractions = positions @ np.linalg.inv(box)  # (N, 3); along open axes its cell must hold the atoms
    positions = positions - np.where(pbc, 0.0, fractions.min(axis=0)) @ box
    box = np.where(pbc[:, None], box, box * (np.ptp(fractions, axis=0) + 2 * cutoff)[:, None])
    # It sorts atoms into boxes of the cutoff's size, of which a large cell has more than memory holds.
    boxes = max(100_000, len(positions))
    reach = max(cutoff, (abs(np.linalg.det(box)) / boxes) ** (1 / 3))
    quantities = "ijSd" if reach > cutoff else "ijS"
    i, j, shift, *distance = matscipy_neighbours(
        quantities, cutoff=reach, positions=positions, cell=box, pbc=pbc
    )
    order = _stable_order(i)
    if distance:
        order = order[distance[0][order] < cutoff]
    return i[order].astype(np.int64), j[order].astype(np.int64), shift[order].astype(np.int64)


BACKENDS = {"vesin": _vesin, "matscipy": _matscipy}
