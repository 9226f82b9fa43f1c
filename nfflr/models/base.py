"""The one place where energies become forces and stress, and the registry of architectures."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from typing import ClassVar

import ase
import torch
from ase.data import atomic_numbers, chemical_symbols
from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..atoms import Atoms
from ..data.graph import Graph
from ..data.inputs import as_graph
from ..errors import CheckpointError, StructureError, did_you_mean
from ..nn.exact import ExactBuffers
from ..quantities import FORCE_FIELD, Quantity

Input = Graph | Atoms | ase.Atoms | Sequence[Atoms | ase.Atoms]


class PotentialConfig(BaseModel):
    """Hyper-parameters that every interatomic potential has."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    earlier: ClassVar[dict] = {}  # values of fields that a checkpoint does not name, being older than they

    elements: tuple[str, ...] = Field(min_length=1, description="chemical symbols the model covers")
    cutoff: float = Field(5.0, gt=0, description="radius of a neighbourhood (Å)")

    @field_validator("elements")
    @classmethod
    def _known_and_sorted(cls, elements: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [e for e in elements if e not in atomic_numbers or atomic_numbers[e] == 0]
        if unknown:
            raise ValueError(f"unknown elements {unknown}; expected chemical symbols")
        return tuple(sorted(set(elements), key=atomic_numbers.__getitem__))


class Potential(ExactBuffers):
    """An interatomic potential: subclasses write ``energies``, this class derives the rest.

    With bond vectors r_e = x_src + S·cell − x_dst and g_e = ∂E/∂r_e,
    F_k = Σ_{dst=k} g_e − Σ_{src=k} g_e and σ = (1/V) Σ_e r_e ⊗ g_e (tension positive).

    Total energies are E = Σ_i (scale · e_i + E0[element of i]), with E0 and the sum in float64, so
    that float32 weights lose nothing on large totals.
    """

    Config: type[PotentialConfig] = PotentialConfig
    exact = ("reference_energies", "scale")
    is_potential = True  # False for a property model, which returns no energy
    compute_forces = True  # a model set to False returns energies alone
    fits_references = True  # False for a complete potential, whose energies need no reference
    element_blocks: tuple[str, ...] = ()  # patterns of tensors with an axis of equal blocks, one an element
    tables_need_vectors = False  # True where ``tables`` depends on how long the bonds are
    key: str  # in the registry
    element_index: torch.Tensor
    numbers: torch.Tensor
    reference_energies: torch.Tensor
    scale: torch.Tensor

    def __init__(self, config: PotentialConfig):
        super().__init__()
        self.config = config
        index = torch.full((len(chemical_symbols),), -1)
        numbers = [atomic_numbers[e] for e in config.elements]
        index[numbers] = torch.arange(len(numbers))
        self.register_buffer("element_index", index, persistent=False)
        self.register_buffer("numbers", torch.tensor(numbers), persistent=False)
        self.register_buffer("reference_energies", torch.zeros(len(numbers), dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    @property
    def outputs(self) -> tuple[Quantity, ...]:
        """What ``forward`` returns, by name; a subclass that predicts more adds its quantities."""
        return FORCE_FIELD if self.compute_forces else FORCE_FIELD[:2]

    @property
    def cutoff(self) -> float:
        return self.config.cutoff

    @property
    def elements(self) -> tuple[str, ...]:
        return self.config.elements

    @property
    def dtype(self) -> torch.dtype:
        return next((p.dtype for p in self.parameters()), torch.float64)

    @property
    def device(self) -> torch.device:
        return self.reference_energies.device

    def energies(self, graph: Graph, vectors: torch.Tensor) -> torch.Tensor:
        """Atomic energies (N,), in units of ``scale``, from bond vectors (E, 3) in the model's dtype.

        Must depend on positions through ``vectors`` alone.
        """
        raise NotImplementedError(f"{type(self).__name__} must define energies(graph, vectors) -> (N,)")

    def atomic(self, graph: Graph, vectors: torch.Tensor) -> dict[str, torch.Tensor]:
        """``energies`` and what else ``outputs`` declares, by name, (N, …) each.

        A quantity of the whole structure is the sum of its contributions (N, …) over the atoms.
        """
        return {"energies": self.energies(graph, vectors)}

    def tables(self, graph: Graph, vectors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Integer tables that ``energies`` works with, such as pairs of bonds; () by default.

        What makes arrays whose sizes depend on where the atoms are belongs here: a compiled graph takes
        these tables as inputs, since it cannot find them itself. No derivative goes through them.

        Args:
            graph: the structures.
            vectors: bond vectors (E, 3), in the model's dtype; may be None unless ``tables_need_vectors``.
        """
        return ()

    def calibrate(self, graph: Graph, shortest: torch.Tensor | None = None) -> None:
        """Set data-dependent constants (not weights) before training.

        Args:
            graph: a sample of the training structures.
            shortest: (n, n) Å, shortest distance of each pair of elements in all of them.
        """

    @property
    def shortest_distances(self) -> torch.Tensor | None:
        """(n, n) Å, nothing nearer was in the training data, by pairs of elements; None if not known."""
        return None

    def fixed_energy(self, graph: Graph) -> torch.Tensor:
        """Energy (eV) of one structure that is there before anything is learned, () float64."""
        return torch.zeros((), dtype=torch.float64)

    def species(self, numbers: torch.Tensor) -> torch.Tensor:
        """Position of each atomic number in ``elements``, (N,).

        Raises:
            StructureError: naming the elements that the model does not cover.
        """
        possible = numbers.clamp(0, len(self.element_index) - 1)
        index = self.element_index.index_select(0, possible).masked_fill(numbers != possible, -1)
        if index.numel() and int(index.min()) < 0:
            unknown = set(numbers[index < 0].tolist())
            missing = sorted(
                chemical_symbols[n] if 0 <= n < len(chemical_symbols) else f"Z={n}" for n in unknown
            )
            raise StructureError(
                f"structure: element {', '.join(missing)} is not covered by this model; "
                f"it knows {', '.join(self.elements)}"
            )
        return index

    def graph(self, x: Input) -> Graph:
        """Whatever describes the structures (see ``as_graph``), on the model's device."""
        graph = as_graph(x, self.cutoff)
        if graph.cutoff < self.cutoff - 1e-9:
            raise StructureError(
                f"graph: bonds reach {graph.cutoff:g} Å, the model needs {self.cutoff:g} Å; build it for that"
            )
        return graph if graph.src.device == self.device else graph.to(self.device)

    def forward(self, x: Input, stress: bool = True) -> dict[str, torch.Tensor]:
        """Energies, forces and stress of one structure or a batch.

        Args:
            x: ``Graph``, ``nfflr.Atoms``, ``ase.Atoms``, a list of structures, ghost-padded atoms, a DGL
                graph, PyG data, or any type registered with ``nfflr.data.inputs.as_graph``.
            stress: leave the stress out with False.

        Returns:
            ``total_energy`` () or (B,) float64, eV; ``energies`` (N,) float64, eV; ``forces`` (N, 3), eV/Å;
            ``stress`` (3, 3) or (B, 3, 3), eV/Å³, zero for a structure whose cell has no volume. The last two
            are left out by a model whose ``compute_forces`` is False.

        Of a graph with ``n_local`` the results are those of the energies that count, (n_local,), with their
        share of the forces on all N atoms.

        In training mode the outputs can be differentiated with respect to the weights.
        """
        # Forces are gradients, whatever mode the caller is in.
        with torch.inference_mode(False), torch.set_grad_enabled(self.training or self.compute_forces):
            graph = self.graph(x)
            species = self.species(graph.atoms.numbers)
            vectors = graph.vectors().detach().to(self.dtype).requires_grad_()  # (E, 3)
            others = self.atomic(graph, vectors)
            raw = others.pop("energies")[: graph.n_local]  # (N,), or those that count
            if self.compute_forces:
                slopes = bond_gradient(raw, vectors, create_graph=self.training) * self.scale.to(raw.dtype)
            energies = raw.double() * self.scale + self.reference_energies.index_select(
                0, species[: graph.n_local]
            )
        energies = energies if self.training else energies.detach()
        result = {"total_energy": sum_structures(energies, graph.atoms), "energies": energies}
        per_atom = {output.name: output.per_atom for output in self.outputs} if others else {}
        for name, value in others.items():
            value = value[: graph.n_local].double()
            value = value if self.training else value.detach()
            result[name] = value if per_atom[name] else sum_structures(value, graph.atoms)
        if not self.compute_forces:
            return result
        result["forces"] = forces_from_bonds(graph, slopes)
        if stress:
            result["stress"] = stress_from_bonds(graph, vectors.detach(), slopes)
        return result


def bond_gradient(energies: torch.Tensor, vectors: torch.Tensor, create_graph: bool) -> torch.Tensor:
    """g_e = ∂E/∂r_e, (E, 3); zero where the energy does not depend on a bond, as without neighbours."""
    if not energies.requires_grad:
        return torch.zeros_like(vectors)
    (slopes,) = torch.autograd.grad(
        energies.sum(), vectors, create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return slopes


def sum_structures(values: torch.Tensor, atoms: Atoms) -> torch.Tensor:
    """Sum per-atom values (N, …) over each structure: (…) for a single one, (B, …) for a batch."""
    if not atoms.is_batch:
        return values.sum(0)
    total = values.new_zeros(atoms.n_structures, *values.shape[1:])
    return total.index_add(0, atoms.structure_index(), values)


def forces_from_bonds(graph: Graph, slopes: torch.Tensor) -> torch.Tensor:
    """F_k = Σ_{dst=k} g_e − Σ_{src=k} g_e, (N, 3)."""
    forces = slopes.new_zeros(len(graph.atoms), 3).index_add(0, graph.dst, slopes)
    return forces.index_add(0, graph.src, slopes, alpha=-1)


def stress_from_bonds(graph: Graph, vectors: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """σ = (1/V) Σ_e r_e ⊗ g_e, symmetrised: (3, 3), or (B, 3, 3) for a batch."""
    atoms = graph.atoms
    if atoms.is_batch:
        outer = (vectors[:, :, None] * slopes[:, None, :]).flatten(1)  # (E, 9)
        index = atoms.structure_index().index_select(0, graph.dst)
        virial = slopes.new_zeros(atoms.n_structures, 9).index_add(0, index, outer).view(-1, 3, 3)
    else:
        virial = (vectors.T @ slopes)[None]  # (1, 3, 3)
    return stress_from_virial(atoms, virial)


def stress_from_virial(atoms: Atoms, virial: torch.Tensor) -> torch.Tensor:
    """Virials (B, 3, 3), eV, symmetrised and divided by the volume; zero where there is none."""
    volumes = atoms.volumes().to(virial.dtype)[:, None, None]
    virial = (virial + virial.transpose(1, 2)) / 2
    stress = torch.where(volumes > 0, virial / volumes.clamp(min=1e-30), torch.zeros_like(virial))
    return stress if atoms.is_batch else stress[0]


REGISTRY: dict[str, type[Potential]] = {}


def register(key: str) -> Callable[[type[Potential]], type[Potential]]:
    """Class decorator: make an architecture known to checkpoints and tests under ``key``."""

    def add(cls: type[Potential]) -> type[Potential]:
        known = REGISTRY.get(key, cls)
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise CheckpointError(f"architecture {key!r} is already registered by {REGISTRY[key].__name__}")
        cls.key = key
        REGISTRY[key] = cls
        return cls

    return add


def architectures() -> dict[str, type[Potential]]:
    """All registered architectures; imports every file of ``nfflr.models`` first."""
    package = importlib.import_module(__package__)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
    return dict(REGISTRY)


def architecture(key: str) -> type[Potential]:
    """The class registered under ``key``.

    Raises:
        CheckpointError: unknown key, with the nearest match.
    """
    known = architectures()
    if key not in known:
        raise CheckpointError(
            f"unknown architecture {key!r}; expected one of {sorted(known)}{did_you_mean(key, known)}"
        )
    return known[key]
