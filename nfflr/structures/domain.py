"""The compositions that a potential was trained on, and what follows for another one.

Energies of elements are fixed by the training data only as far as compositions differ: from structures of
C2H6O alone follows one sum of them. A potential that meets a composition of which its data say nothing gives
a number all the same, so the user is to know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import ase
import numpy as np
from ase.formula import Formula
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from ..cards import bundled_calculators, read_card
from ..errors import CheckpointError, StructureError

KEY = "trained_on"  # of the domain in the metadata of a checkpoint


class Domain(BaseModel):
    """What a potential was trained on.

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
    """Of a checkpoint or each member of an ensemble, as far as metadata or the card of a bundled one tell.

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
