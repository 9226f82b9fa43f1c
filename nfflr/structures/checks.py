"""What makes a structure unusable or doubtful: checks that every reader and calculator shares."""

from __future__ import annotations

import ase
import numpy as np
from ase.data import covalent_radii

from ..errors import StructureError
from ..notes import note
from .cells import VACUUM, check_cell, heights, widest_gaps
from .neighbours import ClosePairs, close_pairs

CLOSEST = 0.3  # Å; atoms that are closer in a file are a mistake in it
BONDED = (0.7, 1.35)  # shortest distance in a crystal, as a share of the sum of covalent radii


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
    elements = (atoms.numbers > 0) & (atoms.numbers < 119)
    if not elements.all():
        atom = int(np.argmin(elements))
        raise StructureError(
            f"{name}: atom {atom} has atomic number {atoms.numbers[atom]}; expected an element (1 to 118)"
        )
    if not np.isfinite(atoms.cell.array).all():
        raise StructureError(f"{name}: the cell is not finite; check the file")
    check_cell(atoms.cell.array, atoms.pbc, name)


def check_distances(atoms: ase.Atoms, name: str = "structure") -> None:
    """Refuse a structure in which two atoms are closer than ``CLOSEST`` Å.

    Raises:
        StructureError: names both atoms, the image and the distance.
    """
    pairs = close_pairs(atoms.positions, atoms.cell.array, atoms.pbc, CLOSEST)
    if len(pairs.distances):
        raise StructureError(
            f"{name}: {_pair(atoms, pairs, 0)}; atoms closer than {CLOSEST} Å are a mistake, correct the file"
        )


def check_trained_distances(atoms: ase.Atoms, shortest: np.ndarray, name: str = "structure") -> None:
    """Refuse two atoms closer than half of the shortest distance that a potential was trained on.

    Args:
        shortest: (Z, Z) Å by atomic numbers; 0 or infinite where no pair is known.

    Raises:
        StructureError: names both atoms, the image, and both distances.
    """
    numbers = np.unique(atoms.numbers)
    table = np.where(np.isfinite(shortest), shortest, 0.0) / 2
    cutoff = table[np.ix_(numbers, numbers)].max()
    if not cutoff:
        return
    pairs = close_pairs(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    limits = table[atoms.numbers[pairs.first], atoms.numbers[pairs.second]]
    close = np.flatnonzero(pairs.distances < limits)
    if len(close):
        k = int(close[0])
        raise StructureError(
            f"{name}: {_pair(atoms, pairs, k)}, less than half of the shortest such distance that the "
            f"potential was trained on ({2 * limits[k]:.3g} Å); correct the structure"
        )


def _pair(atoms: ase.Atoms, pairs: ClosePairs, k: int) -> str:
    i, j = int(pairs.first[k]), int(pairs.second[k])
    image = f" in the image {tuple(map(int, pairs.shifts[k]))}" if pairs.shifts[k].any() else ""
    apart = f"are {pairs.distances[k]:.3g} Å apart" if pairs.distances[k] > 1e-3 else "coincide"
    return f"atoms {i} and {j} ({atoms.symbols[i]}, {atoms.symbols[j]}){image} {apart}"


def advise(atoms: ase.Atoms, name: str) -> None:
    """Give a note about a cell that is filled as in a crystal, but periodic along no axis.

    A molecule in a box with vacuum, and one without a cell, need no note.
    """
    if atoms.cell.rank == 3 and not atoms.pbc.any() and _looks_periodic(atoms):
        note(
            f"{name}: has a cell that its atoms fill, but no periodic axis; it is computed as a cluster. "
            'For a crystal, switch the axes on (extended XYZ: pbc="T T T"; ASE: atoms.pbc = True)'
        )


def _looks_periodic(atoms: ase.Atoms) -> bool:
    """Whether the cell, repeated, would be a crystal: no wide gap, and bonds across its faces."""
    cell, everywhere = atoms.cell.array, np.ones(3, bool)
    if heights(cell).min() < 0.5 or (widest_gaps(atoms) > VACUUM).any():
        return False
    radii = covalent_radii[atoms.numbers]
    pairs = close_pairs(atoms.positions, cell, everywhere, BONDED[1] * 2 * radii.max())
    shares = pairs.distances / (radii[pairs.first] + radii[pairs.second])
    across = shares[pairs.shifts.any(axis=1)]
    return bool(len(across) and shares.min() >= BONDED[0] and across.min() <= BONDED[1])


def net_force(forces: np.ndarray) -> float:
    """Sum of the forces (N, 3) relative to what independent forces of these sizes would add up to.

    That is |Σ F| / (Σ |F|²)^½, without unit. It is zero where nothing acts from outside, about one for forces
    that do not belong to the structure (of other atoms, or read from shifted columns), and zero where all
    forces are zero.
    """
    return _ratio(forces.sum(axis=0), forces)


def net_torque(positions: np.ndarray, forces: np.ndarray) -> float:
    """Torque on a structure without periodic axes, relative to that of independent forces of these sizes.

    That is |Σ r × F| / (Σ |r|²|F|²)^½ with r (N, 3) from the centroid, without unit; it says the same as
    ``net_force``. Along a periodic axis the torque has no meaning.
    """
    arms = positions - positions.mean(axis=0)
    scales = np.linalg.norm(arms, axis=1)[:, None] * forces  # (N, 3)
    return _ratio(np.cross(arms, forces).sum(axis=0), scales)


def _ratio(total: np.ndarray, parts: np.ndarray) -> float:
    scale = np.linalg.norm(parts)
    return float(np.linalg.norm(total) / scale) if scale > 0 else 0.0
