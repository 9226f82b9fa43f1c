"""What every workflow shares: settings, result, and a way to report progress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Protocol

import ase
import numpy as np
from pydantic import BaseModel, ConfigDict, PlainSerializer

# (n, 3) or (n,) float64; lists in JSON.
Array = Annotated[np.ndarray, PlainSerializer(lambda a: a.tolist(), return_type=list)]


@dataclass(frozen=True)
class Table:
    """Columns of equal length by name with unit, ``"time (ps)"``; a result's is written as CSV."""

    columns: dict[str, np.ndarray]


class Settings(BaseModel):
    """Frozen options; each field's default, help text and unit are also the command line's."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Result(BaseModel):
    """What a workflow found. Fields of type ``ase.Atoms`` are written as structure files, lists of
    them (or sequences, read frame by frame) as trajectories, a ``Table`` as CSV, everything else goes to
    JSON; ``Unit`` annotations give the units."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    converged: bool
    message: str = ""


class Progress(Protocol):
    """Called once per step with the numbers that matter, by name with unit: ``{"fmax (eV/Å)": 0.03}``."""

    def __call__(self, step: int, total: int, numbers: dict[str, float], atoms: ase.Atoms) -> None: ...


def silent(step: int, total: int, numbers: dict[str, float], atoms: ase.Atoms) -> None:
    """The default ``Progress``: say nothing."""


def has_stress(atoms: ase.Atoms) -> bool:
    """Whether a stress is defined: an axis is periodic and the cell has a volume."""
    return bool(atoms.pbc.any()) and atoms.cell.rank == 3


def snapshot(atoms: ase.Atoms) -> ase.Atoms:
    """Copy of a structure that carries its energy, forces and stress, without the calculator."""
    from ase.calculators.singlepoint import SinglePointCalculator

    copy = atoms.copy()
    names = ("energy", "free_energy", "forces", *(("stress",) if has_stress(atoms) else ()))
    results = {name: value for name, value in atoms.calc.results.items() if name in names}
    copy.calc = SinglePointCalculator(copy, **results)
    return copy
