"""Forces and stress against differences of the energy; work along closed loops."""

from __future__ import annotations

from collections.abc import Sequence

import ase
import numpy as np
from ase.calculators.calculator import Calculator

from ...workflows.framework.evaluations import evaluate
from ...workflows.framework.interface import has_stress
from .result import CheckResult, Limits, measured, skipped

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
        strained = [_strained(atoms, v, k * limits.strain) for v in range(6) for k in STENCIL]
        slopes = energies(calculator, strained).reshape(6, 4) @ WEIGHTS / limits.strain
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
    moves most. The trapezoidal rule converges faster than any power for smooth periodic functions.
    A loop with too much work is done again smaller and with more points. The work of a curl falls as the
    area, which is allowed for; an error of the rule, as of a stiff bond, falls faster.
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


def _strained(atoms: ase.Atoms, voigt: int, size: float) -> ase.Atoms:
    i, j = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)][voigt]
    strain = np.zeros((3, 3))
    strain[i, j] += size / 2
    strain[j, i] += size / 2
    strained = atoms.copy()
    strained.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return strained


def _larger(a: float, b: float) -> float:
    return float(np.fmax(a, b)) if np.isfinite(b) else float("nan")
