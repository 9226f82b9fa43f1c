"""Continuity of energy and forces as an atom leaves the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import ase
import numpy as np
from ase.calculators.calculator import Calculator
from scipy.ndimage import median_filter

from ...workflows.framework.evaluations import evaluate
from .result import CheckResult, Limits, measured
from .samples import nearest, open_box

STEP = 0.02  # Å
WINDOW, FLOOR = 11, 1e-7  # intervals; eV, eV/Å
SUSPECTS, HALVINGS = 6, 20  # intervals looked into; down to STEP / 10⁶


@dataclass(frozen=True)
class Point:
    """Energy (eV) and forces (N, 3) in eV/Å at a place ``s`` (Å) on the path."""

    s: float
    energy: float
    forces: np.ndarray


def check_smoothness(
    calculator: Calculator, fragment: ase.Atoms, reach: float, limits: Limits
) -> list[CheckResult]:
    """Jumps of energy and forces while an atom goes away from a fragment of the crystal, and from one atom.

    Steps of 0.02 Å until all is beyond ``reach``; where energy or forces change out of step with their
    neighbours, the interval is halved until what is left of the change is a jump, or nothing.
    """
    path, length = _path(fragment, reach)
    symbols = list(fragment.symbols)[:1]
    start = 0.7 * nearest(symbols[0], symbols[0])

    def dimer(s: float) -> ase.Atoms:
        return open_box(symbols * 2, [[0.0, 0.0, 0.0], [start + s, 0.0, 0.0]], reach + 2)

    found = {"fragment": _jumps(calculator, path, length)}
    found["two atoms"] = _jumps(calculator, dimer, reach + 1 - start)
    results = []
    for where, (energy, forces) in found.items():
        for kind, unit, limit, (jump, structure) in (
            ("energy", "eV", limits.jump, energy),
            ("forces", "eV/Å", limits.force_jump, forces),
        ):
            message = ""
            if not jump <= limit:
                distances = structure.get_all_distances()[-1, :-1]
                message = "atoms at " + ", ".join(f"{d:.3f}" for d in np.sort(distances)[:6]) + " Å"
            results.append(measured(f"continuous {kind}, {where}", jump, unit, limit, message))
    return results


def _path(fragment: ase.Atoms, reach: float) -> tuple[Callable[[float], ase.Atoms], float]:
    """An atom moving out along a line from the middle of the fragment, and how far it goes."""
    core = fragment.positions[:8] - fragment.positions[:8].mean(axis=0)  # (n, 3)
    symbols = [*list(fragment.symbols)[:8], fragment.symbols[0]]
    direction = np.array([0.48, 0.6, 0.64])
    close = 0.8 * min(nearest(symbols[-1], s) for s in symbols)
    along = core @ direction
    sideways = np.linalg.norm(core - along[:, None] * direction, axis=1)
    # Beyond the sphere of radius ``close`` about every atom.
    start = max((a + np.sqrt(max(close**2 - b**2, 0.0)) for a, b in zip(along, sideways, strict=True)))
    length = reach + 0.3 + along.max() - start + (reach - np.sqrt(max(reach**2 - sideways.max() ** 2, 0.0)))

    def at(s: float) -> ase.Atoms:
        return open_box(symbols, np.vstack([core, (start + s) * direction]), reach + 2)

    return at, length


def _jumps(
    calculator: Calculator, path: Callable[[float], ase.Atoms], length: float
) -> tuple[tuple[float, ase.Atoms], tuple[float, ase.Atoms]]:
    """The largest jump of the energy and of the forces, each with the structure at which it happens."""

    def points(places) -> list[Point]:
        results = evaluate(calculator, [path(s) for s in places], ("energy", "forces"))
        return [Point(s, r["energy"], r["forces"]) for s, r in zip(places, results, strict=True)]

    def energy(a: Point, b: Point) -> float:
        return abs(b.energy - a.energy)

    def forces(a: Point, b: Point) -> float:
        return float(np.abs(b.forces - a.forces).max())

    grid = points(np.arange(0.0, length, STEP))

    def largest(change: Callable[[Point, Point], float]) -> tuple[float, ase.Atoms]:
        brackets = _suspects(grid, change)
        for _ in range(HALVINGS):
            middles = points([(a.s + b.s) / 2 for a, b in brackets])  # one batch
            brackets = [
                (a, m) if change(a, m) > change(m, b) else (m, b)
                for (a, b), m in zip(brackets, middles, strict=True)
            ]
        a, b = max(brackets, key=lambda bracket: change(*bracket))
        return change(a, b), path(b.s)

    return largest(energy), largest(forces)


def _suspects(grid: list[Point], change: Callable[[Point, Point], float]) -> list[tuple[Point, Point]]:
    """Intervals whose change is least like that of those beside them, as it is and against places around."""
    intervals = list(pairwise(grid))
    steps = np.array([change(a, b) for a, b in intervals])
    smooth = (np.roll(steps, 1) + np.roll(steps, -1)) / 2
    smooth[[0, -1]] = steps[[0, -1]]
    odd = np.abs(steps - smooth)
    around = median_filter(odd, WINDOW, mode="nearest") + FLOOR
    chosen = {*np.argsort(-odd / around)[:SUSPECTS], *np.argsort(-odd)[:SUSPECTS]}
    return [intervals[k] for k in sorted(chosen)]
