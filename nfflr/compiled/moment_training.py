"""Training steps of the moment-tensor network: kernels for bonds and products of tensors, torch for the rest.

The bonds of the first layer hold no weight. So a step needs of them the density moments, and the linear map
from the energy's gradient by these to forces and stress, whose transpose carries a loss back; see
``moment_training.cpp``. Messages of later layers are operators of their own; see ``tensor_operators``.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import cast

import torch

from ..data.graph import Graph
from ..models.assemble import absolute_energies, stress_from_virial, sum_structures
from ..models.base import Potential
from ..models.moment import MomentNetwork
from ..models.moment_layers import Species
from ..nn.moments import monomials
from ..nn.tensors import RANK
from . import tensor_operators
from .aot_graph import NotCompiled
from .artefacts import load_library
from .moment_kernel import REAL, constants, struct, suits
from .tensor_operators import Messages, Products
from .training_graph import TrainingGraph

SOURCE = Path(__file__).with_name("moment_training.cpp")


class _Batch(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("n_atoms", "n_edges", "n_structures")]
    _fields_ += [(name, ctypes.c_void_p) for name in ("element", "structure", "src", "dst", "vectors")]


class _Basis(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("phi", "dphi", "slope", "energy", "moments")]


class MomentTraining(TrainingGraph):
    """``Potential.forward`` of a moment-tensor network in training mode. Nothing is compiled but the kernels.

    Raises:
        NotCompiled: messages are scalars, not on a processor, no compiler, or results that differ.
    """

    model: MomentNetwork

    def __init__(self, model: Potential):
        if not suits(model):
            raise NotCompiled(f"{type(model).__name__}: the kernels take tensors as messages, on a processor")
        config = model.config
        sizes = {"REAL": REAL[model.dtype], "RADIAL": config.n_radial, "CHANNELS": 16, "HIDDEN": 16}
        library = load_library(SOURCE, sizes)
        operators = [
            tensor_operators.library(model.dtype, config.n_radial, width)
            for width in (config.channels, config.message_channels)[: config.layers]
        ]
        if library is None or None in operators:
            raise NotCompiled("it cannot be built here")
        self._library, self._operators = library, cast(list[ctypes.CDLL], operators)
        super().__init__(model)

    def _prepare(self, example: Graph, *others: Graph) -> None:
        was = self.model.training
        self.model.train()
        try:
            self._compare(example)
        finally:
            self.model.train(was)

    def _differentiate(self, bonds: Bonds) -> tuple[torch.Tensor, ...]:
        """Energies (N,) without repulsion, and their gradients.

        These are by ``bonds.moments`` and, of several layers, by the bond vectors (E, 3) of the messages.
        """
        model, config = self.model, self.model.config
        moments = bonds.moments.detach().requires_grad_()
        messages = Messages(self._operators[-1], *bonds.geometry, len(bonds.elements))
        variables = [moments, messages.vectors][: config.layers]
        products = Products(self._operators[0])
        species = Species.ordered(bonds.elements, len(model.elements))
        raw = model.atomic_energies(by_embedding(model, moments), species, messages, products)
        return raw, *torch.autograd.grad(raw.sum(), variables, create_graph=True)

    def _evaluate(self, graph: Graph, stress: bool) -> dict[str, torch.Tensor]:
        model, atoms = self.model, graph.atoms
        if len(atoms) < 2 or len(graph.dst) == 0:
            return model(graph, stress=stress)
        bonds = Bonds(self, graph)
        raw, slopes, *others = self._differentiate(bonds)  # (N,), (N, elements, M, B), (E, 3)
        raw = raw + bonds.repulsion.to(raw.dtype)
        energies = absolute_energies(model, raw, bonds.elements)
        forces, virial = _FromBonds.apply(slopes, bonds)
        for by_vectors in others:
            forces, virial = forces + of_bonds(by_vectors, graph), virial + virials(by_vectors, graph)
        scale = model.scale.to(model.dtype)
        outputs = {
            "total_energy": sum_structures(energies, atoms),
            "energies": energies,
            "forces": forces.to(model.dtype) * scale,
        }
        if stress:
            virial = virial if atoms.is_batch else virial[0]
            outputs["stress"] = stress_from_virial(virial.to(model.dtype) * scale, atoms.cell)
        return outputs


def by_embedding(model: MomentNetwork, moments: torch.Tensor) -> torch.Tensor:
    """Moments (N, elements, M, B) by neighbours' elements, weighted by their embeddings: (N, S·B, M)."""
    parts = moments[..., : model.config.n_radial].transpose(2, 3)  # (N, elements, B, M)
    if model.bond_embedding is None:
        return parts[:, 0]
    return torch.einsum("nzbm,zs->nsbm", parts, model.bond_embedding.weight).flatten(1, 2)


def of_bonds(by_vectors: torch.Tensor, graph: Graph) -> torch.Tensor:
    """Forces (N, 3), float64, of an energy with this gradient by bond vectors (E, 3)."""
    gradient = by_vectors.double()
    forces = gradient.new_zeros(len(graph.atoms), 3).index_add(0, graph.dst, gradient)
    return forces.index_add(0, graph.src, gradient, alpha=-1)


def virials(by_vectors: torch.Tensor, graph: Graph) -> torch.Tensor:
    """Virial Σ r ⊗ g of each structure likewise, (B, 3, 3)."""
    products = graph.vectors().detach()[:, :, None] * by_vectors.double()[:, None, :]  # (E, 3, 3)
    structure = graph.atoms.structure_index().index_select(0, graph.dst)
    return products.new_zeros(graph.atoms.n_structures, 3, 3).index_add(0, structure, products)


class Bonds:
    """What the kernel keeps of a batch.

    Attributes:
        elements: (N,) index of each atom's among the model's.
        moments: (N, elements, M, B), B filled up to a multiple of eight.
        repulsion: (N,) float64, in units of the model's ``scale``.
    """

    def __init__(self, training: MomentTraining, graph: Graph):
        model, atoms = training.model, graph.atoms
        n, e, n_elements = len(atoms), len(graph.dst), len(model.elements)
        width = -(-model.config.n_radial // 8) * 8
        self._library = training._library
        arrays = [value.contiguous() for value in constants(model).values()]
        self._model = struct(model, arrays)  # as it is now: a resume may have put other numbers in place
        self.elements = model.species(atoms.numbers)
        self._kept = [
            *(self.elements, atoms.structure_index(), graph.src, graph.dst),
            graph.vectors().detach().to(model.dtype),
        ]
        self._kept = [tensor.contiguous() for tensor in self._kept]
        self._batch = _Batch(n, e, atoms.n_structures, *(t.data_ptr() for t in self._kept))
        self._kept += arrays  # all of it as long as the kernel may read it
        self.repulsion = torch.zeros(n, dtype=torch.float64)
        self.moments = torch.zeros(n, n_elements, len(monomials(RANK)), width, dtype=model.dtype)
        columns = torch.zeros(2, e, width, dtype=model.dtype)  # φ and dφ/dr
        self._columns = [columns[0], columns[1], torch.zeros(e, dtype=model.dtype), self.repulsion]
        self._basis = _Basis(*(t.data_ptr() for t in (*self._columns, self.moments)))
        self._call("nfflr_moments")
        vectors, (phi, dphi, *_) = self._kept[4], self._columns
        self.geometry = vectors, phi, dphi, graph.src.contiguous(), graph.dst.contiguous()

    def _call(self, name: str, *tensors: torch.Tensor) -> None:
        first = (self._model, self._batch, self._basis)
        addresses = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
        getattr(self._library, name)(*map(ctypes.byref, first), *addresses)

    def forces(self, slopes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Forces (N, 3) and virial (B, 3, 3) of these gradients and the repulsion, float64."""
        batch = self._batch
        forces = torch.zeros(batch.n_atoms, 3, dtype=torch.float64)
        virial = torch.zeros(batch.n_structures, 3, 3, dtype=torch.float64)
        self._call("nfflr_forces", slopes.contiguous(), forces, virial)
        return forces, virial

    def transpose(self, forces: torch.Tensor, virial: torch.Tensor) -> torch.Tensor:
        """The transpose of the linear part of ``forces``: gradients by ``slopes``."""
        slopes = torch.zeros_like(self.moments)
        self._call("nfflr_forces_back", forces.contiguous(), virial.contiguous(), slopes)
        return slopes


class _FromBonds(torch.autograd.Function):
    @staticmethod
    def forward(ctx, slopes, bonds):
        ctx.bonds = bonds
        return bonds.forces(slopes)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, forces, virial):
        return ctx.bonds.transpose(forces, virial), None
