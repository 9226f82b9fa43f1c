"""Along which directions constraints hold atoms, for programs that know no others than axes."""

from __future__ import annotations

import ase
import numpy as np
from ase.constraints import FixAtoms, FixCartesian, FixedLine, FixedPlane, FixScaled


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
