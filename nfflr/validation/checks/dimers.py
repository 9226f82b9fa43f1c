"""Energy curves of two atoms, for every pair of elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from ase.calculators.calculator import Calculator
from scipy.signal import find_peaks

from ...workflows.framework.evaluations import evaluate
from .result import CheckResult, measured, skipped
from .samples import open_box

SHORTEST, STEP = 0.5, 0.02  # Å
PROMINENCE = 0.05  # eV, a dip as deep as two kT at 300 K


@dataclass(frozen=True)
class Dimer:
    """Curve of one pair; energies are relative to the free atoms.

    Args:
        pair: symbols.
        distance: (n,) Å, rising.
        energy: (n,) eV.
        force: (n,) eV/Å on the second atom, away from the first: positive is repulsive.
    """

    pair: tuple[str, str]
    distance: np.ndarray
    energy: np.ndarray
    force: np.ndarray

    @property
    def label(self) -> str:
        return "–".join(self.pair)

    def minima(self) -> list[tuple[float, float]]:
        """Distance (Å) and energy (eV) of every dip that is deeper than ``PROMINENCE`` on both sides."""
        found, _ = find_peaks(-self.energy, prominence=PROMINENCE)
        return [(float(self.distance[k]), float(self.energy[k])) for k in found]


def dimer_curves(calculator: Calculator, elements: Sequence[str], reach: float) -> list[Dimer]:
    """Curves of all pairs of elements from 0.5 Å to a little beyond ``reach``."""
    distances = np.arange(SHORTEST, reach + 0.5 + STEP / 2, STEP)
    return [_curve(calculator, pair, distances) for pair in combinations_with_replacement(elements, 2)]


def check_minima(dimers: Sequence[Dimer]) -> list[CheckResult]:
    """Number of dips in each curve beyond the first.

    Advice only: potentials of crystals never saw a dimer, so that a ripple in the attractive part says
    little of the crystal. It matters for gases, surfaces and clusters.
    """
    rows = []
    for dimer in dimers:
        minima = dimer.minima()
        told = ", ".join(f"{r:.2f} Å ({e:.3f} eV)" for r, e in minima) or "none"
        value = max(len(minima) - 1, 0)
        name = f"dimer minima {dimer.label}"
        rows.append(measured(name, value, "spurious", 0, f"minima: {told}", kind="advice"))
    return rows or [skipped("dimer minima", "no pairs")]


def _curve(calculator: Calculator, pair: tuple[str, str], distances: np.ndarray) -> Dimer:
    room = float(distances[-1])
    boxes = [open_box(pair, [[0, 0, 0], [d, 0, 0]], room) for d in distances]
    free = [open_box([symbol], [[0, 0, 0]], room) for symbol in pair]
    results = evaluate(calculator, boxes, ("energy", "forces"))
    zero = sum(r["energy"] for r in evaluate(calculator, free, ("energy",)))
    energy = np.array([r["energy"] for r in results]) - zero
    return Dimer(pair, distances, energy, np.array([r["forces"][1, 0] for r in results]))
