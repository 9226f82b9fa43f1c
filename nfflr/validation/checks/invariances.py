"""Invariance of energy, forces and stress: rotation, reflection, translation, permutation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ase
import numpy as np
from ase.calculators.calculator import Calculator
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from scipy.spatial.transform import Rotation

from ...workflows.framework.evaluations import evaluate
from ...workflows.framework.interface import has_stress
from .result import CheckResult, Limits, measured

# A structure → the same one in another guise, and the two maps that take its forces and stress there.
Guise = tuple[ase.Atoms, Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]


def check_rotation(calculator: Calculator, structures: Sequence[ase.Atoms], limits: Limits) -> CheckResult:
    """Energy unchanged, forces and stress turned with atoms and cell."""
    turn = Rotation.random(rng=np.random.default_rng(3)).as_matrix()
    return _compare("rotation", calculator, structures, limits, lambda atoms: _orthogonal(atoms, turn))


def check_reflection(calculator: Calculator, structures: Sequence[ase.Atoms], limits: Limits) -> CheckResult:
    """As rotation, for an improper one."""
    turn = -Rotation.random(rng=np.random.default_rng(4)).as_matrix()
    return _compare("reflection", calculator, structures, limits, lambda atoms: _orthogonal(atoms, turn))


def check_translation(calculator: Calculator, structures: Sequence[ase.Atoms], limits: Limits) -> CheckResult:
    """All atoms shifted by one vector."""
    shift = np.array([0.731, -1.377, 2.913])  # Å
    return _compare("translation", calculator, structures, limits, lambda atoms: _shifted(atoms, shift))


def check_lattice_translation(
    calculator: Calculator, structures: Sequence[ase.Atoms], limits: Limits
) -> CheckResult:
    """Each atom shifted by its own lattice vector: the same crystal, atoms far outside the cell."""

    def guise(atoms: ase.Atoms) -> Guise:
        images = np.random.default_rng(5).integers(-3, 4, (len(atoms), 3)) * atoms.pbc
        return _shifted(atoms, images @ atoms.cell.array)

    return _compare("translation by lattice vectors", calculator, structures, limits, guise)


def check_permutation(calculator: Calculator, structures: Sequence[ase.Atoms], limits: Limits) -> CheckResult:
    """Atoms listed in another order."""

    def guise(atoms: ase.Atoms) -> Guise:
        order = np.roll(np.random.default_rng(6).permutation(len(atoms)), 1)
        order = order if (order != np.arange(len(atoms))).any() else order[::-1]
        return atoms[order], lambda forces: forces[order], lambda stress: stress

    return _compare("permutation", calculator, structures, limits, guise)


def _compare(
    name: str,
    calculator: Calculator,
    structures: Sequence[ase.Atoms],
    limits: Limits,
    guise: Callable[[ase.Atoms], Guise],
) -> CheckResult:
    errors = {"energy": 0.0, "forces": 0.0, "stress": 0.0}
    for atoms in structures:
        other, map_forces, map_stress = guise(atoms)
        stress = has_stress(atoms) and "stress" in calculator.implemented_properties
        names = ("energy", "forces", "stress") if stress else ("energy", "forces")
        # One by one: a batch is another matter, and has a check of its own.
        before, after = (evaluate(calculator, [a], names)[0] for a in (atoms, other))
        expected = before | {"forces": map_forces(before["forces"])}
        if stress:
            expected["stress"] = map_stress(before["stress"])
        for key in names:
            errors[key] = max(errors[key], np.abs(after[key] - expected[key]).max())
    value = max(errors.values())
    units = {"energy": "eV", "forces": "eV/Å", "stress": "eV/Å³"}
    largest = max(errors, key=errors.__getitem__)
    return measured(name, value, units[largest], limits.symmetry)


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
    other = atoms.copy()
    other.positions += shift
    return other, lambda forces: forces, lambda stress: stress
