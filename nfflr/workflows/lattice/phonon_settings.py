"""Options that every phonon workflow has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from ...units import Unit
from ..framework.interface import Settings

Three = tuple[int, int, int]
Nine = tuple[int, int, int, int, int, int, int, int, int]


class LatticeSettings(Settings):
    """How force constants are made, and where in reciprocal space they are looked at."""

    supercell: Three | None = Field(None, description="repeats of the cell; default: from --supercell-length")
    supercell_matrix: Nine | None = Field(
        None,
        description="M row by row; the supercell is (a b c) M, as in phonopy; default: none",
    )
    supercell_length: Annotated[float, Unit("Å")] = Field(
        12.0, gt=0, description="without the two above: least distance between images in the supercell"
    )
    displacement: Annotated[float, Unit("Å")] = Field(0.01, gt=0, description="how far an atom is moved")
    relax: Literal["cell", "positions", "none"] = Field(
        "cell", description="what to relax before, with symmetry"
    )
    fmax: Annotated[float, Unit("eV/Å")] = Field(1e-4, gt=0, description="target of that relaxation")
    steps: int = Field(500, ge=0, description="most steps of that relaxation")
    symprec: Annotated[float, Unit("Å")] = Field(1e-5, gt=0, description="how well symmetry must be obeyed")
    symmetrize: bool = Field(True, description="impose translation and permutation on force constants")
    born: Path | None = Field(
        None, description="BORN file of phonopy, for the splitting of LO and TO; default: no splitting"
    )
    mesh: Three | None = Field(
        None, description="q-points along each axis, Γ among them; default: from --mesh-length"
    )
    mesh_length: Annotated[float, Unit("Å")] = Field(
        50.0, gt=0, description="without --mesh: its density, as a length over the cell vectors"
    )

    @field_validator("supercell_matrix", mode="before")
    @classmethod
    def _rows_in_a_row(cls, value):
        """A file of settings may hold three rows of three."""
        if isinstance(value, list | tuple) and all(isinstance(row, list | tuple) for row in value):
            return [number for row in value for number in row]
        return value

    @field_validator("supercell", "mesh")
    @classmethod
    def _positive(cls, value):
        if value is not None and min(value) < 1:
            raise ValueError("needs three whole numbers of at least 1")
        return value

    @field_validator("supercell_matrix")
    @classmethod
    def _has_a_volume(cls, value):
        if value is not None and round(np.linalg.det(np.reshape(value, (3, 3)))) < 1:
            raise ValueError("needs a positive determinant, for a right-handed supercell")
        return value

    @model_validator(mode="after")
    def _one_supercell(self):
        if self.supercell is not None and self.supercell_matrix is not None:
            raise ValueError("--supercell and --supercell-matrix exclude each other; give one")
        return self


class ThermalSettings(LatticeSettings):
    """Temperatures as well."""

    t_min: Annotated[float, Unit("K")] = Field(0.0, ge=0, description="first temperature")
    t_max: Annotated[float, Unit("K")] = Field(1000.0, gt=0, description="last temperature")
    t_step: Annotated[float, Unit("K")] = Field(10.0, gt=0, description="step between temperatures")

    @model_validator(mode="after")
    def _a_range(self):
        if self.t_max <= self.t_min:
            raise ValueError("--t-max must lie above --t-min")
        return self

    def temperatures(self, beyond: int = 0) -> np.ndarray:
        """(T,) K from ``t_min`` to ``t_max``, and ``beyond`` more."""
        count = int((self.t_max - self.t_min) / self.t_step + 1e-9) + 1 + beyond
        return self.t_min + self.t_step * np.arange(count)
