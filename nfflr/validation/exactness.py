"""Numbers against others that they must equal: differences, symmetries, supercells, precisions."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import ase
import numpy as np
from ase.calculators.calculator import Calculator
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from scipy.spatial.transform import Rotation

from ..notes import quiet
from ..structures.cells import heights, strained
from ..workflows.dynamics.analysis import slope_and_error
from ..workflows.framework.evaluations import evaluate
from ..workflows.framework.interface import has_stress
from ..workflows.molecular_dynamics import MdSettings, md
from .samples import LIMITS, ROUNDING_ENERGY, ROUNDING_FORCE, CheckResult, Limits, measured, open_box, skipped

STENCIL = np.array([-2, -1, 1, 2])  # steps
WEIGHTS = np.array([1, -8, 8, -1]) / 12  # of E at them: f' = Σ w f / h + O(h⁴)
PROBED = 4  # atoms displaced one by one, per structure
LOOP, POINTS, LOOPS = 0.1, 64, 3  # Å, points on a circle, circles per structure
CLOSER = 4  # times smaller is a circle, with as many times more points, that is looked at again


def energies(calculator: Calculator, structures: Sequence[ase.Atoms]) -> np.ndarray:
    """Energies (n,) of independent structures, eV."""
    return np.array([r["energy"] for r in evaluate(calculator, structures, ("energy",))])


def check_forces(calculator: Calculator, structures: Sequence[ase.Atoms], limits: Limits) -> CheckResult:
    """Forces against five-point differences of the energy.

    Four atoms of each structure are moved along each axis, and all atoms at once along a random direction.
    """
    worst = 0.0
    for atoms in structures:
        forces = evaluate(calculator, [atoms], ("forces",))[0]["forces"]  # (N, 3)
        directions = _directions(len(atoms))  # (D, N, 3)
        moved = [_moved(atoms, k * limits.step * d) for d in directions for k in STENCIL]
        slopes = energies(calculator, moved).reshape(-1, 4) @ WEIGHTS / limits.step  # (D,)
        expected = -np.einsum("dni,ni->d", directions, forces)
        scale = max(np.abs(forces).max(), np.abs(slopes).max(), 1e-3)
        worst = _larger(worst, np.abs(slopes - expected).max() / scale)
    message = f"to largest force; step {limits.step:g} Å"
    return measured("forces = -dE/dx", worst, "relative", limits.forces, message)


def check_stress(calculator: Calculator, structures: Sequence[ase.Atoms], limits: Limits) -> CheckResult:
    """Stress against five-point derivatives by strain, σ = (1/V) ∂E/∂ε, tension positive."""
    structures = [atoms for atoms in structures if has_stress(atoms)]
    name = "stress = dE/dε / V"
    if not structures or "stress" not in calculator.implemented_properties:
        return skipped(name, "no stress from this calculator" if structures else "no periodic structure")
    worst, flipped = 0.0, 0.0
    for atoms in structures:
        stress = evaluate(calculator, [atoms], ("stress",))[0]["stress"]  # (6,)
        frames = [strained(atoms, k * limits.strain * unit) for unit in np.eye(6) for k in STENCIL]
        slopes = energies(calculator, frames).reshape(6, 4) @ WEIGHTS / limits.strain
        expected = slopes / atoms.get_volume()  # (6,)
        scale = max(np.abs(stress).max(), np.abs(expected).max(), 1e-5)
        worst = _larger(worst, np.abs(stress - expected).max() / scale)
        flipped = _larger(flipped, np.abs(stress + expected).max() / scale)
    message = f"to largest; strain {limits.strain:g}"
    if worst > limits.stress >= flipped:
        message = "the sign is wrong: tension must be positive, σ = (1/V) ∂E/∂ε"
    return measured(name, worst, "relative", limits.stress, message)


def check_conservative(
    calculator: Calculator, structures: Sequence[ase.Atoms], limits: Limits
) -> CheckResult:
    """Work of the forces along closed loops, which is zero if they derive from any energy.

    All atoms go round circles in a plane spanned by two random directions, 0.1 Å in radius for the one that
    moves most. The trapezoidal rule converges faster than any power for smooth periodic functions. A loop
    with too much work is done again smaller and with more points: the work of a curl falls as the area, which
    is allowed for, and an error of the rule, as of a stiff bond, falls faster.
    """
    worst = 0.0
    for k, atoms in enumerate(structures):
        rng = np.random.default_rng(k)
        for _ in range(LOOPS):
            u, v = rng.normal(size=(2, len(atoms), 3))
            u, v = (LOOP * w / np.linalg.norm(w, axis=1).max() for w in (u, v))
            work = _work(calculator, atoms, u, v, POINTS)
            if work > limits.loop:
                smaller = _work(calculator, atoms, u / CLOSER, v / CLOSER, CLOSER * POINTS)
                work = CLOSER**2 * smaller
            worst = _larger(worst, work)
    return measured("closed loops: no work", worst, "eV", limits.loop, f"{LOOPS * len(structures)} loops")


def _work(calculator: Calculator, atoms: ase.Atoms, u: np.ndarray, v: np.ndarray, points: int) -> float:
    """Work (eV) along the ellipse u cos a + v sin a; u, v: (N, 3) Å."""
    angles = 2 * np.pi * np.arange(points) / points
    path = [_moved(atoms, u * np.cos(a) + v * np.sin(a)) for a in angles]
    forces = np.array([r["forces"] for r in evaluate(calculator, path, ("forces",))])
    tangents = np.array([v * np.cos(a) - u * np.sin(a) for a in angles])  # (P, N, 3)
    return float(abs((forces * tangents).sum() * 2 * np.pi / points))


def _directions(n: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    probed = rng.permutation(n)[:PROBED]
    single = np.zeros((len(probed), 3, n, 3))
    for k, atom in enumerate(probed):
        single[k, range(3), atom, range(3)] = 1.0
    together = rng.normal(size=(1, n, 3))
    together /= np.linalg.norm(together, axis=2).max()
    return np.concatenate([single.reshape(-1, n, 3), together])


def _moved(atoms: ase.Atoms, displacement: np.ndarray) -> ase.Atoms:
    moved = atoms.copy()
    moved.positions += displacement
    return moved


def _larger(a: float, b: float) -> float:
    return float(np.fmax(a, b)) if np.isfinite(b) else float("nan")


# A structure → the same one in another guise, and the two maps that take its forces and stress there.
Guise = tuple[ase.Atoms, Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]


def check_invariance(
    name: str, calculator: Calculator, structures: Sequence[ase.Atoms], limits: Limits
) -> CheckResult:
    """A structure against itself in one of ``GUISES``."""
    errors = {"eV": 0.0, "eV/Å": 0.0, "eV/Å³": 0.0}
    for atoms in structures:
        other, map_forces, map_stress = GUISES[name](atoms)
        stress = has_stress(atoms) and "stress" in calculator.implemented_properties
        names = ("energy", "forces", "stress") if stress else ("energy", "forces")
        # One by one: a batch is another matter, and has a check of its own.
        before, after = (evaluate(calculator, [a], names)[0] for a in (atoms, other))
        expected = before | {"forces": map_forces(before["forces"])}
        if stress:
            expected["stress"] = map_stress(before["stress"])
        for unit, key in zip(errors, names, strict=False):
            errors[unit] = max(errors[unit], np.abs(after[key] - expected[key]).max())
    return _largest(name, errors, limits.symmetry)


def _largest(name: str, errors: dict[str, float], limit: float, message: str = "") -> CheckResult:
    """The largest of errors by unit."""
    unit = max(errors, key=errors.__getitem__)
    return measured(name, errors[unit], unit, limit, message)


def _orthogonal(atoms: ase.Atoms, matrix: np.ndarray) -> Guise:
    """Positions and cell turned; lattice vectors reordered where they would become left-handed."""
    other = atoms.copy()
    other.set_cell(atoms.cell.array @ matrix.T)
    other.positions = atoms.positions @ matrix.T
    if np.linalg.det(matrix) < 0:
        other.set_cell(other.cell.array[[1, 0, 2]])
        other.pbc = other.pbc[[1, 0, 2]]

    def map_stress(stress: np.ndarray) -> np.ndarray:
        return full_3x3_to_voigt_6_stress(matrix @ voigt_6_to_full_3x3_stress(stress) @ matrix.T)

    return other, lambda forces: forces @ matrix.T, map_stress


def _shifted(atoms: ase.Atoms, shift: np.ndarray) -> Guise:
    return _moved(atoms, shift), lambda forces: forces, lambda stress: stress


def _other_images(atoms: ase.Atoms) -> Guise:
    """Each atom shifted by its own lattice vector: the same crystal, atoms far outside the cell."""
    images = np.random.default_rng(5).integers(-3, 4, (len(atoms), 3)) * atoms.pbc
    return _shifted(atoms, images @ atoms.cell.array)


def _reordered(atoms: ase.Atoms) -> Guise:
    order = np.roll(np.random.default_rng(6).permutation(len(atoms)), 1)
    order = order if (order != np.arange(len(atoms))).any() else order[::-1]
    return atoms[order], lambda forces: forces[order], lambda stress: stress


GUISES: dict[str, Callable[[ase.Atoms], Guise]] = {
    "rotation": lambda atoms: _orthogonal(atoms, Rotation.random(rng=np.random.default_rng(3)).as_matrix()),
    "reflection": lambda atoms: _orthogonal(
        atoms, -Rotation.random(rng=np.random.default_rng(4)).as_matrix()
    ),
    "translation": lambda atoms: _shifted(atoms, np.array([0.731, -1.377, 2.913])),  # Å
    "translation by lattice vectors": _other_images,
    "permutation": _reordered,
}


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
    repeat = np.ceil(2.1 * reach / heights(small.cell.array)).astype(int)
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

    What is left after a polynomial is rounding; if that is too much, a polynomial of higher degree has a try
    on half the line, since stiff bonds leave more. The rounding of atomic energies themselves cannot be
    avoided and widens the limit: each is as uncertain as its own size times the precision, and they add up at
    random. Totals added up in float32 show here, even where each atomic energy is good enough.
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
    total = energies(calculator, [_moved(large, s * direction) for s in path])
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
    pairs = [(atoms, tuple(np.where(atoms.pbc, r, 1).tolist())) for atoms, r in pairs if atoms.pbc.any()]
    pairs = [(atoms, r) for atoms, r in pairs if len(atoms) * np.prod(r) <= MOST]
    if not pairs:
        return skipped(name, f"no periodic structure that stays below {MOST} atoms")
    errors = {"eV/atom": 0.0, "eV/Å": 0.0}
    for atoms, repeat in pairs:
        copies = int(np.prod(repeat))
        single, many = (
            evaluate(calculator, [a], ("energy", "forces"))[0] for a in (atoms, atoms.repeat(repeat))
        )
        energy = abs(many["energy"] / copies - single["energy"]) / len(atoms)
        forces = np.abs(many["forces"] - np.tile(single["forces"], (copies, 1))).max()
        errors = {"eV/atom": max(errors["eV/atom"], energy), "eV/Å": max(errors["eV/Å"], forces)}
    atoms, repeat = max(pairs, key=lambda pair: len(pair[0]) * np.prod(pair[1]))
    return _largest(name, errors, limits.extensivity, f"up to {len(atoms)} x {np.prod(repeat)} atoms")


TEMPERATURE, STEPS = 300.0, 200
PERIOD = 28.0  # u: an atom of this mass gets a timestep of 1 fs


@dataclass(frozen=True)
class Drift:
    """Total energy of an NVE run: time (n,) in ps, energy (n,) in meV/atom relative to the first."""

    label: str
    time: np.ndarray
    energy: np.ndarray


def nve_run(calculator: Calculator, atoms: ase.Atoms, label: str) -> Drift:
    """200 steps of velocity Verlet at 300 K; the timestep suits the lightest atom."""
    timestep = float(np.clip(np.sqrt(atoms.get_masses().min() / PERIOD), 0.2, 2.0))
    settings = MdSettings(ensemble="nve", temperature=TEMPERATURE, timestep=timestep, steps=STEPS, interval=2)
    with quiet():
        columns = md(atoms, calculator, settings).table.columns
    conserved = columns["conserved (eV)"]
    energy = 1e3 * (conserved - conserved[0]) / len(atoms)
    return Drift(label, columns["time (ps)"] - columns["time (ps)"][0], energy)


def check_drift(drift: Drift, limits: Limits) -> CheckResult:
    """Slope of the total energy by a straight line, with its error from blocks."""
    name, unit = f"NVE drift, {drift.label}", "meV/atom/ps"
    if len(drift.time) <= STEPS // 4:
        return CheckResult(name, False, None, unit, limits.drift, f"exploded after {drift.time[-1]:.3f} ps")
    fit = slope_and_error(drift.time, drift.energy)
    assert fit is not None  # there are enough points
    slope, error = fit
    message = f"± {error:.2g}; {drift.time[-1]:.2f} ps at {TEMPERATURE:g} K"
    return measured(name, abs(slope), unit, limits.drift, message)


def check_rounding(
    calculators: Mapping[str, Calculator], large: ase.Atoms, structures: Sequence[ase.Atoms]
) -> list[CheckResult]:
    """float32 against float64: the energy of a large cell, per atom, and the forces of all structures."""
    names = ("float32 energy", "float32 forces")
    if not {"float32", "float64"} <= calculators.keys():
        return [skipped(names[0], "one precision only")]
    low, high = (
        evaluate(calculators[dtype], [large, *structures], ("energy", "forces"))
        for dtype in ("float32", "float64")
    )
    energy = abs(low[0]["energy"] - high[0]["energy"]) / len(large)
    forces = max(np.abs(a["forces"] - b["forces"]).max() for a, b in zip(low, high, strict=True))
    against = "against float64"
    return [
        measured(names[0], energy, "eV/atom", ROUNDING_ENERGY, f"{against}, {len(large)} atoms"),
        measured(names[1], forces, "eV/Å", ROUNDING_FORCE, against),
    ]


def check_batch(calculator: Calculator, structures: Sequence[ase.Atoms], limits: Limits) -> CheckResult:
    """``calculator.evaluate`` of several structures at once against one after another."""
    name = "batch = single"
    if not hasattr(calculator, "evaluate"):
        return skipped(name, "this calculator takes one structure at a time")
    errors = {"eV/atom": 0.0, "eV/Å": 0.0}
    for atoms, batched in zip(structures, calculator.evaluate(structures), strict=True):
        energy, forces = (calculator.get_property(key, atoms) for key in ("energy", "forces"))
        errors["eV/atom"] = max(errors["eV/atom"], abs(batched["energy"] - energy) / len(atoms))
        errors["eV/Å"] = max(errors["eV/Å"], np.abs(batched["forces"] - forces).max())
    return _largest(name, errors, limits.batch, f"a batch of {len(structures)}")


def measure_speed(calculator: Calculator, sizes: Sequence[ase.Atoms]) -> list[CheckResult]:
    """Time of energy and forces per atom, the better of two, for information."""
    rows = []
    for atoms in sizes:
        times = []
        for seed in range(2):
            moved = atoms.copy()
            moved.rattle(1e-3, seed=seed)
            start = time.perf_counter()
            calculator.get_property("forces", moved)
            times.append(time.perf_counter() - start)
        value = 1e6 * min(times) / len(atoms)
        rows.append(CheckResult(f"speed, {len(atoms)} atoms", True, value, "µs/atom", kind="information"))
    return rows
