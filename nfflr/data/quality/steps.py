"""Pairs of structures that differ little, and the work that their forces and stresses do between them.

Between two structures of the same atoms dE = −F·du + V σ:dε, where u are positions at fixed strain. The mean
of both ends times the step is exact for a harmonic crystal and leaves an error of third order otherwise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import ase
import numpy as np
from scipy.linalg import expm

from ...structures.cells import complete_box, logarithmic_strain
from ..records import Record

WINDOW = 40  # structures of a family among which pairs are looked for
MOST_FRAMES = 600  # structures that are looked at, in windows spread over a large set
PARTNERS = 3  # the nearest structures that each is compared with
LARGEST_STEP = 1.2  # Å, of any atom
LARGEST_STRAIN = 0.1
LEAST_STEP = 1e-4  # Å; copies
SAME_CELL = 1e-6  # Å


@dataclass(frozen=True)
class Step:
    """From one structure to another of the same atoms.

    Attributes:
        first, second: their places in the data.
        family: the place of the first structure of these atoms in the data.
        moved: (N, 3) Å, the way of each atom at the mean strain; their mean is zero.
        strain: (3, 3), logarithmic, in the frame of the first.
        turn: (3, 3), the rotation that brings vectors v of the second to the first as ``turn @ v``.
        volumes: (2,) Å³, NaN where there is no volume.
    """

    first: int
    second: int
    family: int
    moved: np.ndarray
    strain: np.ndarray
    turn: np.ndarray
    volumes: np.ndarray

    @property
    def largest(self) -> float:
        """The longest way of an atom (Å)."""
        return float(np.sqrt(np.sum(self.moved**2, axis=1).max()))

    @property
    def size(self) -> float:
        """Root mean square of the atoms' ways, with that of the strained cell (Å)."""
        length = np.cbrt(self.volumes.mean()) if np.isfinite(self.volumes).all() else 0.0
        square = np.mean(np.sum(self.moved**2, axis=1)) + np.sum((self.strain * length) ** 2) / 12
        return float(np.sqrt(square))

    def force_work(self, first: np.ndarray, second: np.ndarray) -> float:
        """−⟨F⟩·Δu (eV) for forces (N, 3) of both ends (eV/Å)."""
        return float(-np.sum((first + second @ self.turn.T) * self.moved) / 2)

    def strain_work(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """⟨Vσ⟩·ε of each component (3, 3), for V σ (eV) of both ends; its sum is the work."""
        return (first + self.turn @ second @ self.turn.T) / 2 * self.strain


def near_steps(records: Sequence[Record]) -> list[Step]:
    """Pairs of near structures with energies: the nearest partners of each, in the order of the data."""
    families: dict[tuple, list[int]] = defaultdict(list)
    for k, record in enumerate(records):
        if "total_energy" in record.labels and len(record.atoms) > 1:
            families[record.atoms.numbers.tobytes(), record.atoms.pbc.tobytes()].append(k)
    total = sum(map(len, families.values()))
    share = min(1.0, MOST_FRAMES / max(1, total))
    steps = []
    for family in families.values():
        for window in _windows(family, share):
            steps += _nearest(window, [records[k].atoms for k in window], family[0])
    return steps


def _windows(family: Sequence[int], share: float) -> Iterator[Sequence[int]]:
    """Runs of neighbouring frames, spread over a family that has more than its share allows."""
    count = max(1, round(share * len(family) / WINDOW)) if share < 1 else -(-len(family) // WINDOW)
    for start in np.linspace(0, len(family), count, endpoint=False).astype(int):
        yield family[start : start + WINDOW]


def _nearest(window: Sequence[int], structures: Sequence[ase.Atoms], family: int) -> list[Step]:
    places = [_scaled(atoms) for atoms in structures]
    steps: dict[tuple[int, int], Step] = {}
    for a, b in combinations(range(len(window)), 2):
        way = _way(structures[a], structures[b], places[a], places[b])
        if way is not None:
            step = Step(window[a], window[b], family, way[0] - way[0].mean(axis=0), *way[1:])
            if step.largest < LARGEST_STEP and step.size > LEAST_STEP:
                steps[a, b] = step
    kept = set()
    for k in range(len(window)):
        own = sorted((step.size, pair) for pair, step in steps.items() if k in pair)
        kept |= {pair for _, pair in own[:PARTNERS]}
    return [steps[pair] for pair in sorted(kept)]


def _scaled(atoms: ase.Atoms) -> np.ndarray:
    """Fractional coordinates (N, 3) where all axes are periodic, else positions."""
    return np.linalg.solve(atoms.cell.array.T, atoms.positions.T).T if atoms.pbc.all() else atoms.positions


def _way(first: ase.Atoms, second: ase.Atoms, places: np.ndarray, others: np.ndarray) -> tuple | None:
    """Ways of atoms, strain, rotation and volumes from one structure to another; None if it is too far."""
    if first.pbc.all():
        return _crystal(first, second, others - places)
    nothing = np.zeros((3, 3)), np.eye(3), np.full(2, np.nan)
    if not first.pbc.any():
        turn = _turn(places, others)
        return (
            (others - others.mean(axis=0)) @ turn.T - (places - places.mean(axis=0)),
            *nothing[:1],
            turn,
            nothing[2],
        )
    boxes = [complete_box(x.cell.array, x.pbc) for x in (first, second)]
    if np.abs(boxes[0] - boxes[1]).max() > SAME_CELL:
        return None
    moved = np.linalg.solve(boxes[0].T, (others - places).T).T
    return (moved - _images(moved) * first.pbc) @ boxes[0], *nothing


def _crystal(first: ase.Atoms, second: ase.Atoms, moved: np.ndarray) -> tuple | None:
    cells = first.cell.array, second.cell.array
    moved = moved - _images(moved)
    moved = moved - moved.mean(axis=0)
    lengths = np.linalg.norm(cells[0], axis=1)
    if np.abs(moved * lengths).max() > 3 * LARGEST_STEP:  # most pairs end here
        return None
    turn, strain = np.eye(3), np.zeros((3, 3))
    if np.abs(cells[0] - cells[1]).max() > SAME_CELL:
        if np.linalg.det(np.linalg.solve(*cells)) <= 0.5:
            return None
        turn, strain = logarithmic_strain(*cells)
        if np.linalg.norm(strain, 2) > LARGEST_STRAIN:
            return None
    middle = cells[0] @ (np.eye(3) + expm(strain)) / 2
    return moved @ middle, strain, turn, np.array([first.get_volume(), second.get_volume()])


def _images(moved: np.ndarray) -> np.ndarray:
    """Lattice steps (N, 3) to take from fractional ways (N, 3), whatever the whole structure drifted."""
    return np.round(moved - moved[0]) + np.round(moved[0])


def _turn(places: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The rotation (3, 3) that lays a molecule onto another (Kabsch, Acta Cryst. A 32, 922 (1976))."""
    u, _, v = np.linalg.svd((others - others.mean(axis=0)).T @ (places - places.mean(axis=0)))
    return (u * [1, 1, np.sign(np.linalg.det(u @ v))] @ v).T
