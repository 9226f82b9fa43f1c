"""Whether energies change between near structures by the work of the forces and stresses beside them.

Between two structures of the same atoms dE = −F·du + V σ:dε, where u are positions at fixed strain. The mean
of both ends times the step is exact for a harmonic crystal and leaves an error of third order otherwise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Annotated

import ase
import numpy as np
from scipy.linalg import expm

from ...structures.cells import complete_box, logarithmic_strain
from ...units import GPA, Unit
from ..records import Record

WINDOW = 40  # structures of a family among which pairs are looked for
MOST_FRAMES = 600  # structures that are looked at, in windows spread over a large set
PARTNERS = 3  # the nearest structures that each is compared with
LARGEST_STEP = 1.2  # Å, of any atom
LARGEST_STRAIN = 0.1
LEAST_STEP = 1e-4  # Å; copies
SAME_CELL = 1e-6  # Å

SHORT = 0.45  # Å; longer steps count only where there are few of these
ENOUGH = 12  # steps
STILL = 1e-6  # Å; atoms that moved with the cell
FEWEST = 3  # independent changes of energy beyond the numbers that are fitted
SHARP = (0.2, 0.3)  # relative error of a slope that says something: of long steps, and of short ones
ROUNDS = 20  # of the robust fit
FAINT = 0.05  # of a column's strength; less work than this says nothing
NOTHING = 1e-5  # of changes of energy; a column is rounding below
NOISE = 0.02  # of typical changes of energy; no fit of so few terms is better

SAME_SITE = 1e-3  # of a lattice vector; atoms that moved with the cell
LARGEST_CELL_STRAIN = 0.06  # beyond it the mean of two stresses is not the mean along the way
TOLERATED = 0.5 * GPA
LEAST_CHANGE = 0.005  # of tr ε over the cells
LEAST_CELLS = 8  # strained cells


@dataclass(frozen=True)
class Step:
    """The way from one structure to another of the same atoms.

    Attributes:
        first, second, family: places in the data of both, and of the first structure of these atoms.
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
    nearest = set()
    for k in range(len(window)):
        own = sorted((step.size, pair) for pair, step in steps.items() if k in pair)
        nearest |= {pair for _, pair in own[:PARTNERS]}
    return [steps[pair] for pair in sorted(nearest)]


def _scaled(atoms: ase.Atoms) -> np.ndarray:
    """Fractional coordinates (N, 3) where all axes are periodic, else positions."""
    return np.linalg.solve(atoms.cell.array.T, atoms.positions.T).T if atoms.pbc.all() else atoms.positions


def _way(first: ase.Atoms, second: ase.Atoms, places: np.ndarray, others: np.ndarray) -> tuple | None:
    """Ways of atoms, strain, rotation and volumes from one structure to another; None if it is too far."""
    if first.pbc.all():
        return _crystal(first, second, others - places)
    no_strain, no_turn, no_volumes = np.zeros((3, 3)), np.eye(3), np.full(2, np.nan)
    if not first.pbc.any():
        turn = _turn(places, others)
        moved = (others - others.mean(axis=0)) @ turn.T - (places - places.mean(axis=0))
        return moved, no_strain, turn, no_volumes
    boxes = [complete_box(x.cell.array, x.pbc) for x in (first, second)]
    if np.abs(boxes[0] - boxes[1]).max() > SAME_CELL:
        return None
    moved = np.linalg.solve(boxes[0].T, (others - places).T).T
    return (moved - _images(moved) * first.pbc) @ boxes[0], no_strain, no_turn, no_volumes


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


@dataclass(frozen=True)
class Slope:
    """The ratio of changes of energy to those that the labels predict; one where they agree.

    Attributes:
        value, error: of the fit, with its standard error.
        count: steps between structures.
        short: whether all of them are short, so that the error holds all of it.
    """

    value: float
    error: float
    count: int
    short: bool = False

    @property
    def sharp(self) -> bool:
        """Whether the steps settle it."""
        return self.count >= FEWEST and self.error < SHARP[self.short] * abs(self.value)

    def __str__(self) -> str:
        return f"{self.value:.3g} ± {self.error:.1g}"


@dataclass(frozen=True)
class Agreement:
    """Slopes of energies along forces, stresses, and their normal and shear parts; None where data do not
    show them. ``residual`` is the typical part of a change of energy that is not explained.
    """

    forces: Slope | None = None
    stress: Slope | None = None
    normal: Slope | None = None
    shear: Slope | None = None
    residual: float = 1.0


def agreement(records: Sequence[Record], steps: Sequence[Step] | None = None) -> Agreement:
    """Fit changes of energy over ``near_steps`` to the work of forces and of stresses."""
    steps = near_steps(records) if steps is None else steps
    pushed = [s for s in steps if "forces" in _shared(records, s)]
    still = [s for s in pushed if not s.strain.any()]
    slopes, _ = _slopes(records, still if len(still) >= ENOUGH else pushed, shear=False)
    strained = [s for s in steps if s.strain.any() and "stress" in _shared(records, s)]
    strained = [s for s in strained if s.largest < STILL or "forces" in _shared(records, s)]
    both, residual = _slopes(records, strained, shear=False)
    parts, _ = _slopes(records, strained, shear=True)
    return Agreement(slopes[0], both[1], parts[1], parts[2], residual)


def _shared(records: Sequence[Record], step: Step) -> Set[str]:
    return records[step.first].labels.keys() & records[step.second].labels.keys()


def _slopes(
    records: Sequence[Record], steps: Sequence[Step], shear: bool
) -> tuple[list[Slope | None], float]:
    """Slopes along forces and stresses, or along forces, normal and shear stresses; the unexplained part."""
    near = [s for s in steps if s.largest < SHORT]
    steps = near if len(near) >= ENOUGH else steps
    columns = 3 if shear else 2
    if not steps:
        return [None] * columns, 1.0
    rows = np.array([_row(records, step) for step in steps])  # (steps, 4)
    sizes = np.array([step.size for step in steps])
    atoms = np.array([len(step.moved) for step in steps])
    weight = 1 / (sizes**3 * np.sqrt(atoms) + 1e-3 * np.median(sizes))
    rows, places, terms = _without_strain(rows, weight, records, steps)
    if not len(places):
        return [None] * columns, 1.0
    families = {steps[k].family for k in places}
    structures = {end for k in places for end in (steps[k].first, steps[k].second)}
    freedom = len(structures) - len(families) - terms  # differences of energy that are independent
    change, forces, *stresses = rows[places].T
    design = [forces, *(stresses if shear else [sum(stresses)])]
    slopes, residual = _fit(change, np.stack(design, axis=1), weight[places], freedom)
    short = len(steps) == len(near)
    return [slope and replace(slope, short=short) for slope in slopes], residual


def _row(records: Sequence[Record], step: Step) -> tuple[float, float, float, float]:
    """Change of energy, work of forces, and of normal and shear stresses (eV)."""
    first, second = (records[k].labels for k in (step.first, step.second))
    change = float(second["total_energy"] - first["total_energy"])
    both = first.keys() & second.keys()
    forces = step.force_work(first["forces"], second["forces"]) if "forces" in both else 0.0
    normal = shear = 0.0
    if "stress" in both and step.strain.any():
        virials = (volume * x["stress"] for volume, x in zip(step.volumes, (first, second), strict=True))
        work = step.strain_work(*virials)
        normal, shear = float(np.trace(work)), float(work.sum() - np.trace(work))
    return change, forces, normal, shear


def _without_strain(
    rows: np.ndarray, weight: np.ndarray, records: Sequence[Record], steps: Sequence[Step]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Rows less the effect of strain where no stress explains it; the rows that serve; the number of terms.

    In a family of the same atoms the effect is a polynomial of second order in the invariants of strain.
    """
    families = defaultdict(list)
    for k, step in enumerate(steps):
        if step.strain.any() and not rows[k, 2:].any():
            families[step.family].append(k)
    rows, count, dropped = rows.copy(), 0, list[int]()
    for family, members in families.items():
        cell = records[family].atoms.cell.array
        ends = [(records[steps[k].first], records[steps[k].second]) for k in members]
        terms = np.array([_invariants(cell, second) - _invariants(cell, first) for first, second in ends])
        if len(members) < terms.shape[1] + 2 * FEWEST:
            dropped += members
            continue
        scale, count = weight[members, None], count + terms.shape[1]
        solution = np.linalg.lstsq(terms * scale, rows[members] * scale, rcond=None)[0]
        rows[members] -= terms @ solution
    return rows, np.setdiff1d(np.arange(len(rows)), dropped), count


def _invariants(reference: np.ndarray, record: Record) -> np.ndarray:
    """tr ε, (tr ε)² and ε:ε of the logarithmic strain of a structure's cell."""
    _, strain = logarithmic_strain(reference, record.atoms.cell.array)
    return np.array([np.trace(strain), np.trace(strain) ** 2, np.square(strain).sum()])


def _fit(
    change: np.ndarray, columns: np.ndarray, weight: np.ndarray, freedom: int
) -> tuple[list[Slope | None], float]:
    """Slopes of changes (S,) along columns (S, C) by a robust fit (Huber's weights), the unexplained part."""
    design, target = columns * weight[:, None], change * weight
    strength = np.sqrt(np.mean(design**2, axis=0))
    used = np.flatnonzero(strength > NOTHING * np.sqrt(np.mean(target**2)))
    counts = np.count_nonzero(np.abs(design) > FAINT * strength, axis=0)
    freedom -= len(used)
    slopes: list[Slope | None] = [None] * len(strength)
    least = NOISE * np.median(np.abs(target))
    if freedom < FEWEST or not least:
        return slopes, 1.0
    design, trust = design[:, used], np.ones(len(change))
    for _ in range(ROUNDS):
        root = np.sqrt(trust)
        solution = np.linalg.lstsq(design * root[:, None], target * root, rcond=None)[0]
        off = np.abs(target - design @ solution)
        trust = 1 / np.maximum(1, off / (1.5 * max(1.4826 * np.median(off), least)))
    variance = (np.sum(trust * off**2) / len(off) + least**2) * len(off) / freedom
    errors = np.sqrt(variance * np.diag(np.linalg.pinv(design.T @ (trust[:, None] * design))))
    for k, value, error in zip(used, solution, errors, strict=True):
        slopes[k] = Slope(float(value), float(error), int(counts[k]))
    return slopes, float(np.median(off) / np.median(np.abs(target)))


@dataclass(frozen=True)
class StressOffset:
    """A constant that mean stresses exceed the energies' derivative by, with its standard error."""

    value: Annotated[float, Unit("eV/Å^3")]
    error: Annotated[float, Unit("eV/Å^3")]
    count: int

    @property
    def matters(self) -> bool:
        """Whether it is beyond what basis sets and fits leave, and beyond chance."""
        return abs(self.value) > max(TOLERATED, 6 * self.error)


def stress_offset(records: Sequence[Record]) -> StressOffset | None:
    """Offset of the trace of stresses from energies, over cells strained with their atoms; None for few.

    Between two such cells dE = V σ:dε, so ΔE − ⟨Vσ⟩:ε = −⟨V⟩ tr ε δ, with ⟨⟩ the mean of both ends, ε the
    logarithmic strain, and δ the offset, fitted over all families of equal composition together with a term
    in (tr ε)³ for what the mean of two ends misses.
    """
    families: dict[bytes, list[Record]] = defaultdict(list)
    for record in records:
        atoms = record.atoms
        if {"total_energy", "stress"} <= record.labels.keys() and atoms.pbc.all():
            families[atoms.numbers.tobytes()].append(record)
    rows = [row for family in families.values() for row in _differences(family)]
    if len(rows) < LEAST_CELLS:
        return None
    trace, volume, unexplained = np.array(rows).T
    # The mean of two stresses misses the curvature between them by a term of third order.
    design = -(volume * trace)[:, None] * np.stack([np.ones(len(trace)), trace**2], axis=1)  # (cells, 2)
    if np.ptp(trace) < LEAST_CHANGE:
        return None
    solution = np.linalg.lstsq(design, unexplained, rcond=None)[0]
    variance = np.sum((unexplained - design @ solution) ** 2) / (len(rows) - 2)
    error = np.sqrt(variance * np.linalg.pinv(design.T @ design)[0, 0])
    return StressOffset(float(solution[0]), float(error), len(rows))


def _differences(family: list[Record]) -> list[tuple[float, float, float]]:
    """tr ε, ⟨V⟩ (Å³) and ΔE − ⟨Vσ⟩:ε (eV) of each cell against that of lowest energy."""
    reference = min(family, key=lambda record: float(record.labels["total_energy"]))
    sites = reference.atoms.get_scaled_positions(wrap=False)
    rows = []
    for record in family:
        atoms = record.atoms
        moved = atoms.get_scaled_positions(wrap=False) - sites
        moved -= moved[0]
        turn, strain = logarithmic_strain(reference.atoms.cell.array, atoms.cell.array)
        moves = np.abs(moved - np.round(moved)).max() > SAME_SITE
        if record is reference or moves or np.linalg.norm(strain, 2) > LARGEST_CELL_STRAIN:
            continue
        turned = turn @ record.labels["stress"] @ turn.T  # into the frame of the reference
        volumes = reference.atoms.get_volume(), atoms.get_volume()
        virial = (volumes[0] * reference.labels["stress"] + volumes[1] * turned) / 2
        change = float(record.labels["total_energy"] - reference.labels["total_energy"])
        rows.append((float(np.trace(strain)), sum(volumes) / 2, change - float(np.sum(virial * strain))))
    return rows
