"""Paths through the Brillouin zone, and phonons along them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from ase.cell import Cell
from ase.dft.kpoints import parse_path_string
from phonopy import Phonopy
from phonopy.phonon.band_structure import get_band_qpoints_and_path_connections

from ...errors import StructureError

GAMMA = {"G": "Γ"}


@dataclass(frozen=True)
class BandPath:
    """A path in pieces, as phonopy takes it.

    Attributes:
        qpoints: one array (n, 3) per straight piece, fractional coordinates of the primitive cell's
            reciprocal lattice.
        ends: names of the first and last point of each piece.
        points: fractional coordinates of the named points.
    """

    qpoints: list[np.ndarray]
    ends: list[tuple[str, str]]
    points: dict[str, np.ndarray]


def band_path(phonon: Phonopy, points: int) -> BandPath:
    """The standard path of the lattice of phonopy's primitive cell, in the basis of that very cell.

    Special points are those of Setyawan and Curtarolo, Comput. Mater. Sci. 49, 299 (2010), as ASE has them.

    Args:
        phonon: its primitive cell decides.
        points: q-points on the longest piece; shorter ones get as many as the same spacing allows.

    Raises:
        StructureError: the Bravais lattice is not recognised.
    """
    cell = Cell(phonon.primitive.cell)
    try:
        # Lattice vectors obey symmetry to a few times symprec, which ASE takes relative to their length.
        path = cell.bandpath(npoints=0, eps=max(2e-4, 10 * phonon.symmetry.tolerance))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise StructureError(
            f"structure: no band path, its Bravais lattice is not recognised ({error})"
        ) from error
    pieces = parse_path_string(path.path)
    coordinates = [[path.special_points[name] for name in names] for names in pieces]
    reciprocal = np.linalg.inv(phonon.primitive.cell).astype(np.double)  # columns
    qpoints, _ = get_band_qpoints_and_path_connections(coordinates, points, reciprocal)
    ends = [(a, b) for names in pieces for a, b in pairwise(names)]
    return BandPath(
        qpoints,
        [(GAMMA.get(a, a), GAMMA.get(b, b)) for a, b in ends],
        {GAMMA.get(name, name): np.array(q) for name, q in path.special_points.items()},
    )


def ticks(path: BandPath, distances: list[np.ndarray]) -> tuple[list[str], list[float]]:
    """Labels and where they stand; two points that the path jumps between share one, ``U|K``."""
    labels, places = [path.ends[0][0]], [0.0]
    for (start, end), along in zip(path.ends, distances, strict=True):
        if labels[-1] != start:
            labels[-1] = f"{labels[-1]}|{start}"
        labels.append(end)
        places.append(float(along[-1]))
    return labels, places


def name_of(q: np.ndarray, phonon: Phonopy, points: dict[str, np.ndarray]) -> str:
    """Name of a special point that ``q`` is equivalent to by symmetry, or an empty string."""
    for rotation in phonon.primitive_symmetry.reciprocal_operations:
        for name, special in points.items():
            difference = rotation @ q - special
            if np.abs(difference - np.rint(difference)).max() < 1e-5:
                return name
    return ""
