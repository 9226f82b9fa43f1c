"""Constraints of ASE: which atoms they hold and along what, and how they go into a supercell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import ase
import numpy as np
from ase.constraints import FixAtoms, FixCartesian, FixCom, FixedLine, FixedPlane, FixScaled

from ..errors import StructureError

Kind = Literal["fixed", "partly fixed", "other", "none"]


def kind_of(constraint: object) -> Kind:
    """Whether a constraint holds atoms, holds them along some directions, does something else, or nothing."""
    if isinstance(constraint, FixCartesian | FixScaled):
        held = np.asarray(constraint.mask)  # (3,), True where the atoms are held
        return "fixed" if held.all() else "partly fixed" if held.any() else "none"
    if isinstance(constraint, FixAtoms):
        return "fixed" if len(constraint.index) else "none"
    return "partly fixed" if isinstance(constraint, FixedLine | FixedPlane) else "other"


class FixFractional(FixScaled):
    """ASE's ``FixScaled``, whose steps, forces and momenta are projected onto the span of the free axes.

    Where cell vectors are not perpendicular, ASE's own leaves forces that do not vanish at the minimum, and
    steps that are not those of the force: relaxations end elsewhere, and dynamics does not conserve energy.
    """

    def adjust_positions(self, atoms: ase.Atoms, new: np.ndarray) -> None:
        old = atoms.positions[self.index]
        new[self.index] = old + (new[self.index] - old) @ self._projector(atoms)

    def adjust_forces(self, atoms: ase.Atoms, forces: np.ndarray) -> None:
        forces[self.index] = forces[self.index] @ self._projector(atoms)

    def _projector(self, atoms: ase.Atoms) -> np.ndarray:
        free = atoms.cell.complete()[~self.mask]  # (n, 3)
        return np.linalg.pinv(free) @ free

    def copy(self) -> FixFractional:
        return FixFractional(self.index.copy(), self.mask.copy())


def with_sound_constraints(atoms: ase.Atoms) -> ase.Atoms:
    """The structure with ``FixFractional`` for ASE's ``FixScaled``; itself where it has none."""
    if not any(type(constraint) is FixScaled for constraint in atoms.constraints):
        return atoms
    copy: ase.Atoms = atoms.copy()
    copy.set_constraint(
        [FixFractional(c.index, c.mask) if type(c) is FixScaled else c for c in copy.constraints]
    )
    return copy


def held_atoms(atoms: ase.Atoms, kind: Kind) -> list[int]:
    """Indices of the atoms that constraints of a kind hold, in order."""
    parts = [c.get_indices() for c in atoms.constraints if kind_of(c) == kind]
    return np.unique(np.concatenate(parts) % len(atoms)).tolist() if parts else []


def labels_by_atom(atoms: ase.Atoms) -> list[frozenset[str]]:
    """What holds each atom, in words that are equal for equal constraints; (N,) sets, empty for free atoms.

    Along the axes of an orthogonal cell, fixed Cartesian and fixed fractional coordinates are one thing.
    """
    labels: list[set[str]] = [set() for _ in range(len(atoms))]
    upright = is_upright(atoms)
    for constraint in atoms.constraints:
        kind = kind_of(constraint)
        if kind not in ("fixed", "partly fixed"):
            continue
        label = "fixed" if kind == "fixed" else _label(constraint, upright)
        for index in constraint.get_indices():
            labels[index].add(label)
    return [frozenset(label) for label in labels]


def _label(constraint: FixCartesian | FixScaled | FixedLine | FixedPlane, upright: bool) -> str:
    if isinstance(constraint, FixCartesian | FixScaled):
        name = "FixScaled" if isinstance(constraint, FixScaled) and not upright else "FixCartesian"
        return f"{name} {np.asarray(constraint.mask, int)}"
    direction = np.round(constraint.dir, 6)
    direction = direction * np.sign(direction[np.flatnonzero(direction)[0]])  # both signs are one line
    return f"{type(constraint).__name__} {direction + 0.0}"


def fixed_directions(atoms: ase.Atoms, *, lattice: bool = False) -> np.ndarray | None:
    """Whether each atom is held along x, y and z, or along the three lattice vectors.

    Args:
        lattice: ask for lattice vectors, as VASP's flags do.

    Returns:
        (N, 3) bool; None if a constraint holds something else: another direction, a bond, the centre of mass.

    Example:
        >>> from ase.build import bulk
        >>> copper = bulk("Cu")
        >>> copper.set_constraint(FixCartesian(0, (True, False, False)))
        >>> fixed_directions(copper).tolist(), fixed_directions(copper, lattice=True)
        ([[True, False, False]], None)
    """
    fixed = np.zeros((len(atoms), 3), dtype=bool)
    upright = is_upright(atoms)
    for constraint in atoms.constraints:
        mask = _mask(constraint, upright, lattice)
        if mask is None:
            return None
        fixed[constraint.index] |= mask
    return fixed


def is_upright(atoms: ase.Atoms) -> bool:
    """Whether the lattice vectors lie along x, y and z in this order."""
    cell = atoms.cell.array
    return atoms.cell.rank == 3 and bool(np.allclose(cell, np.diag(np.diag(cell)), rtol=0, atol=1e-8))


def _mask(constraint: object, upright: bool, lattice: bool) -> np.ndarray | None:
    if isinstance(constraint, FixAtoms):
        return np.ones(3, dtype=bool)
    if isinstance(constraint, FixScaled | FixCartesian):
        mask = np.asarray(constraint.mask, dtype=bool)
        same = lattice == isinstance(constraint, FixScaled)
        return mask if same or upright or mask.all() else None
    if isinstance(constraint, FixedPlane | FixedLine) and (upright or not lattice):
        axis = np.abs(constraint.dir) > 1e-9
        if axis.sum() == 1:
            return axis if isinstance(constraint, FixedPlane) else ~axis
    return None


def constraints_of(fixed: np.ndarray, kind: type = FixCartesian) -> list:
    """Constraints that hold atoms as said, one for all atoms that are held alike.

    Args:
        fixed: (N, 3) bool.
        kind: of those held along some directions only, ``FixScaled`` for lattice vectors.
    """
    constraints: list = []
    whole = fixed.all(axis=1)
    if whole.any():
        constraints.append(FixAtoms(indices=np.flatnonzero(whole)))
    for mask in np.unique(fixed[fixed.any(axis=1) & ~whole], axis=0):
        constraints.append(kind(np.flatnonzero((fixed == mask).all(axis=1)), mask))
    return constraints


def moved_while_held(atoms: ase.Atoms, positions: np.ndarray, tolerance: float) -> list[int]:
    """Indices of held atoms that ``positions`` (N, 3), in Å, move by more than ``tolerance`` where they are
    held."""
    allowed = np.array(positions)
    for constraint in atoms.constraints:
        if kind_of(constraint) in ("fixed", "partly fixed"):
            constraint.adjust_positions(atoms, allowed)
    return np.flatnonzero(np.linalg.norm(allowed - positions, axis=1) > tolerance).tolist()


def repeated(atoms: ase.Atoms, repeats: Sequence[int]) -> ase.Atoms:
    """The supercell of ``repeats`` cells along each axis; each copy of an atom has what the atom has.

    Constraints that hold atoms are repeated with them, and so are masses, charges, moments and velocities.

    Raises:
        StructureError: along an axis without a cell vector, or with a constraint of which ASE makes no
            multiple (bond lengths, springs).

    Example:
        >>> from ase.build import bulk
        >>> copper = bulk("Cu", cubic=True)
        >>> copper.set_constraint(FixAtoms([0]))
        >>> repeated(copper, (1, 1, 2)).constraints[0].index.tolist()
        [0, 4]
    """
    for axis, number in enumerate(repeats):
        if number != 1 and not atoms.cell.array[axis].any():
            raise StructureError(
                f"structure: axis {'abc'[axis]} has no cell vector to repeat it along; "
                "expected 1 there for --supercell"
            )
    single: ase.Atoms = atoms.copy()
    if all(number == 1 for number in repeats):
        return single
    whole = [c for c in single.constraints if type(c) is FixCom]  # one, of all atoms, however many there are
    single.set_constraint([c for c in single.constraints if type(c) is not FixCom])
    try:
        supercell: ase.Atoms = single.repeat(tuple(repeats))
    except NotImplementedError as error:  # ASE says so of one that names pairs of atoms
        names = ", ".join(sorted({type(c).__name__ for c in single.constraints if kind_of(c) == "other"}))
        raise StructureError(
            f"structure: its constraints ({names}) cannot be repeated; remove them, or give the supercell"
        ) from error
    supercell.set_constraint([*supercell.constraints, *whole])
    return supercell


def listed(indices: Sequence[int], most: int = 6) -> str:
    """``atom 3``, ``atoms 0, 1 and 5``, or ``atoms 0, 1, 2, 3, 4, 5 and 12 more``."""
    names = [str(index) for index in indices[:most]]
    if len(indices) > most:
        names.append(f"{len(indices) - most} more")
    word = "atom" if len(indices) == 1 else "atoms"
    return f"{word} {', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else f"{word} {names[0]}"
