"""Cards of calculators: what a potential is for, what it was made of, and what it was measured at."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import CheckpointError, ConfigError, did_you_mean

FILE = "card.yaml"


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Errors(Part):
    """Errors on structures that were neither trained on nor used to choose weights."""

    command: str = Field(description="that gives these numbers")
    structures: int = Field(ge=1)
    energy_mae: float = Field(description="meV/atom")
    energy_rmse: float = Field(description="meV/atom")
    force_mae: float = Field(description="meV/Å")
    force_rmse: float = Field(description="meV/Å")
    stress_mae: float | None = Field(None, description="GPa")


class Seeds(Part):
    """The same recipe from other initial weights."""

    command: str
    seeds: list[int]
    energy_mae: list[float] = Field(description="meV/atom")
    force_mae: list[float] = Field(description="meV/Å")


class Measured(Part):
    """Numbers by name, with their units in the names, and the command that gives them."""

    command: str
    results: dict[str, float | str]


class Card(Part):
    """The contents of ``card.yaml``."""

    name: str
    description: str
    elements: list[str] = Field(min_length=1)
    formula: str | None = Field(None, description="of the only compound it is for, if it is one molecule")
    cutoff: float = Field(gt=0, description="Å")
    data: str = Field(description="what it was trained on, and by what it was chosen")
    licence: str
    citation: str
    units: dict[str, str]
    test: Errors | None = Field(description="null: there is no test set")
    seeds: Seeds | None = None
    training: Measured
    suite: Measured | None = None
    speed: Measured | None = None
    limits: str = Field(description="what it is not for")
    sha256: str = Field(description="of the checkpoint, as its metadata say")


def read_card(folder: Path) -> Card:
    """The card of a calculator's folder.

    Raises:
        CheckpointError: it is not there, or says what no card does.
    """
    path = folder / FILE
    try:
        return Card.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"{path}: {where}: {first['msg']}; see nfflr.cards.Card") from error


def bundled_calculators() -> dict[str, Path]:
    """Folders of the calculators that ship with the package, by name."""
    try:
        root = Path(str(resources.files("nfflr.calculators")))
    except ModuleNotFoundError:  # run from a source tree that is not installed
        root = Path(__file__).parent.parent / "calculators"
    return {p.name: p for p in sorted(root.iterdir()) if (p / FILE).is_file()}


def bundled(name: str) -> Path:
    """The folder of a calculator that ships with the package.

    It holds the checkpoint (``NFFLrCalculator.load`` takes the folder, or the name itself), its recipe
    ``config.py``, its ``card.yaml``, and for most the training data and a ``suite`` for ``read_suite``.

    Raises:
        ConfigError: there is no such calculator; names the nearest.

    Example:
        >>> (bundled("mlearn-si") / "suite" / "suite.yaml").is_file()
        True
    """
    folders = bundled_calculators()
    if name not in folders:
        hint = did_you_mean(name, folders) or f"; expected one of {', '.join(folders) or 'none here'}"
        raise ConfigError(f"{name}: no calculator of this name ships with nfflr{hint}")
    return folders[name]


def is_bundled(digest: str) -> bool:
    """Whether the checkpoint of a calculator that ships with the package has this digest."""
    return any(read_card(folder).sha256 == digest for folder in bundled_calculators().values())
