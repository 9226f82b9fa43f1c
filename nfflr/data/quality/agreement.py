"""Whether energies change between near structures by the work of the forces and stresses beside them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import polar

from ..records import Record
from .steps import Step, near_steps

SHORT = 0.45  # Å; longer steps count only where there are few of these
ENOUGH = 12  # steps
STILL = 1e-6  # Å; atoms that moved with the cell
FEWEST = 3  # independent changes of energy beyond the numbers that are fitted
SHARP = (0.2, 0.3)  # relative error of a slope that says something: of long steps, and of short ones
ROUNDS = 20  # of the robust fit
FAINT = 0.05  # of a column's strength; less work than this says nothing
NOTHING = 1e-5  # of changes of energy; a column is rounding below
NOISE = 0.02  # of typical changes of energy; no fit of so few terms is better


@dataclass(frozen=True)
class Slope:
    """By how much energies change for a change of one that the labels say; one where they agree.

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
    """Slopes of energies along forces, along stresses, and along their normal and shear parts; None where
    the data do not tell. ``residual`` is the typical part of a change of energy that is not explained.
    """

    forces: Slope | None = None
    stress: Slope | None = None
    normal: Slope | None = None
    shear: Slope | None = None
    residual: float = 1.0


def agreement(records: Sequence[Record], steps: Sequence[Step] | None = None) -> Agreement:
    """Fit changes of energy between near structures to the work of forces and of stresses.

    Args:
        records: the data.
        steps: of ``near_steps``, if they are known already.
    """
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
    rows, kept, terms = _without_strain(rows, weight, records, steps)
    if not len(kept):
        return [None] * columns, 1.0
    families = {steps[k].family for k in kept}
    structures = {place for k in kept for place in (steps[k].first, steps[k].second)}
    freedom = len(structures) - len(families) - terms  # differences of energy that are independent
    change, forces, *stresses = rows[kept].T
    design = [forces, *(stresses if shear else [sum(stresses)])]
    slopes, residual = _fit(change, np.stack(design, axis=1), weight[kept], freedom)
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
    """Rows with what strain does to the energy taken out where no stress says it.

    In a family of the same atoms that is a polynomial of the second order in the invariants of strain.

    Returns:
        The rows, the numbers of those that serve, and how many terms were fitted.
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
    _, stretch = polar(np.linalg.solve(reference, record.atoms.cell.array), side="left")
    logs = np.log(np.maximum(np.linalg.eigvalsh(stretch), 1e-3))
    return np.array([logs.sum(), logs.sum() ** 2, np.square(logs).sum()])


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
