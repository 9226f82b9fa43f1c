"""Initial velocities, and how many degrees of freedom they have."""

from __future__ import annotations

import ase
import numpy as np
from ase.constraints import FixAtoms, FixCartesian
from ase.units import kB

from ...errors import StructureError


def random_velocities(atoms: ase.Atoms, temperature: float, rng: np.random.Generator) -> None:
    """Give atoms momenta of the Maxwell–Boltzmann distribution, scaled to the temperature exactly.

    Along axes on which constraints hold nothing, the total momentum is zero; without constraints and periodic
    axes the angular momentum is zero too.
    """
    masses = atoms.get_masses()[:, None]  # (N, 1)
    momenta = rng.standard_normal((len(atoms), 3)) * np.sqrt(masses * kB * temperature)
    momenta -= free_axes(atoms) * masses * momenta.sum(axis=0) / masses.sum()
    if not atoms.constraints and not atoms.pbc.any():
        momenta -= _rotation(atoms, momenta)
    atoms.set_momenta(momenta, apply_constraint=True)
    dof, kinetic = degrees_of_freedom(atoms), atoms.get_kinetic_energy()
    scale = np.sqrt(dof / 2 * kB * temperature / kinetic) if dof and kinetic else 0.0
    atoms.set_momenta(scale * atoms.get_momenta())


def degrees_of_freedom(atoms: ase.Atoms, keeps_momentum: bool = True) -> int:
    """Number of momentum coordinates that are free: those that no constraint and no conservation law fixes.

    Args:
        keeps_momentum: whether the dynamics conserves the total momentum. If so, one less is free along each
            axis on which nothing is held and the momentum is zero; without periodic axes and constraints
            those of rotation are not free either, if it is absent.
    """
    free = _unconstrained(atoms)
    if not keeps_momentum:
        return free
    momenta = atoms.get_momenta()
    small = 1e-8 * np.abs(momenta).sum()
    resting = free_axes(atoms) & (np.abs(momenta.sum(axis=0)) <= small)  # (3,)
    free -= int(resting.sum())
    if atoms.constraints or atoms.pbc.any() or not resting.all():
        return free
    if np.abs(_rotation(atoms, momenta)).max() <= small:
        free -= np.linalg.matrix_rank(_inertia(atoms), tol=1e-6) if len(atoms) > 1 else 0
    return int(free)


def free_axes(atoms: ase.Atoms) -> np.ndarray:
    """(3,) bool: axes along which the structure can move as a whole, since no constraint holds a part."""
    free, others = _held(atoms)
    return np.zeros(3, dtype=bool) if others else free.all(axis=0)  # type: ignore[no-any-return]


def _unconstrained(atoms: ase.Atoms) -> int:
    """Coordinates that no constraint fixes; what two constraints fix counts once (ASE counts it twice)."""
    free, others = _held(atoms)
    return int(free.sum()) - sum(constraint.get_removed_dof(atoms) for constraint in others)


def _held(atoms: ase.Atoms) -> tuple[np.ndarray, list]:
    """Coordinates (N, 3) that are not fixed by themselves, and the constraints that say something else."""
    free, others = np.ones((len(atoms), 3), dtype=bool), []
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            free[constraint.index] = False
        elif isinstance(constraint, FixCartesian):
            free[constraint.index] &= ~np.asarray(constraint.mask)
        else:
            others.append(constraint)
    return free, others


def check_moving(atoms: ase.Atoms, dof: int, thermostat: bool) -> None:
    """Refuse a thermostat without anything to heat.

    Raises:
        StructureError: no degree of freedom, or none that moves.
    """
    if thermostat and (dof < 1 or not atoms.get_momenta().any()):
        raise StructureError("structure: nothing moves that a thermostat could heat; use --ensemble nve")


def _rotation(atoms: ase.Atoms, momenta: np.ndarray) -> np.ndarray:
    """Momenta (N, 3) of the rigid rotation that carries the angular momentum; linear molecules too."""
    x = atoms.positions - atoms.get_center_of_mass()
    angular = np.cross(x, momenta).sum(axis=0)
    omega = np.linalg.pinv(_inertia(atoms), rcond=1e-8, hermitian=True) @ angular
    return atoms.get_masses()[:, None] * np.cross(omega, x)


def _inertia(atoms: ase.Atoms) -> np.ndarray:
    """Inertia tensor (3, 3), amu·Å²."""
    x, m = atoms.positions - atoms.get_center_of_mass(), atoms.get_masses()
    return (m @ np.square(x).sum(axis=1)) * np.eye(3) - np.einsum("i,ij,ik->jk", m, x, x)
