"""Phonon density of states of the elements, on irreducible q-points alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from phonopy import Phonopy
from phonopy.phonon.mesh import Mesh
from phonopy.phonon.tetrahedron_method import get_integration_weights

POINTS = 201  # frequencies
MARGIN = 0.1  # of the width of the spectrum, on either side


@dataclass(frozen=True)
class Density:
    """``frequencies`` (F,) THz, ``total`` (F,) and ``projected`` (E, F) in 1/(THz cell), by ``elements``."""

    frequencies: np.ndarray
    total: np.ndarray
    elements: list[str]
    projected: np.ndarray


def density_of_states(phonon: Phonopy, mesh: Mesh) -> Density:
    """Densities of states by the linear tetrahedron method (Blöchl et al., PRB 49, 16223 (1994)).

    Projections on single atoms need every point of the mesh; symmetry takes an atom to one of the same
    element, so that those on elements need the irreducible ones only. Tetrahedra are turned by the point
    group and averaged: the cut of the mesh into tetrahedra has less symmetry than the crystal.

    Args:
        phonon: whose mesh it is.
        mesh: with eigenvectors.
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
    return Density(points, projected.sum(axis=0), elements, projected)
