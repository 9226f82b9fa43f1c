"""Where a potential goes by itself: molecular dynamics and relaxations, left before they become nonsense."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import ase
import numpy as np
from ase.calculators.calculator import Calculator

from ..errors import NumericsError, StructureError
from ..storage.archives import Archive
from ..workflows.molecular_dynamics import MdSettings, md
from ..workflows.relaxation import RelaxSettings, relax
from .sampling import rattled, strained, too_close

RUNGS = np.array([0.3, 0.65, 1.0])  # of the highest temperature
FRAMES = 20  # of one walk
STRAIN = 0.015  # largest component of the cell's, as a barostat or a hot crystal would have it


class _DoubtfulError(Exception):
    """The members of the committee disagree too much for their mean to be followed."""


def timestep(atoms: ase.Atoms) -> float:
    """fs: hydrogen needs short ones."""
    return 0.5 if 1 in atoms.numbers else 2.0


def walk(atoms: ase.Atoms, calculator: Calculator, settings: MdSettings, limit: float) -> list[ase.Atoms]:
    """Frames of an MD run up to the last one on whose forces the committee agrees to ``limit`` (eV/Å).

    A calculator without ``forces_std`` agrees with itself. An explosion ends a walk too.
    """
    archive, agreed = Archive(), 0

    def watch(step: int, total: int, numbers: dict[str, float], atoms: ase.Atoms) -> None:
        nonlocal agreed
        if np.max(calculator.results.get("forces_std", 0.0)) > limit:  # of this frame, evaluated just now
            raise _DoubtfulError
        agreed += 1

    with suppress(_DoubtfulError, NumericsError, StructureError):
        md(atoms, calculator, settings, watch, archive)
    frames = [frame.copy() for frame in archive.frames()[1 : 1 + agreed]]
    for frame in frames:
        frame.info = {"config_type": "md"}
        frame.arrays.pop("momenta", None)
    return [frame for frame in frames if not too_close(frame)]


def md_frames(
    supercells: Mapping[str, ase.Atoms],
    calculator: Calculator,
    temperature: float,
    steps: int,
    limit: float,
    rng: np.random.Generator,
) -> list[ase.Atoms]:
    """Frames of walks at a ladder of temperatures, each from a slightly strained and rattled supercell."""
    frames = []
    for supercell in supercells.values():
        for rung in RUNGS * temperature:
            start = strained(supercell, STRAIN * rng.uniform(-1, 1, 6))
            start.set_constraint()
            settings = MdSettings(
                temperature=rung,
                timestep=timestep(supercell),
                steps=steps,
                interval=max(1, steps // FRAMES),
                thermostat_time=50,
                seed=int(rng.integers(2**31)),
                melting=False,
            )
            frames += walk(start, calculator, settings, limit)
    return frames


def relaxation_frames(
    supercells: Mapping[str, ase.Atoms], calculator: Calculator, temperature: float, rng: np.random.Generator
) -> list[ase.Atoms]:
    """Some of the steps from rattled supercells downhill."""
    frames = []
    for supercell in supercells.values():
        for start in rattled(supercell, 4, temperature, rng)[-1:]:
            try:
                found = relax(start, calculator, RelaxSettings(fmax=0.05, steps=20))
            except (NumericsError, StructureError):
                continue
            frames += [frame.copy() for frame in found.trajectory[3::6]]
    for frame in frames:
        frame.info = {"config_type": "relaxation"}
    return [frame for frame in frames if not too_close(frame)]
