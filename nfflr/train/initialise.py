"""What is set before the first step: graphs of the right radius, constants, reference energies."""

from __future__ import annotations

import ignite.distributed as idist
import numpy as np
import torch

from ..data.dataset import AtomsDataset
from ..data.graph import Graph, periodic_radius_graph
from ..data.inputs import as_graph
from ..errors import ConfigError, StructureError
from ..models.base import Potential
from ..models.property import PropertyModel
from .config import TrainingConfig
from .evaluation import predict
from .finetune import freeze, load_weights
from .trained_on import bonds, check_elements_are_taught


def prepared(config: TrainingConfig, resume: bool = False) -> TrainingConfig:
    """The settings with data that fit the model, and the model ready for the first step on its device.

    With ``resume`` the weights come from a state, and no checkpoint is read.

    Raises:
        ConfigError: data or checkpoint do not fit the model.
        StructureError: see ``initialise``.
    """
    check_readout(config.model, config.dataset)
    config = config.model_copy(update={"dataset": matching(config.dataset, config.model)})
    tuned = config.init_from is not None and not resume
    if config.init_from is not None and not resume:
        load_weights(config.model, config.init_from)
    if config.freeze:
        freeze(config.model, config.freeze)
    initialise(config.model, config.dataset, resume)
    if tuned and config.dataset.is_force_field and config.model.fits_references:
        shift_references(config.model, config.dataset)
    config.model.to(config.device or idist.device())
    return config


def check_readout(model: Potential, dataset: AtomsDataset) -> None:
    """See that a potential is trained on energies and a model of properties on properties.

    Raises:
        ConfigError: it is not so.
    """
    if dataset.is_force_field == model.is_potential:
        if dataset.target == "energy_and_forces" and not model.compute_forces:
            raise ConfigError(
                "model: its compute_forces is False, the data set asks for forces; "
                'set it to True, or target="total_energy"'
            )
        return
    wanted = "an energy" if dataset.is_force_field else ", ".join(dataset.targets)
    raise ConfigError(
        f"model: its readout is {getattr(model.config, 'readout', 'energy')!r}, the data set asks for "
        f"{wanted}; set readout to energy for a potential, to mean or sum for properties"
    )


def matching(dataset: AtomsDataset, model: Potential) -> AtomsDataset:
    """The data with the model's cutoff; of a transform that they came with, see that it has it.

    Raises:
        ConfigError: the transform's graphs are not those that the model will see in use.
    """
    dataset = dataset.within(model.cutoff)
    for k in dataset.split["train"][:3]:
        expected = periodic_radius_graph(dataset.records[k].atoms, r=model.cutoff)
        if _bonds(as_graph(dataset[k][0], model.cutoff)) != _bonds(expected):
            raise ConfigError(
                f"dataset: the transform's graphs do not have the model's cutoff of {model.cutoff} Å; "
                f"use transform=partial(periodic_radius_graph, r={model.cutoff}), or leave it out"
            )
    return dataset


def _bonds(graph: Graph) -> int:
    """Bonds of a graph, without those between padding atoms of no length."""
    return int(bonds(graph).sum())


@torch.no_grad()
def initialise(model: Potential, dataset: AtomsDataset, resume: bool = False) -> None:
    """Energy scale, the model's own constants, and reference energies by least squares in float64.

    A model that has been initialised before (trained, or loaded from a checkpoint) and a complete potential
    (``fits_references`` False) are left as they are.

    Raises:
        StructureError: an element that the model does not cover, data without neighbours, or an element of
            a new model that has neighbours in no training structure.
    """
    for record in dataset.records:
        missing = sorted(set(record.atoms.symbols) - set(model.elements))
        if missing:
            raise StructureError(
                f"{record.id}: element {', '.join(missing)} is not covered by this model; "
                f"it knows {', '.join(model.elements)}"
            )
    if not dataset.is_force_field:
        assert isinstance(model, PropertyModel)  # see check_readout
        model.standardise(*training_labels(dataset))
        return
    if not model.fits_references or model.scale != 1 or model.reference_energies.any():
        return
    forces = [r.labels["forces"] for r in dataset.part("train") if "forces" in r.labels]
    graphs = [model.graph(dataset[k][0]) for k in dataset.split["train"]]
    if not any(len(graph.dst) for graph in graphs):
        raise StructureError("dataset: every atom is isolated; there are no neighbours to learn from")
    if not resume:  # a state is compared with the model first
        check_elements_are_taught(model, graphs, _holders(dataset))
    energies = [r.labels.get("total_energy", np.nan) for r in dataset.part("train")]
    model.fit_constants(graphs, np.array(energies, float), np.concatenate(forces) if forces else None)


def _holders(dataset: AtomsDataset) -> dict[str, list[str]]:
    """Names of the structures that hold each element."""
    holders: dict[str, list[str]] = {}
    for record in dataset.records:
        for element in set(record.atoms.symbols):
            holders.setdefault(element, []).append(record.id)
    return holders


@torch.no_grad()
def shift_references(model: Potential, dataset: AtomsDataset) -> None:
    """Fit the reference energies of a loaded model to the energies it is to be tuned on; forces stay."""
    pairs = predict(model, dataset, dataset.split["train"]).energy  # (S, 2) per atom
    sizes = np.array([len(r.atoms) for r in dataset.part("train")])
    numbers = [torch.from_numpy(r.atoms.numbers).to(model.device) for r in dataset.part("train")]
    model.add_references(numbers, (pairs[:, 1] - pairs[:, 0]) * sizes)


def training_labels(dataset: AtomsDataset) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Labels of the training split, name → (S,) or (S, P) with NaN where one is missing, and atoms (S,).

    Classes are left out: there is nothing to standardise.
    """
    rows = [dataset[k][1] for k in dataset.split["train"]]
    names = [name for name in dataset.targets if name not in dataset.classes]
    stacked = {name: torch.stack([row[name] for row in rows]) for name in [*names, "n_atoms"]}
    return stacked, stacked.pop("n_atoms")
