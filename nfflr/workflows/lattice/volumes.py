"""One crystal at several volumes."""

from __future__ import annotations

from collections.abc import Sequence

import ase
import numpy as np
from ase.calculators.calculator import Calculator

from ...storage.archives import Archive
from ..framework.evaluations import evaluate
from ..framework.interface import Progress
from .harmonic import rest
from .phonon_settings import LatticeSettings


def at_volumes(
    start: ase.Atoms,
    ratios: Sequence[float] | np.ndarray,
    calculator: Calculator,
    settings: LatticeSettings,
    progress: Progress,
    archive: Archive,
) -> list[ase.Atoms]:
    """Evenly scaled copies, ``ratios`` times the volume; positions relaxed unless ``relax`` is ``"none"``.

    Raises:
        NumericsError: a relaxation did not converge.
    """
    fixed = settings.model_copy(update={"relax": "none" if settings.relax == "none" else "positions"})
    cells = []
    for ratio in ratios:
        scaled = start.copy()
        scaled.set_cell(start.cell.array * ratio ** (1 / 3), scale_atoms=True)
        cells.append(rest(scaled, calculator, fixed, progress, archive))
    return cells


def energies_of(cells: Sequence[ase.Atoms], calculator: Calculator, archive: Archive) -> np.ndarray:
    """Energies in eV, (V,)."""
    return np.array([r["energy"] for r in evaluate(calculator, cells, ("energy",), archive=archive)])
