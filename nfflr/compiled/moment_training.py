"""Training steps of the one-layer moment-tensor network: a kernel for bonds, a compiled graph for atoms.

Bonds hold no weight. So a step needs of them the density moments, and the linear map from the energy's
gradient by these to forces and stress, whose transpose carries a loss back; see ``moment_training.cpp``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..data.graph import Graph
from ..models.assemble import absolute_energies, bond_gradient, stress_from_virial, sum_structures
from ..models.base import Potential
from ..models.moment import MomentNetwork
from ..nn.moments import monomials
from .aot_graph import NotCompiled, trace
from .artefacts import load_library
from .moment_kernel import RANK, REAL, constants, struct, takes
from .training_graph import TrainingGraph

SOURCE = Path(__file__).with_name("moment_training.cpp")


class _Batch(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("n_atoms", "n_edges", "n_structures")]
    _fields_ += [(name, ctypes.c_void_p) for name in ("element", "structure", "src", "dst", "vectors")]


class _Basis(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("phi", "dphi", "slope", "energy", "moments")]


class MomentTraining(TrainingGraph):
    """``Potential.forward`` of a one-layer moment-tensor network in training mode.

    Raises:
        NotCompiled: several layers, not on a processor, no compiler, or results that differ.
    """

    model: MomentNetwork

    def __init__(self, model: Potential):
        if not takes(model):
            raise NotCompiled(f"{type(model).__name__}: the kernel takes one layer, on a processor")
        library = load_library(
            SOURCE, {"REAL": REAL[model.dtype], "RADIAL": model.config.n_radial, "CHANNELS": 16, "HIDDEN": 16}
        )
        if library is None:
            raise NotCompiled("it cannot be built here")
        self._library = library
        super().__init__(model)

    def _trace(self, example: Graph) -> torch.fx.GraphModule:
        return trace(self.model, self._inputs(Bonds(self, example)), per_atom(self.model))

    def _inputs(self, bonds: Bonds) -> list[torch.Tensor]:
        return [bonds.moments, bonds.elements]

    def _evaluate(self, graph: Graph, stress: bool) -> dict[str, torch.Tensor]:
        model, atoms = self.model, graph.atoms
        if len(atoms) < 2 or len(graph.dst) == 0:
            return model(graph, stress=stress)
        bonds = Bonds(self, graph)
        raw, slopes = self._run(*self._inputs(bonds))  # (N,), (N, elements, M, B)
        raw = raw + bonds.repulsion.to(raw.dtype)
        energies = absolute_energies(model, raw, bonds.elements)
        forces, virial = _FromBonds.apply(slopes, bonds)
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


def per_atom(model: MomentNetwork) -> Callable[..., Any]:
    """What is compiled: moments of the neighbours of each element (N, elements, M, B) and elements (N,) →
    energies (N,) without repulsion, and their gradient by the moments."""
    radial, embedding, layer = model.config.n_radial, model.bond_embedding, model.layers[0]

    def evaluate(moments: torch.Tensor, elements: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        moments = moments.detach().requires_grad_()
        parts = moments[..., :radial].transpose(2, 3)  # (N, elements, B, M)
        if embedding is None:
            mixed = parts[:, 0]
        else:
            mixed = torch.einsum("nzbm,zs->nsbm", parts, embedding.weight).flatten(1, 2)  # (N, S·B, M)
        energies = layer(mixed, elements)[1]
        return energies, bond_gradient(energies, moments, create_graph=True)

    return evaluate


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
