"""The order of atoms in two structures: whether the second lists the same atoms in another order."""

from __future__ import annotations

import ase
import numpy as np
from ase.geometry import find_mic
from scipy.optimize import linear_sum_assignment

FEWER = 0.25  # atoms change places if squared displacements along their cycle shrink below this fraction
APART = 0.5  # Å that one of them has to move at least, or they only trade small displacements


def displacements(initial: ase.Atoms, final: ase.Atoms) -> np.ndarray:
    """Shortest displacement (N, 3) of each atom, Å, in the periodic cell of ``initial``."""
    shortest: np.ndarray = find_mic(final.positions - initial.positions, initial.cell, initial.pbc)[0]
    return shortest


def nearest_order(initial: ase.Atoms, final: ase.Atoms) -> np.ndarray:
    """The order (N,) of the atoms of ``final`` with the least sum of squared displacements from ``initial``.

    ``final[order]`` has the elements of ``initial``, atom by atom: a linear assignment within each element.
    Both hold the same number of atoms of each element.
    """
    order = np.arange(len(initial))
    for number in np.unique(initial.numbers):
        ours, theirs = np.flatnonzero(initial.numbers == number), np.flatnonzero(final.numbers == number)
        cost = np.array([_squared(initial, final.positions[theirs], int(k)) for k in ours])  # (n, n)
        rows, columns = linear_sum_assignment(cost)
        order[ours[rows]] = theirs[columns]
    return order


def _squared(initial: ase.Atoms, positions: np.ndarray, atom: int) -> np.ndarray:
    vectors = positions - initial.positions[atom]
    squared: np.ndarray = np.square(find_mic(vectors, initial.cell, initial.pbc)[1])
    return squared


def exchanged(initial: ase.Atoms, final: ase.Atoms) -> list[list[int]]:
    """Groups of atoms that change places, as another order of the same atoms would make them.

    Atom for atom, ``final`` holds the elements of ``initial``. In a group each atom ends where another one
    began, and without the exchange the group would move far less. A hop that pushes a neighbour on is no
    exchange: one of its two atoms ends where none was.
    """
    moved = np.square(displacements(initial, final)).sum(axis=1)  # (N,)
    far = np.flatnonzero(moved > APART**2)
    order = np.arange(len(initial))
    if len(far) > 1:  # all others stay, so they have no part in it
        order[far] = far[nearest_order(initial[far], final[far])]
    groups = []
    for cycle in _cycles(order):
        straight = np.square(displacements(initial[cycle], final[order[cycle]])).sum()
        if straight < FEWER * moved[cycle].sum():
            groups.append(sorted(cycle))
    return groups


def _cycles(order: np.ndarray) -> list[list[int]]:
    """Cycles of more than one member of a permutation (N,)."""
    cycles, visited = [], np.zeros(len(order), bool)
    for start in range(len(order)):
        cycle, k = [], start
        while not visited[k]:
            visited[k] = True
            cycle.append(k)
            k = int(order[k])
        if len(cycle) > 1:
            cycles.append(cycle)
    return cycles
