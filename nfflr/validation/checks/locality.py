"""Smoothness at the cutoff, and energies that grow with size as they must."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import ase
import numpy as np
from ase.calculators.calculator import Calculator
from scipy.ndimage import median_filter

from ...workflows.framework.evaluations import evaluate
from .exactness import energies
from .result import LIMITS, CheckResult, Limits, measured, skipped
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


MOST = 2000  # atoms in a supercell
OPERATIONS = 256  # roundings in an atomic energy that count: sums of some layers; they add up as the root
HARMLESS = 1e-4  # eV, kT/250 at 300 K, is the noise of a total that no precision excuses


def check_supercells(calculator: Calculator, structures: Sequence[ase.Atoms], limits: Limits) -> CheckResult:
    """Energy per atom and forces of 2 x 2 x 2 and 3 x 1 x 1 supercells against those of the cell."""
    pairs = [(atoms, repeat) for atoms in structures for repeat in ((2, 2, 2), (3, 1, 1))]
    return _tiled("supercells 2x2x2, 3x1x1", calculator, pairs, limits)


def check_small_cell(calculator: Calculator, small: ase.Atoms, reach: float, limits: Limits) -> CheckResult:
    """The smallest cell against a supercell that is wider than twice the cutoff, where no image is missed."""
    name = "neighbour images, small cell"
    if not small.pbc.any():
        return skipped(name, "no periodic structure")
    heights = small.get_volume() / np.linalg.norm(
        np.cross(np.roll(small.cell, -1, axis=0), np.roll(small.cell, -2, axis=0)), axis=1
    )
    repeat = np.ceil(2.1 * reach / heights).astype(int)
    while len(small) * np.where(small.pbc, repeat, 1).prod() > MOST and repeat.max() > 1:
        repeat = np.maximum(repeat - 1, 1)
    return _tiled(name, calculator, [(small, tuple(repeat))], limits)


def check_isolated_atoms(
    calculator: Calculator, elements: Sequence[str], reach: float, limits: Limits
) -> CheckResult:
    """Each element alone: a finite energy, no force."""
    alone = [open_box([symbol], np.zeros((1, 3)), 2 * reach) for symbol in elements]
    results = evaluate(calculator, alone, ("energy", "forces"))
    value = max(np.abs(result["forces"]).max() for result in results)
    listing = ", ".join(f"{s} {r['energy']:.4f} eV" for s, r in zip(elements, results, strict=True))
    return measured("isolated atoms", value, "eV/Å", limits.isolated_force, listing)


def check_resolution(calculator: Calculator, large: ase.Atoms, limits: Limits, label: str) -> CheckResult:
    """Noise of the total energy as all atoms of a large cell move by some 0.005 Å along a line.

    What is left after a polynomial is rounding. Where that is too much, a polynomial of higher degree has a
    try on half the line, since stiff bonds leave more than rounding. The rounding of atomic energies
    themselves cannot be avoided and widens the limit: each is as uncertain as its own size times the
    precision, and they add up at random. Totals added up in float32 show here, even where each atomic energy
    is good enough.
    """
    total, value = _noise(calculator, large, 0.003, points=13, degree=6)
    if value > limits.resolution:  # of a stiff bond the polynomial may leave more than rounding does
        total, value = _noise(calculator, large, 0.0015, points=61, degree=12)
    limit = max(limits.resolution, min(HARMLESS, _rounding(calculator, large, total[0], label)))
    message = f"total {total[0]:.6g} eV of {len(large)} atoms"
    name = f"energy resolution, {label}"
    if value > limits.resolution and (total == total.astype(np.float32)).all():
        step = float(np.spacing(np.float32(abs(total[0]))))
        message += f"; totals are float32 numbers, in steps of {step:.2g} eV: add atomic energies in float64"
        return CheckResult(name, False, value, "eV", limit, message)
    if not value <= limit:
        message += "; energies jump, or are rounded: reference energies added in float32?"
    return measured(name, value, "eV", limit, message)


def _noise(
    calculator: Calculator, large: ase.Atoms, size: float, points: int, degree: int
) -> tuple[np.ndarray, float]:
    """Totals (points,) as atoms move by ``size`` Å along a line, and what a polynomial leaves of them; eV."""
    path = np.linspace(-1, 1, points)
    direction = size * np.random.default_rng(8).normal(size=(len(large), 3))  # Å
    moved = []
    for s in path:
        atoms = large.copy()
        atoms.positions += s * direction
        moved.append(atoms)
    total = energies(calculator, moved)
    change = total - total[0]
    remainder = change - np.polynomial.Chebyshev.fit(path, change, degree)(path)
    return total, float(np.sqrt(np.mean(remainder**2)))


def _rounding(calculator: Calculator, atoms: ase.Atoms, total: float, dtype: str) -> float:
    """Rounding (eV) of a total that is the exact sum of atomic energies, each rounded at each operation."""
    squares = total**2 / len(atoms)
    if "energies" in calculator.implemented_properties:
        squares = float(np.square(calculator.get_property("energies", atoms)).sum())
    unit = float(np.finfo(dtype if dtype in LIMITS else "float64").eps) / 2
    return float(unit * np.sqrt(OPERATIONS * squares))


def _tiled(
    name: str, calculator: Calculator, pairs: Sequence[tuple[ase.Atoms, tuple]], limits: Limits
) -> CheckResult:
    worst = {"energy": 0.0, "forces": 0.0}
    pairs = [(atoms, tuple(np.where(atoms.pbc, r, 1).tolist())) for atoms, r in pairs if atoms.pbc.any()]
    pairs = [(atoms, r) for atoms, r in pairs if len(atoms) * np.prod(r) <= MOST]
    if not pairs:
        return skipped(name, f"no periodic structure that stays below {MOST} atoms")
    for atoms, repeat in pairs:
        copies = int(np.prod(repeat))
        single, many = (
            evaluate(calculator, [a], ("energy", "forces"))[0] for a in (atoms, atoms.repeat(repeat))
        )
        energy = abs(many["energy"] / copies - single["energy"]) / len(atoms)
        forces = np.abs(many["forces"] - np.tile(single["forces"], (copies, 1))).max()
        worst = {"energy": max(worst["energy"], energy), "forces": max(worst["forces"], forces)}
    largest = max(worst, key=worst.__getitem__)
    atoms, repeat = max(pairs, key=lambda pair: len(pair[0]) * np.prod(pair[1]))
    message = f"up to {len(atoms)} x {np.prod(repeat)} atoms"
    unit = {"energy": "eV/atom", "forces": "eV/Å"}[largest]
    return measured(name, worst[largest], unit, limits.extensivity, message)
