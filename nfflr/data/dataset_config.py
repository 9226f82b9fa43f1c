"""What is read from labelled data and how, as one object; beside ``AtomsDataset``, which reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)] | Annotated[int, Field(ge=0)]


class DatasetConfig(BaseModel):
    """Options of a data set; ``AtomsDataset`` explains each at length."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    target: str | tuple[str, ...] = Field(
        "energy_and_forces",
        description="energy_and_forces, total_energy, or names of properties in the data",
    )
    energy_units: Literal["eV", "eV/atom", "Ha", "Ha/atom", "Ry", "kcal/mol", "kJ/mol"] | None = Field(
        None, description="of the source, where its format does not fix it; inside, everything is eV"
    )
    force_units: str | None = Field(
        None, description="eV/Å, Ha/Bohr, kcal/mol/Å …; default: the energy unit per Å"
    )
    force_sign: Literal[1, -1] | None = Field(None, description="-1: the data hold gradients of the energy")
    stress_units: Literal["eV/Å^3", "GPa", "kbar", "eV"] | None = Field(
        None, description="of the source; eV: virials, which are divided by the volume"
    )
    stress_sign: Literal[1, -1] | None = Field(
        None, description="1: tension is positive (ASE); -1: pressure is (VASP)"
    )
    stress_order: Literal["voigt", "vasp", "3x3"] | None = Field(
        None, description="of six numbers; 3x3 refuses them"
    )
    n_train: Share = Field(0.9, description="fraction (as 0.9) or number (as 900) to train on")
    n_val: Share = Field(0.1, description="fraction or number held out to choose the checkpoint")
    diskcache: bool | Path = Field(False, description="keep graphs on disk, in the user's or this folder")
    seed: int = Field(42, ge=0, description="of the split")
    keys: dict[str, str] = Field(
        default_factory=dict, description="names of the labels in the source where they differ"
    )
    allow_missing: bool = Field(False, description="mask missing labels instead of refusing them")
    allow_duplicates: bool = Field(False, description="permit a structure in the training and another split")
    classify: str | tuple[str, ...] = Field((), description="targets whose numbers are names of classes")
    classes: dict[str, tuple[str, ...]] | None = Field(
        None, description="names of the classes in the order of a trained model; default: sorted"
    )
