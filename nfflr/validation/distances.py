"""Energies and forces as atoms come near and part: dimers, walls, smoothness at the cutoff."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, pairwise

import ase
import numpy as np
from ase.calculators.calculator import Calculator
from scipy.ndimage import median_filter
from scipy.signal import find_peaks

from ..workflows.framework.evaluations import evaluate
from .exactness import energies
from .samples import CheckResult, Limits, measured, nearest, open_box, skipped

SHORTEST, CURVE_STEP = 0.5, 0.02  # Å
PROMINENCE = 0.05  # eV, a dip as deep as two kT at 300 K


@dataclass(frozen=True)
class Dimer:
    """Curve of one pair of symbols over rising distances (n,) Å, relative to the free atoms.

    ``energy`` (n,) eV; ``force`` (n,) eV/Å on the second atom, away from the first: positive is repulsive.
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
        places, _ = find_peaks(-self.energy, prominence=PROMINENCE)
        return [(float(self.distance[k]), float(self.energy[k])) for k in places]


def dimer_curves(calculator: Calculator, elements: Sequence[str], reach: float) -> list[Dimer]:
    """Curves of all pairs of elements from 0.5 Å to a little beyond ``reach``."""
    distances = np.arange(SHORTEST, reach + 0.5 + CURVE_STEP / 2, CURVE_STEP)
    return [_curve(calculator, pair, distances) for pair in combinations_with_replacement(elements, 2)]


def check_minima(dimers: Sequence[Dimer]) -> list[CheckResult]:
    """The number of dips in each curve beyond the first.

    It is advice only: potentials of crystals never saw a dimer. It matters for gases, surfaces and clusters.
    """
    rows = []
    for dimer in dimers:
        minima = dimer.minima()
        listing = ", ".join(f"{r:.2f} Å ({e:.3f} eV)" for r, e in minima) or "none"
        value = max(len(minima) - 1, 0)
        name = f"dimer minima {dimer.label}"
        rows.append(measured(name, value, "spurious", 0, f"minima: {listing}", kind="advice"))
    return rows or [skipped("dimer minima", "no pairs")]


def _curve(calculator: Calculator, pair: tuple[str, str], distances: np.ndarray) -> Dimer:
    room = float(distances[-1])
    boxes = [open_box(pair, [[0, 0, 0], [d, 0, 0]], room) for d in distances]
    free = [open_box([symbol], [[0, 0, 0]], room) for symbol in pair]
    results = evaluate(calculator, boxes, ("energy", "forces"))
    zero = sum(r["energy"] for r in evaluate(calculator, free, ("energy",)))
    energy = np.array([r["energy"] for r in results]) - zero
    return Dimer(pair, distances, energy, np.array([r["forces"][1, 0] for r in results]))


WALL = 3.0  # eV: twenty kT at 1700 K, so that a hot solid or a melt does not get over it
DIP = 0.05  # eV by which the energy may fall on the way in; more is the far side of a barrier
PRESS = 0.05  # Å, step of two atoms that are pressed together
MOST = 256  # atoms


def check_wall_in_crystal(calculator: Calculator, structures: Sequence[ase.Atoms]) -> list[CheckResult]:
    """The highest energy that two neighbours in a crystal climb as they are pressed together to 0.5 Å.

    The check is required, for each pair of elements: behind the wall is a hole in which atoms fuse.
    """
    lowest: dict[tuple[str, str], tuple[float, float]] = {}
    for atoms in structures:
        repeat = np.where(atoms.pbc, 2, 1)
        if len(atoms) * repeat.prod() <= MOST:  # the images of the two atoms are not pressed as well
            atoms = atoms.repeat(repeat)
        for pair, (i, j) in _closest_pairs(atoms).items():
            bond = atoms.get_distance(i, j, mic=True)
            distance = np.append(np.arange(SHORTEST, bond, PRESS), bond)
            energy = energies(calculator, [_pressed(atoms, i, j, d) for d in distance])
            wall = wall_height(distance, energy - energy[-1], nearest(*pair))
            lowest[pair] = min(wall, lowest.get(pair, wall))
    return [_row(f"wall {a}–{b} in the crystal", *wall) for (a, b), wall in lowest.items()]


def check_wall_of_dimers(dimers: Sequence[Dimer]) -> list[CheckResult]:
    """The highest energy that two atoms alone climb from their bond inwards, above free atoms.

    It is advice only: atoms of a solid meet among their neighbours, where the check is required. A warning
    matters for gases, clusters and deposition.
    """
    rows = []
    for dimer in dimers:
        bond = nearest(*dimer.pair)
        inner = dimer.distance <= max(1.25 * bond, 2 * SHORTEST)
        wall = wall_height(dimer.distance[inner], dimer.energy[inner], bond)
        rows.append(_row(f"wall {dimer.label} in vacuum", *wall, kind="advice"))
    return rows


def wall_height(distance: np.ndarray, energy: np.ndarray, bond: float) -> tuple[float, float]:
    """Highest energy (eV) met on the way in from the bond before it falls, and where (Å).

    ``distance`` (n,) Å rises; ``energy`` (n,) eV is above the state that is pressed together. The bond is the
    lowest point beyond 80 % of the usual length ``bond`` (Å): some bonds are shorter than covalent radii add
    up to, and falling into them is no defect.
    """
    outer = np.where(distance >= min(0.8 * bond, distance[-1]), energy, np.inf)
    inwards = energy[: int(np.argmin(outer)) + 1][::-1]
    highest = np.maximum.accumulate(inwards)
    beyond = np.flatnonzero(~(highest - inwards <= DIP))  # NaN is a fall too
    top = int(np.argmax(inwards[: max(1, beyond[0])] if beyond.size else inwards))
    return float(inwards[top]), float(distance[len(inwards) - 1 - top])


def _row(name: str, height: float, at: float, **more) -> CheckResult:
    passed = bool(height >= WALL)
    message = f"at {at:.2f} Å" + (", lower behind: atoms can fuse" if at > SHORTEST + PRESS / 2 else "")
    return CheckResult(name, passed, height, "eV", WALL, message, at_least=True, **more)


def _closest_pairs(atoms: ase.Atoms) -> dict[tuple[str, str], tuple[int, int]]:
    """Indices of the two nearest atoms of each pair of elements."""
    distances = atoms.get_all_distances(mic=True)  # (N, N)
    np.fill_diagonal(distances, np.inf)
    symbols, pairs = np.array(atoms.symbols), {}
    for a, b in combinations_with_replacement(sorted(set(symbols)), 2):
        block = np.where((symbols[:, None] == a) & (symbols == b), distances, np.inf)
        i, j = np.unravel_index(np.argmin(block), block.shape)
        if np.isfinite(block[i, j]):
            pairs[a, b] = (int(i), int(j))
    return pairs


def _pressed(atoms: ase.Atoms, i: int, j: int, distance: float) -> ase.Atoms:
    pressed = atoms.copy()
    pressed.set_distance(i, j, distance, fix=0.5, mic=True)
    return pressed


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

    jumps = {"fragment": _jumps(calculator, path, length)}
    jumps["two atoms"] = _jumps(calculator, dimer, reach + 1 - start)
    results = []
    for where, (energy, forces) in jumps.items():
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
    suspects = {*np.argsort(-odd / around)[:SUSPECTS], *np.argsort(-odd)[:SUSPECTS]}
    return [intervals[k] for k in sorted(suspects)]
