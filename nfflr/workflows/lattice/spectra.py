"""Phonon bands along paths, densities of states, Grüneisen parameters of modes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from ase.cell import Cell
from ase.dft.kpoints import parse_path_string
from matplotlib.axes import Axes
from phonopy import Phonopy
from phonopy.harmonic.dynamical_matrix import DynamicalMatrixNAC
from phonopy.phonon.band_structure import get_band_qpoints_and_path_connections
from phonopy.phonon.degeneracy import lift_degeneracy
from phonopy.phonon.mesh import Mesh
from phonopy.phonon.tetrahedron_method import get_integration_weights
from phonopy.physical_units import get_physical_units

from ...errors import StructureError

GAMMA = {"G": "Γ"}


@dataclass(frozen=True)
class BandPath:
    """A path in straight pieces: q-points (n, 3) and names of ends of each, places of named points."""

    qpoints: list[np.ndarray]
    ends: list[tuple[str, str]]
    points: dict[str, np.ndarray]


def band_path(phonon: Phonopy, points: int) -> BandPath:
    """The standard path of the lattice of phonopy's primitive cell, in the basis of that very cell.

    Special points are those of Setyawan and Curtarolo, Comput. Mater. Sci. 49, 299 (2010), as ASE has them.
    The longest piece gets ``points`` q-points, shorter ones as many as the same spacing allows.

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


def path_fields(path: BandPath, distances: list[np.ndarray]) -> dict[str, Any]:
    """Fields of a result that place its values along the path; ``distances`` of the points of each piece."""
    labels, places = ticks(path, distances)
    return {
        "band_labels": labels,
        "band_label_distances": np.array(places),
        "band_pieces": np.cumsum([0, *map(len, path.qpoints)])[:-1],
        "band_qpoints": np.concatenate(path.qpoints),
        "band_distances": np.concatenate(distances),
    }


def name_of(q: np.ndarray, phonon: Phonopy, points: dict[str, np.ndarray]) -> str:
    """Name of a special point that ``q`` is equivalent to by symmetry, or an empty string."""
    for rotation in phonon.primitive_symmetry.reciprocal_operations:
        for name, special in points.items():
            difference = rotation @ q - special
            if np.abs(difference - np.rint(difference)).max() < 1e-5:
                return name
    return ""


POINTS = 201  # frequencies
MARGIN = 0.1  # of the width of the spectrum, on either side


def density_of_states(phonon: Phonopy, mesh: Mesh) -> dict[str, Any]:
    """Densities of states by the linear tetrahedron method (Blöchl et al., PRB 49, 16223 (1994)).

    Projections on single atoms need every point of the mesh; symmetry takes an atom to one of the same
    element, so that those on elements need the irreducible ones only. Tetrahedra are turned by the point
    group and averaged: the cut of the mesh into tetrahedra has less symmetry than the crystal.

    Returns:
        fields of a result: ``dos_frequencies`` (F,) THz, ``dos`` (F,) and ``projected_dos`` (E, F) in
        1/(THz cell), the latter by ``dos_elements``.
    """
    f = mesh.frequencies  # (Q, B)
    margin = MARGIN * (f.max() - f.min())
    points = np.linspace(f.min() - margin, f.max() + margin, POINTS)
    index_of = np.searchsorted(mesh.ir_grid_points, mesh.grid_mapping_table)  # of all points
    weights = get_integration_weights(
        points,
        f,
        mesh.bz_grid,
        grid_points=mesh.bz_grid.grg2bzg[mesh.ir_grid_points],
        bzgp2irgp_map=index_of[mesh.bz_grid.bzg2grg],
        function="I",
        symmetrize_tetrahedra=True,
    )  # (Q, F, B)
    symbols = np.array(phonon.primitive.symbols)
    elements = list(dict.fromkeys(phonon.primitive.symbols))
    assert mesh.eigenvectors is not None  # the mesh was made with them
    amplitudes = np.square(np.abs(mesh.eigenvectors)).reshape(len(f), len(symbols), 3, -1).sum(axis=2)
    parts = np.stack([amplitudes[:, symbols == e].sum(axis=1) for e in elements])  # (E, Q, B)
    parts = parts * (mesh.weights / mesh.weights.sum())[None, :, None]
    projected = np.einsum("qfb,eqb->ef", weights, parts, optimize=True)
    return {
        "dos_frequencies": points,
        "dos": projected.sum(axis=0),
        "dos_elements": elements,
        "projected_dos": projected,
    }


def mode_gruneisen(
    phonons: Sequence[Phonopy], qpoints: np.ndarray, direction: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies (Q, B) in THz, negative if imaginary, and γ = −⟨e|∂D/∂ln V|e⟩ / 2λ, (Q, B).

    Modes of one frequency take the basis in which the change of D is diagonal. phonopy's own class compares
    eigenvalues, squares of frequencies, with a threshold for frequencies: near Γ, where all of them are
    small, it mixes modes that differ. The ``phonons`` are at rest, at a larger and at a smaller volume;
    ``direction`` (3,) is that from which Γ is approached, where Born charges are known.
    """
    middle, larger, smaller = phonons
    strain = (larger.primitive.volume - smaller.primitive.volume) / middle.primitive.volume
    unit = get_physical_units().DefaultToTHz
    frequencies, parameters = np.empty((2, len(qpoints), 3 * len(middle.primitive)))
    for k, q in enumerate(qpoints):
        matrix, above, below = (_dynamical_matrix(phonon, q, direction) for phonon in phonons)
        eigenvalues, vectors = np.linalg.eigh(matrix)
        frequencies[k] = np.sign(eigenvalues) * np.sqrt(np.abs(eigenvalues)) * unit
        changes, _ = lift_degeneracy(frequencies[k], vectors, above - below)
        with np.errstate(divide="ignore", invalid="ignore"):
            parameters[k] = -changes / strain / eigenvalues / 2
    return frequencies, parameters


def _dynamical_matrix(phonon: Phonopy, q: np.ndarray, direction: np.ndarray | None) -> np.ndarray:
    dynamical = phonon.dynamical_matrix
    assert dynamical is not None  # there are force constants
    dynamical.run(q, **({"q_direction": direction} if isinstance(dynamical, DynamicalMatrixNAC) else {}))
    assert dynamical.dynamical_matrix is not None  # just made
    return dynamical.dynamical_matrix.copy()


WIDTH = 1.2  # of lines
SUBJECT = "0.15"  # its colour; what it is compared with has colours


def draw_path(axes: Axes, result, values: np.ndarray, frame=None, label: str = "", **style) -> None:
    """Lines of (Q, B) values along the band path of a result, with the names of its points.

    ``frame`` is another result whose axis is used, so that points of the same name meet although the cells
    differ in size. A result with other points is not drawn.
    """
    frame = result if frame is None else frame
    if result.band_labels != frame.band_labels:
        axes.plot([], [], **style, label=f"{label} (along another path)")
        return
    edges = [*result.band_pieces, len(result.band_distances)]
    along = np.interp(result.band_distances, result.band_label_distances, frame.band_label_distances)
    for start, end in pairwise(edges):
        axes.plot(along[start:end], values[start:end], **style)
    axes.plot([], [], label=label, **style)
    names = [re.sub(r"([A-ZΓ])(\d+)", r"$\\mathrm{\1}_{\2}$", label) for label in frame.band_labels]
    axes.set_xticks(frame.band_label_distances, names)
    for place in frame.band_label_distances:
        axes.axvline(place, color="0.8", lw=0.8, zorder=0)
    axes.set_xlim(0, frame.band_distances[-1])
    axes.tick_params(axis="x", length=0)
