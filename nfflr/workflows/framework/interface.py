"""Settings, types of fields, checks, and progress, which every workflow shares."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Annotated, Protocol

import ase
import numpy as np
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.spacegroup.symmetrize import check_symmetry
from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, PositiveInt
from spglib import SpglibDataset

from ...errors import StructureError
from ...units import GPA


def _array(value: object) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype == object and isinstance(value, list | tuple):  # JSON has null for NaN
        with contextlib.suppress(TypeError):
            array = np.asarray(value, dtype=float)
    if array.dtype.kind not in "biuf":
        raise ValueError("expected an array of numbers")
    return array


# (n, 3) or (n,) float64, or int64; lists in JSON, and read back from them.
Array = Annotated[
    np.ndarray, BeforeValidator(_array), PlainSerializer(lambda a: a.tolist(), return_type=list)
]


Repeats = tuple[PositiveInt, PositiveInt, PositiveInt]  # of a cell along each axis, or points of a mesh


@dataclass(frozen=True)
class Text:
    """Marks a result field whose text is a file of its own: ``Annotated[str, Text(".yaml")]``."""

    suffix: str


@dataclass(frozen=True)
class Labelled:
    """Marks a structure that is written with its results, as ``<stem>-<workflow>-<field>.xyz``."""


@dataclass(frozen=True)
class Table:
    """Columns of equal length by name with unit, ``"time (ps)"``; a result's is written as CSV."""

    columns: dict[str, np.ndarray]


class Settings(BaseModel):
    """Frozen options; each field's default, help text and unit are also the command line's."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Progress(Protocol):
    """Called once per step with the numbers that matter, by name with unit: ``{"fmax (eV/Å)": 0.03}``."""

    def __call__(self, step: int, total: int, numbers: dict[str, float], atoms: ase.Atoms) -> None: ...


def silent(step: int, total: int, numbers: dict[str, float], atoms: ase.Atoms) -> None:
    """The default ``Progress``: say nothing."""


def has_stress(atoms: ase.Atoms) -> bool:
    """Whether a stress is defined: an axis is periodic and the cell has a volume."""
    return bool(atoms.pbc.any() and atoms.cell.array.any(axis=1).all())  # ASE's rank costs more


def require_stress(atoms: ase.Atoms) -> None:
    """Raise ASE's ``PropertyNotImplementedError`` if no axis is periodic or the cell has no volume."""
    if not has_stress(atoms):
        raise PropertyNotImplementedError(
            "stress needs a periodic structure whose cell has a volume; this one has none"
        )


def check_atoms(atoms: ase.Atoms) -> None:
    """Refuse a structure without atoms with a ``StructureError``."""
    if len(atoms) == 0:
        raise StructureError("structure: the structure has no atoms; expected at least one")


def check_crystal(atoms: ase.Atoms, what: str, instead: str = "give a crystal") -> None:
    """Refuse a structure without three periodic axes; ``what`` needs them, ``instead`` says what to do."""
    if not (atoms.pbc.all() and atoms.cell.rank == 3):
        raise StructureError(f"structure: {what} needs three periodic axes; {instead}")


def symmetry_of(atoms: ase.Atoms, symprec: float) -> SpglibDataset:
    """spglib's dataset of a crystal by ASE, for any version of spglib; ``symprec`` in Å."""
    try:
        dataset: SpglibDataset = check_symmetry(atoms, symprec)
    except Exception as error:  # the class differs between versions
        raise StructureError(
            f"structure: spglib finds no symmetry within {symprec:g} Å ({error}); change --symprec"
        ) from error
    return dataset


def stress_note(results: dict, limit: float = 0.5) -> list[str]:
    """A note about a crystal taken as relaxed whose stress is above ``limit`` GPa, or nothing."""
    stress = np.abs(results.get("stress", 0.0)).max() / GPA
    return [f"the crystal is under {stress:.2g} GPa; relax its cell first"] if stress > limit else []


class FrameResults(SinglePointCalculator):
    """Results of one structure, which sees changes to the last bit, and faster than ASE's class."""

    def check_state(self, atoms: ase.Atoms, tol: float = 0.0) -> list[str]:
        mine: ase.Atoms = self.atoms  # type: ignore[assignment]  # set when it is made
        pairs = {
            "positions": (mine.positions, atoms.positions),
            "numbers": (mine.numbers, atoms.numbers),
            "cell": (mine.cell.array, atoms.cell.array),
            "pbc": (mine.pbc, atoms.pbc),
        }
        return [name for name, (old, new) in pairs.items() if old.tobytes() != new.tobytes()]


def snapshot(atoms: ase.Atoms) -> ase.Atoms:
    """Copy of a structure that carries its energy, forces and stress, without the calculator."""
    copy: ase.Atoms = atoms.copy()
    names = ("energy", "free_energy", "forces", *(("stress",) if has_stress(atoms) else ()))
    results = {name: value for name, value in atoms.calc.results.items() if name in names}
    copy.calc = FrameResults(copy, **results)
    return copy
