"""From atomic energies to total energies, forces, stress and atomic virials: the one place for all of them.

With bond vectors r_e = x_src + S·cell − x_dst and g_e = ∂E/∂r_e::

    F_k = Σ_{dst=k} g_e − Σ_{src=k} g_e
    W_k = Σ_{dst=k} r_e ⊗ g_e,    V σ = Σ_k W_k    (tension positive)

A bond's virial belongs to its centre ``dst``. Other divisions among atoms have the same sum; this one needs
no information about the neighbour, so that it is the same on one process and on many. Everything here works
eagerly, inside a traced graph, for one structure, for a batch, and for a part of space with ghosts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from ..atoms import Atoms, cell_volumes
from ..quantities import Quantity

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Inputs:
    """All that atomic energies may depend on.

    Attributes:
        species: (N,) int64, position of each atom's element in the model's ``elements``.
        numbers: (N,) int64 atomic numbers.
        src, dst: (E,) int64, neighbour and centre of each bond; centres ascend.
        vectors: (E, 3) from centre to neighbour, Å, in the model's dtype.
        tables: integer tables that the model's ``tables`` has made of the above.
    """

    species: torch.Tensor
    numbers: torch.Tensor
    src: torch.Tensor
    dst: torch.Tensor
    vectors: torch.Tensor
    tables: tuple[torch.Tensor, ...] = ()

    @property
    def n_atoms(self) -> int:
        """N; a symbol inside a traced graph."""
        return self.species.shape[0]


class Atomistic(Protocol):
    """What is asked of a model here: every ``Potential`` answers it."""

    training: bool
    compute_forces: bool
    scale: torch.Tensor
    reference_energies: torch.Tensor

    @property
    def outputs(self) -> tuple[Quantity, ...]:
        """What it predicts."""

    def atomic(self, inputs: Inputs) -> Tensors:
        """Energies (N,) in units of ``scale``, and perhaps more."""


def assemble(
    model: Atomistic,
    inputs: Inputs,
    cells: torch.Tensor,
    structure: torch.Tensor | None = None,
    *,
    n_local: int | None = None,
    stress: bool = True,
    virials: bool = False,
) -> Tensors:
    """What ``Potential.forward`` returns.

    Args:
        model: its ``atomic`` gives energies in units of ``scale``, and perhaps more.
        inputs: with ``vectors`` that require a gradient, if the model gives forces.
        cells: (3, 3), or (B, 3, 3) for a batch, Å.
        structure: (N,) index of each atom's structure in a batch; None for a single structure.
        n_local: energies of so many first atoms count; None: all.
        stress, virials: whether these are computed.
    """
    outputs, slopes = differentiate(model, inputs, n_local)
    if not model.training:
        outputs = {name: value.detach() for name, value in outputs.items()}
    n_structures = None if structure is None else cells.shape[0]
    own = None if structure is None else structure[:n_local]
    per_structure = {q.name for q in model.outputs if not q.per_atom}
    result = {"total_energy": sum_atoms(outputs["energies"], own, n_structures)}
    for name, value in outputs.items():
        result[name] = sum_atoms(value.double(), own, n_structures) if name in per_structure else value
    if slopes is None:
        return result
    if not model.training:
        slopes = slopes.detach()
    vectors = inputs.vectors.detach()
    forces = slopes.new_zeros(inputs.n_atoms, 3).index_add(0, inputs.dst, slopes)
    result["forces"] = forces.index_add(0, inputs.src, slopes, alpha=-1)
    if not stress and not virials:
        return result
    if structure is None and not virials:
        result["stress"] = stress_from_virial(vectors.T @ slopes, cells)  # as below, but quicker
        return result
    products = (vectors[:, :, None] * slopes[:, None, :]).flatten(1)  # (E, 9)
    if virials:
        atomic = slopes.new_zeros(inputs.n_atoms, 9).index_add(0, inputs.dst, products)
        result["virials"] = atomic.view(-1, 3, 3)
    if stress:  # without the detour over atoms, and in float64, as bonds are added one by one
        owner = None if structure is None else structure.index_select(0, inputs.dst)
        total = sum_atoms(products.double(), owner, n_structures).unflatten(-1, (3, 3))
        result["stress"] = stress_from_virial(total, cells).to(slopes.dtype)
    return result


def differentiate(
    model: Atomistic, inputs: Inputs, n_local: int | None = None
) -> tuple[Tensors, torch.Tensor | None]:
    """Per-atom outputs, with ``energies`` in eV and float64, and g_e in eV/Å, (E, 3); see ``assemble``.

    g_e is None for a model that gives no forces.
    """
    outputs = {name: value[:n_local] for name, value in model.atomic(inputs).items()}
    raw, slopes = outputs["energies"], None
    if model.compute_forces:
        slopes = bond_gradient(raw, inputs.vectors, model.training) * model.scale.to(raw.dtype)
    return {**outputs, "energies": absolute_energies(model, raw, inputs.species[:n_local])}, slopes


def absolute_energies(model: Atomistic, raw: torch.Tensor, species: torch.Tensor) -> torch.Tensor:
    """Atomic energies (N,) in eV, float64, from those in units of the model's ``scale``."""
    return raw.double() * model.scale + model.reference_energies.index_select(0, species)


def bond_gradient(energies: torch.Tensor, vectors: torch.Tensor, create_graph: bool) -> torch.Tensor:
    """g_e = ∂E/∂r_e, (E, 3); zero where the energy does not depend on a bond, as without neighbours."""
    if not energies.requires_grad:
        return torch.zeros_like(vectors)
    (slopes,) = torch.autograd.grad(
        energies.sum(), vectors, create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return slopes


def sum_atoms(values: torch.Tensor, structure: torch.Tensor | None, n_structures: int | None) -> torch.Tensor:
    """Sum per-atom values (N, …) over each structure: (…) for a single one, (B, …) for a batch."""
    if structure is None or n_structures is None:
        return values.sum(0)
    return values.new_zeros(n_structures, *values.shape[1:]).index_add(0, structure, values)


def sum_structures(values: torch.Tensor, atoms: Atoms) -> torch.Tensor:
    """As ``sum_atoms``, for these structures."""
    return sum_atoms(values, atoms.structure, atoms.n_structures)


def stress_from_virial(virial: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """V σ, (3, 3) or (B, 3, 3) in eV, symmetrised and divided by the volume; zero where there is none."""
    volumes = cell_volumes(cells).to(virial.dtype)[..., None, None]
    virial = (virial + virial.mT) / 2
    return torch.where(volumes > 0, virial / volumes.clamp(min=1e-30), torch.zeros_like(virial))
