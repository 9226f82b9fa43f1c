"""Pairs of atoms nearer than a cutoff, and a list of those that are, or soon may be, too near."""

from __future__ import annotations

from dataclasses import dataclass

import ase
import numpy as np

from ...structures.cells import complete_box
from ...structures.neighbours import counted_once, neighbor_list

NONE = (np.empty(0, dtype=int), np.empty(0, dtype=int), np.empty(0))
SKIN = 1.0  # Å beyond the reach, within which pairs are kept between two searches


def pairs(atoms: ase.Atoms, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both directions of all pairs nearer than a cutoff: i (P,), j (P,), distance (P,) Å."""
    i, j, _, distance = _search(atoms, cutoff)
    return i, j, distance


def _search(atoms: ase.Atoms, cutoff: float) -> tuple[np.ndarray, ...]:
    """As ``pairs``, with the shift (P, 3) of j in cell vectors before the distance."""
    i, j, shift = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff, "matscipy")
    bond = atoms.positions[j] - atoms.positions[i] + shift @ atoms.cell.array
    return i, j, shift, np.sqrt(np.einsum("ij,ij->i", bond, bond))


@dataclass
class _Candidates:
    """Pairs (P,), each once, that were within their reach and a skin where the search took place.

    The reach of pair p is ``reach[p]``; ``slack[p]``, what it was from there, ascends with p.
    """

    positions: np.ndarray  # (N, 3) Å, at the search
    cell: np.ndarray  # (3, 3) Å
    box: np.ndarray  # (3, 3) Å, with unit normals along open axes
    i: np.ndarray
    j: np.ndarray
    shift: np.ndarray  # (P, 3), in cell vectors
    reach: np.ndarray  # Å
    slack: np.ndarray  # Å


class NearPairs:
    """Finds pairs that are nearer than a reach for their elements, in a structure that changes step by step.

    Candidates are searched when an atom has moved half a skin. With a cell deformed by F since the search,
    and atoms moved by u at most beside it, a distance d is no less than σ d − 2u, where σ is the least
    singular value of F (``nfflr/data/verlet.py`` derives this bound). So a step looks only at pairs whose
    slack may be used up, which in a crystal are none. Memory and time grow as N.

    Args:
        numbers: (N,) atomic numbers.
        reach: (Z, Z) Å by atomic numbers, symmetric.
    """

    def __init__(self, numbers: np.ndarray, reach: np.ndarray):
        present, self._kind = np.unique(numbers, return_inverse=True)
        self._reach = reach[np.ix_(present, present)]  # (K, K)
        self._longest = float(self._reach.max())  # Å
        self._candidates: _Candidates | None = None
        self.searches = 0

    def forget(self) -> None:
        """Search anew for the next structure, whatever it is."""
        self._candidates = None

    def find(self, atoms: ase.Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs within their reach, each once: i (P,), j (P,), distance (P,) Å, of finite coordinates."""
        used = np.inf if self._candidates is None else self._used(atoms, self._candidates)
        if not used < SKIN:
            self._candidates, used = self._collect(atoms), 0.0
            self.searches += 1
        pairs = self._candidates
        assert pairs is not None
        count = int(np.searchsorted(pairs.slack, used, side="right"))
        if not count:
            return NONE
        i, j = pairs.i[:count], pairs.j[:count]
        bond = atoms.positions[j] - atoms.positions[i] + pairs.shift[:count] @ atoms.cell.array
        distance = np.sqrt(np.einsum("ij,ij->i", bond, bond))
        near = distance < pairs.reach[:count]
        return i[near], j[near], distance[near]

    def _used(self, atoms: ase.Atoms, pairs: _Candidates) -> float:
        """By how much a slack may have shrunk since the search, Å."""
        start, least = pairs.positions, 1.0
        if pairs.cell.tobytes() != atoms.cell.array.tobytes():
            if atoms.cell.rank < pairs.cell.any(axis=1).sum():
                return np.inf
            deformation = np.linalg.solve(pairs.box, complete_box(atoms.cell.array, atoms.pbc))
            start, least = start @ deformation, float(np.linalg.svd(deformation, compute_uv=False)[-1])
        if not least > 0:
            return np.inf
        moved = atoms.positions - start
        furthest = np.sqrt(np.einsum("ij,ij->i", moved, moved).max(initial=0.0))
        return float((max(0.0, 1 - least) * self._longest + 2 * furthest) / least)

    def _collect(self, atoms: ase.Atoms) -> _Candidates:
        i, j, shift, distance = _search(atoms, self._longest + SKIN)
        reach = self._reach[self._kind[i], self._kind[j]]
        slack = distance - reach
        kept = np.flatnonzero((slack < SKIN) & counted_once(i, j, shift))
        kept = kept[np.argsort(slack[kept], kind="stable")]
        shift, cell = shift[kept].astype(float), atoms.cell.array.copy()
        box, positions = complete_box(cell, atoms.pbc), atoms.positions.copy()
        return _Candidates(positions, cell, box, i[kept], j[kept], shift, reach[kept], slack[kept])
