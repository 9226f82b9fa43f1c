"""Which elements and compositions the training structures really teach."""

from __future__ import annotations

from collections.abc import Sequence

import ase
import torch

from ..data.graph import Graph
from ..errors import StructureError
from ..models.base import Potential
from ..notes import note
from ..structures.domain import Domain, domain_of
from .config import TrainingConfig


def check_elements_are_taught(
    model: Potential, graphs: Sequence[Graph], records_of_element: dict[str, list[str]]
) -> None:
    """See that every element of a new model that the data hold has neighbours in some training structure.

    One that they do not hold gets a note; the trained potential refuses it in use.

    Args:
        model: its elements are those that it will accept in use.
        graphs: of the training structures.
        records_of_element: for each element, names of the structures of the data set that hold it.

    Raises:
        StructureError: an element occurs only as isolated atoms.
    """
    bonded = set()
    for graph in graphs:
        bonded.update(model.species(graph.atoms.numbers[graph.dst[bonds(graph)].unique()]).tolist())
    for k, element in enumerate(model.elements):
        if k in bonded:
            continue
        names = records_of_element.get(element, [])
        if not names:
            note(
                f"model: element {element} is in no structure of the data set; the trained potential will "
                "refuse it; leave it out of elements, or add structures"
            )
            continue
        raise StructureError(
            f"{names[0]}: element {element} has a neighbour within the cutoff in no training structure, so "
            "nothing about its bonds can be learned; leave it out of elements and its structures out of the "
            "data, or add structures in which it has neighbours"
        )


def bonds(graph: Graph) -> torch.Tensor:
    """Which edges (E,) join atoms; those between padding atoms have no length."""
    return graph.vectors().square().sum(1) > 0


def trained_domain(config: TrainingConfig) -> Domain | None:
    """Compositions that a force field is trained on; None if it starts from a checkpoint that knows more."""
    dataset = config.dataset
    if not config.model.is_potential or config.init_from is not None or not config.model.fits_references:
        return None
    kinds: dict[tuple, ase.Atoms] = {}  # one of each composition in which atoms are bound
    symbols: set[str] = set()
    for k in dataset.split["train"]:
        atoms = dataset.records[k].atoms
        symbols |= atoms.symbols.species()
        kind = (atoms.get_chemical_formula(), bool(atoms.pbc.any()))
        if kind not in kinds and bonds(config.model.graph(dataset[k][0])).any():
            kinds[kind] = atoms
    untaught = tuple(element for element in config.model.elements if element not in symbols)
    return domain_of(kinds.values()).model_copy(update={"untaught": untaught})
