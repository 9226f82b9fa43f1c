"""Equal q-points: up to a reciprocal lattice vector, time reversal, and the point group."""

from __future__ import annotations

from typing import Protocol

import ase
import numpy as np

from ...errors import NumericsError
from ..framework.interface import symmetry_of

SAME = 1e-4  # fractional; far below the distance of neighbours on any path


class Bands(Protocol):
    """What is needed of a result: (Q, 3) q-points in the basis of its primitive cell, and that cell."""

    @property
    def band_qpoints(self) -> np.ndarray: ...
    @property
    def cell(self) -> np.ndarray: ...
    @property
    def scaled_positions(self) -> np.ndarray: ...
    @property
    def symbols(self) -> list[str]: ...


def rows_of(qpoints: np.ndarray, bands: Bands) -> np.ndarray:
    """For each of the q-points (n, 3) the index of one on the path where frequencies are the same.

    Raises:
        NumericsError: there is none.
    """
    operations = _operations(bands)
    rows = np.empty(len(qpoints), dtype=int)
    for k, q in enumerate(np.asarray(qpoints, dtype=float)):
        found = _row(bands.band_qpoints, q[None])
        if found is None:
            found = _row(bands.band_qpoints, operations @ q)
        if found is None:
            place = ", ".join(f"{x:g}" for x in q)
            raise NumericsError(f"q-point ({place}): is not on the band path; give references on the path")
        rows[k] = found
    return rows


def _operations(bands: Bands) -> np.ndarray:
    """(R, 3, 3) point group and inversion, acting on fractional reciprocal coordinates."""
    atoms = ase.Atoms(bands.symbols, cell=bands.cell, scaled_positions=bands.scaled_positions, pbc=True)
    direct = np.unique(symmetry_of(atoms, 1e-3).rotations, axis=0)
    reciprocal = direct.transpose(0, 2, 1)  # the transposes are those of the inverses, which are in the group
    return np.concatenate([reciprocal, -reciprocal])


def _row(path: np.ndarray, candidates: np.ndarray) -> int | None:
    """The first point of the path (Q, 3) that is one of the candidates (n, 3)."""
    difference = path[:, None] - candidates  # (Q, n, 3)
    same = (np.abs(difference - np.rint(difference)) < SAME).all(axis=2).any(axis=1)
    return int(same.argmax()) if same.any() else None
