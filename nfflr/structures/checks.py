"""What makes a structure unusable: checks that every reader and calculator shares."""

from __future__ import annotations

import ase
import numpy as np

from ..errors import StructureError


def check_structure(atoms: ase.Atoms, name: str = "structure") -> None:
    """Refuse a structure that no calculator can treat.

    Raises:
        StructureError: empty structure, non-finite coordinate or cell, unknown atomic number, or a
            periodic axis without volume. The message names the atom or axis.
    """
    if len(atoms) == 0:
        raise StructureError(f"{name}: the structure has no atoms; expected at least one")
    finite = np.isfinite(atoms.positions).all(axis=1)
    if not finite.all():
        raise StructureError(
            f"{name}: atom {int(np.argmin(finite))} has a coordinate that is not finite; check the file"
        )
    known = (atoms.numbers > 0) & (atoms.numbers < 119)
    if not known.all():
        bad = int(np.argmin(known))
        raise StructureError(
            f"{name}: atom {bad} has atomic number {atoms.numbers[bad]}; expected an element (1 to 118)"
        )
    if not np.isfinite(atoms.cell.array).all():
        raise StructureError(f"{name}: the cell is not finite; check the file")
    check_cell(atoms.cell.array, atoms.pbc, name)


def check_cell(cell: np.ndarray, pbc: np.ndarray, name: str = "structure") -> None:
    """Refuse a cell (3, 3) in Å whose periodic axes ``pbc`` (3,) have no length or are parallel."""
    lengths = np.linalg.norm(cell, axis=1)
    for axis in np.flatnonzero(pbc):
        if lengths[axis] < 1e-6:
            raise StructureError(
                f"{name}: axis {'abc'[axis]} is periodic but its cell vector is zero; "
                "give the cell vector or switch off pbc along it"
            )
    periodic = cell[np.asarray(pbc, bool)]
    if len(periodic):
        unit = periodic / np.linalg.norm(periodic, axis=1)[:, None]
        if np.linalg.svd(unit, compute_uv=False)[-1] < 1e-9:
            axes = ", ".join("abc"[axis] for axis in np.flatnonzero(pbc))
            raise StructureError(f"{name}: periodic axes {axes} are linearly dependent; check the cell")
