"""What is set before the first step: graphs of the right radius, constants, reference energies."""

from __future__ import annotations

import math

import numpy as np
import torch

from ..data.dataset import AtomsDataset
from ..data.graph import Graph, batch_graphs, periodic_radius_graph
from ..errors import ConfigError, StructureError
from ..models.base import Potential

CALIBRATION = 64  # structures; enough for means and variances


def matching(dataset: AtomsDataset, model: Potential) -> AtomsDataset:
    """The data with the model's cutoff; of a transform that they came with, see that it has it.

    Raises:
        ConfigError: the transform's graphs are not those that the model will see in use.
    """
    dataset = dataset.within(model.cutoff)
    for k in dataset.split["train"][:3]:
        expected = periodic_radius_graph(dataset.records[k].atoms, r=model.cutoff)
        if len(dataset[k][0].dst) != len(expected.dst):
            raise ConfigError(
                f"dataset: the transform's graphs do not have the model's cutoff of {model.cutoff} Å; "
                f"use transform=partial(periodic_radius_graph, r={model.cutoff}), or leave it out"
            )
    return dataset


@torch.no_grad()
def initialise(model: Potential, dataset: AtomsDataset) -> None:
    """Energy scale, the model's own constants, and reference energies by least squares in float64.

    A model that has been initialised before (trained, or loaded from a checkpoint) and a complete potential
    (``fits_references`` False) are left as they are.

    Raises:
        StructureError: an element that the model does not cover, or data without neighbours.
    """
    for record in dataset.records:
        missing = sorted(set(record.atoms.symbols) - set(model.elements))
        if missing:
            raise StructureError(
                f"{record.id}: element {', '.join(missing)} is not covered by this model; "
                f"it knows {', '.join(model.elements)}"
            )
    if not model.fits_references or model.scale != 1 or model.reference_energies.any():
        return
    forces = [r.labels["forces"] for r in dataset.part("train") if "forces" in r.labels]
    if forces:
        model.scale.fill_(max(1e-3, float(np.sqrt(np.mean(np.concatenate(forces) ** 2)))))
    chosen = dataset.split["train"]
    graphs = [dataset[k][0] for k in chosen]
    if not any(len(graph.dst) for graph in graphs):
        raise StructureError("dataset: every atom is isolated; there are no neighbours to learn from")
    stride = math.ceil(len(graphs) / CALIBRATION)
    model.calibrate(batch_graphs(graphs[::stride]), shortest_bonds(model, graphs))
    labelled = [k for k in chosen if "total_energy" in dataset.records[k].labels]
    if labelled:
        records = [dataset.records[k] for k in labelled]
        energy = np.array([float(r.labels["total_energy"]) for r in records])
        fixed = np.array([float(model.fixed_energy(dataset[k][0])) for k in labelled])
        counts = np.stack([np.bincount(r.atoms.numbers, minlength=119) for r in records])
        per_element = counts[:, model.numbers.cpu().numpy()].astype(float)  # (S, elements)
        solution = np.linalg.lstsq(per_element, energy - fixed, rcond=None)[0]
        model.reference_energies.copy_(torch.from_numpy(solution))


def shortest_bonds(model: Potential, graphs: list[Graph]) -> torch.Tensor:
    """Shortest distance of each pair of elements in the graphs, (n, n) Å; infinite where there is none."""
    n = len(model.elements)
    shortest = torch.full((n * n,), torch.inf, dtype=torch.float64)
    for graph in graphs:
        species = model.species(graph.atoms.numbers)
        pair = species[graph.dst] * n + species[graph.src]
        shortest.scatter_reduce_(0, pair, graph.vectors().norm(dim=1), "amin")
    shortest = shortest.view(n, n)
    return torch.minimum(shortest, shortest.T)
