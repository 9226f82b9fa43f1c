"""What a potential is for: the cards of calculators, and the compositions that it was trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import ClassVar

import ase
import numpy as np
import yaml
from ase.formula import Formula
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from .errors import CheckpointError, ConfigError, StructureError, did_you_mean
from .storage.sealed import Record

FILE = "card.yaml"
KEY = "trained_on"  # of the domain in the metadata of a checkpoint


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


class Card(Part, Record):
    """The contents of ``card.yaml``; a card without a version is of the first."""

    kind: ClassVar[str] = "the card of a calculator"
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
        return Card.from_content(yaml.safe_load(path.read_text(encoding="utf-8")), path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    except ConfigError as error:
        raise CheckpointError(f"{error} (see nfflr.cards.Card)") from error


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


class Domain(BaseModel):
    """The compositions that a potential was trained on, and what follows for another one.

    Energies of elements are fixed by the training data only as far as compositions differ: from structures of
    C2H6O alone follows one sum of them. A potential that meets a composition of which its data say nothing
    gives a number all the same, so the user is warned.

    Attributes:
        compositions: formulas of which those of all training structures are sums; linearly independent. The
            formula of the molecule, if it is one.
        molecule: whether every structure had this formula and no periodic axis.
        untaught: elements that the model names, but no training structure holds: they are refused in use.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    compositions: tuple[str, ...]
    molecule: bool = False
    untaught: tuple[str, ...] = ()

    @field_validator("compositions")
    @classmethod
    def _formulas(cls, formulas: tuple[str, ...]) -> tuple[str, ...]:
        for formula in formulas:
            Formula(formula, strict=True)
        return formulas

    def check(self, atoms: ase.Atoms) -> None:
        """Refuse elements of which the potential has learned nothing, though its model names them.

        Raises:
            StructureError: there is one.
        """
        missing = set(self.untaught).intersection(atoms.symbols.species()) if self.untaught else set()
        if missing:
            raise StructureError(
                f"structure: element {', '.join(sorted(missing))} was in no structure that this potential "
                "was trained on; train with structures that hold it, or give another potential"
            )

    def warning(self, atoms: ase.Atoms) -> str:
        """What to say about the energy of a structure: nothing if its composition is covered."""
        counts = Counter(atoms.symbols)
        trained = [Counter(Formula(formula).count()) for formula in self.compositions]
        if (self.molecule and counts == trained[0]) or not trained or not counts:
            return ""
        if not self.molecule and _combines(counts, trained):
            return ""
        formula = atoms.symbols.formula.format("hill")
        if len(trained) == 1:
            return (
                f"this potential was trained on {self.compositions[0]} alone; its energies and forces of "
                f"{formula} are a guess"
            )
        return (
            f"this potential was trained on {', '.join(self.compositions)} and sums of these; its energy of "
            f"{formula} cannot be compared with theirs"
        )


def domain_of(structures: Iterable[ase.Atoms]) -> Domain:
    """The domain of training structures; leave out isolated atoms, which tell nothing of bonds."""
    independent: list[Counter] = []
    formulas: list[str] = []
    wholes: set[tuple] = set()
    periodic = False
    for atoms in structures:
        formula = atoms.symbols.formula
        wholes.add(tuple(sorted(formula.count().items())))
        periodic = periodic or bool(atoms.pbc.any())
        counts = Counter(formula.count())
        if not _combines(counts, independent):
            independent.append(counts)
            formulas.append(formula.format("hill"))
    molecule = len(wholes) == 1 and not periodic
    if not molecule:
        formulas = [Formula(formula).reduce()[0].format("hill") for formula in formulas]
    return Domain(compositions=tuple(formulas), molecule=molecule)


def domains_in(metadata: dict) -> list[Domain]:
    """Of a checkpoint or each member of a committee, as far as metadata or the card of a bundled one tell.

    Raises:
        CheckpointError: the metadata hold something else.
    """
    domains = []
    for part in metadata.get("members", [metadata]):
        if KEY in part:
            try:
                domains.append(Domain.model_validate(part[KEY]))
            except (ValidationError, ValueError) as error:
                raise CheckpointError(
                    f"{metadata.get('source', 'checkpoint')}: metadata {KEY!r} name no compositions; "
                    "the file was not written by nff train"
                ) from error
        elif isinstance(part.get("sha256"), str):
            domains += _of_card(part["sha256"])
    return domains


def _of_card(digest: str) -> list[Domain]:
    """The one compound of a bundled potential that has one, by the digest of its checkpoint."""
    for folder in bundled_calculators().values():
        if digest in (folder / "card.yaml").read_text(encoding="utf-8"):
            formula = read_card(folder).formula
            return [Domain(compositions=(formula,), molecule=True)] if formula else []
    return []


def _combines(counts: Counter, others: list[Counter]) -> bool:
    """Whether a composition is a linear combination of others."""
    if not others:
        return False
    elements = sorted(set(counts).union(*others))
    matrix = np.array([[c[e] for e in elements] for c in [*others, counts]], dtype=float)
    return bool(np.linalg.matrix_rank(matrix / np.linalg.norm(matrix, axis=1)[:, None]) == len(others))
