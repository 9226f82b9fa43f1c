"""One pass over the frames: the table, and how far atoms are from where they began."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import ase
import numpy as np

from ..framework.interface import Table
from .simulation import COLUMNS
from .start import free_axes


@dataclass(frozen=True)
class Trace:
    """Attributes:
    step: (F,) of the frames.
    table: a row per frame; NaN where there is no such quantity.
    displacement: (F,) Å, root mean square distance from the first frame, the centre of mass at rest.
    furthest: (F,) the atom that is furthest away.
    """

    step: np.ndarray
    table: Table
    displacement: np.ndarray
    furthest: np.ndarray


def trace(frames: Sequence[ase.Atoms]) -> Trace:
    """Read every frame once. Displacements are in scaled coordinates, so that a cell may breathe."""
    steps, rows, displacement, furthest = [], [], [], []
    first = None
    for frame in frames:
        steps.append(frame.info["step"])
        rows.append([frame.info["thermo"][name] for name in COLUMNS])
        scaled = frame.cell.rank == 3
        positions = frame.cell.scaled_positions(frame.positions) if scaled else frame.positions
        first = positions if first is None else first
        moved = (positions - first) @ (frame.cell.array if scaled else np.eye(3))  # (N, 3)
        masses = frame.get_masses()
        moved = moved - free_axes(frame) * (masses @ moved) / masses.sum()
        squares = np.square(moved).sum(axis=1)
        displacement.append(np.sqrt(squares.mean()))
        furthest.append(int(squares.argmax()))
    columns = np.array(rows, dtype=float).T  # (columns, F); None becomes NaN
    table = Table(dict(zip(COLUMNS, columns, strict=True)))
    return Trace(np.array(steps), table, np.array(displacement), np.array(furthest))
