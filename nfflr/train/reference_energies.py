"""Reference energies that are solved for while the weights are trained.

Energies are linear in the reference energies of the elements. So their best values follow from the residuals
in closed form, as in variable projection (Golub and Pereyra, SIAM J. Numer. Anal. 10, 413 (1973)). Every
update of the weights moves the energies of all structures together, by far more than the errors that are left
at the end. If the weights had to correct that, they would learn little else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase.data import chemical_symbols

from ..data.dataset import AtomsDataset
from ..data.graph import Graph
from ..models.assemble import absolute_energies, sum_structures
from ..models.base import Potential
from ..reports.evaluation import by_atoms
from .distributed import total

ENERGY = "total_energy"
ENOUGH = 8  # structures for each reference energy to be told from the others
LOOKED_AT = 2048  # structures, for the number of different compositions
SAMPLE = 256  # training structures by which the averaged weights get theirs
RIDGE = 1e-6  # of the mean weight of an element: what no structure of these batches tells stays


class ReferenceFit:
    """Least squares of the energies per atom, over the newest batches, by the reference energies of a model.

    Attributes:
        is_determined: whether the model is a potential with reference energies, and there are so many
            labelled structures that a fit leaves more to the weights than it takes.
        memory: weight of the batch before; of the one before that its square, and so on.
        weights: (n, n) float64, matrix of the normal equations.

    Args:
        model: whose reference energies are changed in place.
        dataset: its training split is meant.
        batches: in how many batches this comes.
    """

    def __init__(self, model: Potential, dataset: AtomsDataset, batches: int):
        n = len(model.elements)
        self.model, self.dataset = model, dataset
        split = dataset.split["train"]
        stride = -(-len(split) // LOOKED_AT)
        records = [dataset.records[k] for k in split[::stride]]
        counts = np.stack([np.bincount(r.atoms.numbers, minlength=len(chemical_symbols)) for r in records])
        rank = np.linalg.matrix_rank(counts / counts.sum(1, keepdims=True))
        labelled = stride * sum(ENERGY in record.labels for record in records)
        has_references = model.is_potential and model.fits_references
        self.is_determined = has_references and labelled >= ENOUGH * rank
        self.memory = max(0.0, 1 - len(split) / batches / (ENOUGH * rank))
        self.weights = torch.zeros(n, n, dtype=torch.float64, device=model.device)

    @torch.no_grad()
    def update(self, compositions: Sequence[torch.Tensor], residuals: Sequence[torch.Tensor]) -> torch.Tensor:
        """Subtract from the reference energies what they explain of a batch's residuals.

        Args:
            compositions: numbers of atoms of each element, (S, n) for each part of the batch on this rank.
            residuals: predicted minus labelled total energies (S,), eV; NaN where there is no label.

        Returns:
            the changes (n,), eV, the same on all ranks.
        """
        sums = self.weights.new_zeros(len(self.weights), len(self.weights) + 1)
        for composition, residual in zip(compositions, residuals, strict=True):
            sums += normal_equations(composition, residual)
        sums = total(sums)
        self.weights.mul_(self.memory).add_(sums[:, :-1])
        change = solve(self.weights, sums[:, -1])
        self.model.reference_energies -= change
        return change

    @torch.no_grad()
    def fit(self, model: Potential) -> None:
        """Give another model of the same elements the reference energies that suit its weights best."""
        split = self.dataset.split["train"]
        sums = self.weights.new_zeros(len(self.weights), len(self.weights) + 1)
        for x, labels in by_atoms(self.dataset, split[:: -(-len(split) // SAMPLE)]):
            graph = model.graph(x)
            residual = total_energies(model, graph) - labels[ENERGY].to(model.device)
            sums += normal_equations(compositions(model, graph), residual)
        model.reference_energies -= solve(sums[:, :-1], sums[:, -1])


def normal_equations(composition: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """Matrix and right-hand side (n, n + 1) of the fit of residuals (S,) per atom to compositions (S, n)."""
    labelled = torch.isfinite(residual)
    count = composition[labelled].sum(1, keepdim=True)
    fractions = composition[labelled] / count
    return fractions.T @ torch.cat([fractions, residual[labelled, None].double() / count], dim=1)


def solve(matrix: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The least change (n,) of the reference energies that solves the normal equations."""
    ridge = RIDGE * matrix.diagonal().mean().clamp(min=1e-12)
    return torch.linalg.solve(matrix + ridge * torch.eye(len(matrix)).to(matrix), right)


@torch.no_grad()
def total_energies(model: Potential, graph: Graph) -> torch.Tensor:
    """Total energies (B,) of a batch without their derivatives, eV."""
    inputs = model.inputs(graph)
    return sum_structures(absolute_energies(model, model.energies(inputs), inputs.species), graph.atoms)


def compositions(model: Potential, graph: Graph) -> torch.Tensor:
    """Numbers of atoms of each element in each structure, (B, n) float64."""
    atoms, n = graph.atoms, len(model.elements)
    place = atoms.structure_index() * n + model.species(atoms.numbers)
    return torch.bincount(place, minlength=atoms.n_structures * n).view(-1, n).double()
