"""What is set before the first step: graphs of the right radius, constants, reference energies."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import ase
import ignite.distributed as idist
import numpy as np
import torch

from ..cards import Domain, domain_of
from ..checkpoint import load_checkpoint
from ..data.dataset import AtomsDataset
from ..data.graph import Graph, periodic_radius_graph
from ..data.inputs import as_graph
from ..errors import CheckpointError, ConfigError, StructureError, did_you_mean
from ..models.base import Potential
from ..models.property import PropertyModel
from ..notes import note
from ..quantities import further, names_of
from ..reports.evaluation import outputs_of, predict
from .config import TrainingConfig

MAY_DIFFER = {"elements", "compute_forces"}  # the former is seen to below, the latter has no weights


@torch.no_grad()
def load_weights(model: Potential, source: str | Path) -> dict:
    """Give ``model`` the weights and constants of a checkpoint; return the checkpoint's metadata.

    The checkpoint may know more elements than the model: what is indexed by element is then picked from it,
    and on structures of the model's elements both agree.

    Args:
        model: of the checkpoint's architecture and hyper-parameters; its dtype and device stay.
        source: a file, a run folder, or the name of a bundled calculator.

    Raises:
        ConfigError: there is no such checkpoint.
        CheckpointError: it is damaged or does not fit the model; the message names the first difference.
    """
    trained, metadata = load_checkpoint(source)
    key = getattr(model, "key", type(model).__name__)
    if metadata["architecture"] != key:
        raise CheckpointError(
            f"{source}: its architecture is {metadata['architecture']!r}, the model's {key!r}"
        )
    settings = trained.config.model_dump(exclude=MAY_DIFFER)
    for name, value in model.config.model_dump(exclude=MAY_DIFFER).items():
        if settings[name] != value:
            raise CheckpointError(f"{source}: its {name} is {settings[name]!r}, the model's {value!r}")
    missing = [element for element in model.elements if element not in trained.elements]
    if missing:
        raise CheckpointError(
            f"{source}: it does not know {', '.join(missing)}; it knows {', '.join(trained.elements)}"
        )
    indices = torch.tensor([trained.elements.index(element) for element in model.elements])
    stored, own = trained.state_dict(), model.state_dict()
    for name in sorted(stored.keys() ^ own.keys()):
        raise CheckpointError(f"{source}: tensor {name!r} is not on both sides; give the model its elements")
    tensors = {}
    for name, value in own.items():
        in_blocks = any(fnmatchcase(name, pattern) for pattern in model.element_blocks)
        tensors[name] = _by_element(stored[name], value.shape, len(trained.elements), indices, in_blocks)
        if tensors[name].shape != value.shape:
            raise CheckpointError(
                f"{source}: tensor {name!r} cannot be divided by element; give the model its elements"
            )
    model.load_state_dict(tensors, strict=True)
    return metadata


def _by_element(
    tensor: torch.Tensor, shape: torch.Size, n: int, indices: torch.Tensor, in_blocks: bool
) -> torch.Tensor:
    """The part for the elements ``indices`` of n, along every axis whose length differs from ``shape``.

    All hyper-parameters but the elements are equal. So such an axis is one of elements, or of a block for
    each where the model says so; otherwise the result does not have ``shape``.
    """
    if tensor.dim() == len(shape):
        for axis, (theirs, own) in enumerate(zip(tensor.shape, shape, strict=True)):
            if theirs != own and (theirs == n or (in_blocks and theirs % n == 0)):
                blocks = tensor.unflatten(axis, (n, theirs // n)).index_select(axis, indices)
                tensor = blocks.flatten(axis, axis + 1)
    return tensor


def freeze(model: torch.nn.Module, patterns: Sequence[str]) -> list[str]:
    """Exclude parameters whose names match a pattern (``"layers.0.*"``) from training; return their names.

    Raises:
        ConfigError: a pattern matches no parameter, or none is left to train; nothing is frozen then.
    """
    parameters = dict(model.named_parameters())
    frozen = set()
    for pattern in patterns:
        matches = {name for name in parameters if fnmatchcase(name, pattern)}
        if not matches:
            raise ConfigError(f"freeze: {pattern!r} matches no parameter{did_you_mean(pattern, parameters)}")
        frozen |= matches
    if frozen and not any(p.requires_grad for name, p in parameters.items() if name not in frozen):
        raise ConfigError(f"freeze: {', '.join(patterns)} leave no parameter to train")
    for name in frozen:
        parameters[name].requires_grad_(False)
    return [name for name in parameters if name in frozen]


def prepared(config: TrainingConfig, resume: bool = False) -> TrainingConfig:
    """The settings with data that fit the model, and the model ready for the first step on its device.

    With ``resume`` the weights come from a state, and no checkpoint is read.

    Raises:
        ConfigError: data or checkpoint do not fit the model.
        StructureError: see ``initialise``.
    """
    check_outputs(config.model, config.dataset)
    config = config.model_copy(update={"dataset": matching(config.dataset, config.model)})
    source = None if resume else config.init_from
    if source is not None:
        load_weights(config.model, source)
    if config.freeze:
        freeze(config.model, config.freeze)
    initialise(config.model, config.dataset, resume)
    if source is not None and config.model.is_potential and config.model.fits_references:
        shift_references(config.model, config.dataset)
    config.model.to(config.device or idist.device())
    return config


def check_outputs(model: Potential, dataset: AtomsDataset) -> None:
    """Raise ConfigError unless the model returns what the data label, and they teach all that it returns."""
    outputs, targets = names_of(outputs_of(model, dataset.targets)), dataset.targets
    missing = [name for name in targets if name not in outputs]
    if model.is_potential and not model.compute_forces and "forces" in missing:
        raise ConfigError(
            "model: its compute_forces is False, the data set asks for forces; "
            'set it to True, or target="total_energy"'
        )
    readout = getattr(model.config, "readout", None)
    if missing and readout and (model.is_potential or "total_energy" in missing):
        raise ConfigError(
            f"model: its readout is {readout!r}, the data set asks for "
            f"{'an energy' if 'total_energy' in missing else ', '.join(missing)}; "
            "set readout to energy for a potential, to mean or sum for properties"
        )
    untaught = [q.name for q in further(model.outputs) if q.name not in targets] if model.is_potential else []
    if missing or untaught or (not model.is_potential and set(outputs) != set(targets)):
        advice = "declare them as outputs of the model" if model.is_potential else "set output_features"
        raise ConfigError(
            f"model: predicts {sorted(outputs)}, the targets are {list(targets)}; {advice} to a dict of the "
            "targets, or change target"
        )


def matching(dataset: AtomsDataset, model: Potential) -> AtomsDataset:
    """The data with the model's cutoff; ConfigError if they came with a transform of another cutoff."""
    dataset = dataset.within(model.cutoff)
    for k in dataset.split["train"][:3]:
        expected = periodic_radius_graph(dataset.records[k].atoms, r=model.cutoff)
        if bonds(as_graph(dataset[k][0], model.cutoff)).sum() != bonds(expected).sum():
            raise ConfigError(
                f"dataset: the transform's graphs do not have the model's cutoff of {model.cutoff} Å; "
                f"use transform=partial(periodic_radius_graph, r={model.cutoff}), or leave it out"
            )
    return dataset


@torch.no_grad()
def initialise(model: Potential, dataset: AtomsDataset, resume: bool = False) -> None:
    """Set the energy scale, the model's own constants, and reference energies by least squares in float64.

    A model that was initialised before and a complete potential (``fits_references`` False) stay as they are.

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
    if not model.is_potential:
        assert isinstance(model, PropertyModel)  # see check_outputs
        model.standardise(*training_labels(dataset))
        return
    if not model.fits_references or model.scale != 1 or model.reference_energies.any():
        return
    forces = [r.labels["forces"] for r in dataset.part("train") if "forces" in r.labels]
    graphs = [model.graph(dataset[k][0]) for k in dataset.split["train"]]
    if not any(len(graph.dst) for graph in graphs):
        raise StructureError("dataset: every atom is isolated; there are no neighbours to learn from")
    if not resume:  # a state is compared with the model first
        check_elements_are_taught(model, graphs, dataset)
    energies = [r.labels.get("total_energy", np.nan) for r in dataset.part("train")]
    model.fit_constants(graphs, np.array(energies, float), np.concatenate(forces) if forces else None)


def check_elements_are_taught(model: Potential, graphs: Sequence[Graph], dataset: AtomsDataset) -> None:
    """See that every element of a new model that the data hold has neighbours in some training ``graphs``.

    An element that the data do not hold gets a note; the trained potential refuses it in use.

    Raises:
        StructureError: an element occurs only as isolated atoms.
    """
    bonded = set()
    for graph in graphs:
        bonded.update(model.species(graph.atoms.numbers[graph.dst[bonds(graph)].unique()]).tolist())
    for k, element in enumerate(model.elements):
        if k in bonded:
            continue
        holder = next((r.id for r in dataset.records if element in r.atoms.symbols.species()), None)
        if holder is not None:
            raise StructureError(
                f"{holder}: element {element} has a neighbour within the cutoff in no training structure, so "
                "nothing about its bonds can be learned; leave it out of elements and its structures out of "
                "the data, or add structures in which it has neighbours"
            )
        note(
            f"model: element {element} is in no structure of the data set; the trained potential will "
            "refuse it; leave it out of elements, or add structures"
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


@torch.no_grad()
def shift_references(model: Potential, dataset: AtomsDataset) -> None:
    """Fit the reference energies of a loaded model to the energies it is to be tuned on; forces stay."""
    energy = predict(model, dataset, dataset.split["train"])["total_energy"]  # (S,) per atom
    sizes = np.array([len(r.atoms) for r in dataset.part("train")])
    numbers = [torch.from_numpy(r.atoms.numbers).to(model.device) for r in dataset.part("train")]
    model.add_references(numbers, (energy.reference - energy.predicted) * sizes)


def training_labels(dataset: AtomsDataset) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Labels of the training split but classes, (S,) or (S, P) with NaN if missing, and atoms (S,)."""
    rows = [dataset[k][1] for k in dataset.split["train"]]
    names = [name for name in dataset.targets if name not in dataset.classes]
    stacked = {name: torch.stack([row[name] for row in rows]) for name in [*names, "n_atoms"]}
    return stacked, stacked.pop("n_atoms")
