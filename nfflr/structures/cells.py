"""Cells and the atoms in them: vacuum, strain, and displacements and order between two structures."""

from __future__ import annotations

import ase
import numpy as np
from ase.geometry import complete_cell, find_mic
from ase.stress import voigt_6_to_full_3x3_strain
from scipy.linalg import polar

from ..errors import StructureError

VACUUM = 4.5  # Å; a wider gap between planes of atoms separates a molecule or a slab from its images
FEWER = 0.25  # atoms change places if squared displacements along their cycle shrink below this fraction
APART = 0.5  # Å that one of them has to move at least, or they only trade small displacements


def check_cell(cell: np.ndarray, pbc: np.ndarray, name: str = "structure") -> None:
    """Refuse a cell (3, 3) in Å whose periodic axes ``pbc`` (3,) have no length or are parallel.

    Raises:
        StructureError: names the axis.
    """
    pbc = np.asarray(pbc, bool)
    lengths = np.linalg.norm(cell, axis=1)
    for axis in np.flatnonzero(pbc & (lengths < 1e-6)):
        raise StructureError(
            f"{name}: axis {'abc'[axis]} is periodic but its cell vector is zero; "
            "give the cell vector or switch off pbc along it"
        )
    if pbc.any() and np.linalg.svd(cell[pbc] / lengths[pbc, None], compute_uv=False)[-1] < 1e-9:
        axes = ", ".join("abc"[axis] for axis in np.flatnonzero(pbc))
        raise StructureError(f"{name}: periodic axes {axes} are linearly dependent; check the cell")


def complete_box(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """The cell (3, 3) in Å with a unit normal for each axis that is not periodic."""
    return complete_cell(np.where(pbc[:, None], cell, 0.0))


def heights(cell: np.ndarray) -> np.ndarray:
    """Distances (3,) between opposite faces of a cell (3, 3), Å."""
    return 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)


def widest_gaps(atoms: ase.Atoms) -> np.ndarray:
    """Widest gap between neighbouring planes of atoms parallel to each face of the cell, (3,) Å.

    Args:
        atoms: with a cell that has a volume; images along every axis count, whether periodic or not.
    """
    cell = atoms.cell.array
    planes = np.sort(np.linalg.solve(cell.T, atoms.positions.T).T % 1, axis=0)  # (N, 3)
    return np.diff(planes, axis=0, append=planes[:1] + 1).max(axis=0) * heights(cell)


def vacuum_axes(atoms: ase.Atoms) -> list[str]:
    """Names of the periodic axes along which there is vacuum, ``["c"]`` of a slab."""
    if atoms.cell.rank < 3:
        return []
    gaps = widest_gaps(atoms)
    return ["abc"[k] for k in range(3) if atoms.pbc[k] and gaps[k] > VACUUM]


def strained(atoms: ase.Atoms, strain: np.ndarray) -> ase.Atoms:
    """Copy under a strain (6,) without rotation, shears as engineering strains; positions follow the cell.

    Example:
        >>> from ase.build import bulk
        >>> silicon = bulk("Si", cubic=True)
        >>> longer = strained(silicon, np.array([0.01, 0, 0, 0, 0, 0]))
        >>> round(float(longer.cell.lengths()[0] / silicon.cell.lengths()[0]), 3)
        1.01
    """
    copy: ase.Atoms = atoms.copy()
    copy.set_cell(atoms.cell.array @ voigt_6_to_full_3x3_strain(strain), scale_atoms=True)  # ASE adds one
    return copy


def logarithmic_strain(reference: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rotation and the logarithmic strain between two cells (3, 3) of one handedness.

    Returns:
        turn (3, 3), which brings a vector v of ``cell`` into the frame of the reference as ``turn @ v``;
        strain (3, 3), symmetric, in that frame.
    """
    turn, stretch = polar(np.linalg.solve(reference, cell), side="left")
    values, axes = np.linalg.eigh(stretch)
    return turn, (axes * np.log(np.maximum(values, 1e-3))) @ axes.T


def displacements(initial: ase.Atoms, final: ase.Atoms) -> np.ndarray:
    """Shortest displacement (N, 3) of each atom, Å, in the periodic cell of ``initial``."""
    return find_mic(final.positions - initial.positions, initial.cell, initial.pbc)[0]


def nearest_order(initial: ase.Atoms, final: ase.Atoms) -> np.ndarray:
    """The order (N,) of the atoms of ``final`` with the least sum of squared displacements from ``initial``.

    ``final[order]`` has the elements of ``initial``, atom by atom: a linear assignment within each element.
    Both hold the same number of atoms of each element.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import, and rarely needed

    order = np.arange(len(initial))
    for number in np.unique(initial.numbers):
        places, candidates = (np.flatnonzero(atoms.numbers == number) for atoms in (initial, final))
        vectors = (final.positions[candidates] - initial.positions[k] for k in places)  # (n, 3) each
        cost = np.square([find_mic(steps, initial.cell, initial.pbc)[1] for steps in vectors])  # (n, n)
        rows, columns = linear_sum_assignment(cost)
        order[places[rows]] = candidates[columns]
    return order


def exchanged(initial: ase.Atoms, final: ase.Atoms) -> list[list[int]]:
    """Groups of atoms that change places, as another order of the same atoms would make them.

    Atom for atom, ``final`` holds the elements of ``initial``. In a group each atom ends where another one
    began, and without the exchange the group would move far less. A hop that pushes a neighbour on is no
    exchange: one of its two atoms ends where none was.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    moved = np.square(displacements(initial, final)).sum(axis=1)  # (N,)
    far = np.flatnonzero(moved > APART**2)
    order = np.arange(len(initial))
    if len(far) > 1:  # all others stay, so they have no part in it
        order[far] = far[nearest_order(initial[far], final[far])]
    groups = []
    cycles = connected_components(coo_array((np.ones_like(order), (np.arange(len(order)), order))))[1]
    for label in np.flatnonzero(np.bincount(cycles) > 1):
        cycle = np.flatnonzero(cycles == label)
        straight = np.square(displacements(initial[cycle], final[order[cycle]])).sum()
        if straight < FEWER * moved[cycle].sum():
            groups.append(cycle.tolist())
    return groups
