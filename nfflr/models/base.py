"""``Potential``, the base class of all architectures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import yaml
from ase.data import atomic_numbers, chemical_symbols
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ..data.graph import Graph, batch_graphs
from ..errors import ConfigError, did_you_mean, plain_reason
from ..nn.dense import ExactBuffers
from ..quantities import FORCE_FIELD, Quantity
from .assemble import Inputs, assemble
from .evaluator import Evaluator, Input, refuse_missing

CALIBRATION = 64  # structures; enough for means and variances


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


class Potential(ExactBuffers, Evaluator):
    """An interatomic potential: subclasses write ``energies``, and ``assemble`` derives everything else.

    Total energies are E = Σ_i (scale · e_i + E0[element of i]), with E0 and the sum in float64, so
    that float32 weights lose nothing on large totals.
    """

    Config: type[PotentialConfig] = PotentialConfig
    exact = ("reference_energies", "scale")
    compute_forces = True  # a model set to False returns energies alone
    fits_references = True  # False for a complete potential, whose energies need no reference
    element_blocks: tuple[str, ...] = ()  # patterns of tensors with an axis of equal blocks, one an element
    takes_parts = compilable = True
    key = ""  # in the registry
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

    def energies(self, inputs: Inputs) -> torch.Tensor:
        """Atomic energies (N,), in units of ``scale``: a pure function of ``inputs``."""
        raise NotImplementedError(f"{type(self).__name__} must define energies(inputs) -> (N,)")

    def atomic(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        """``energies`` and what else ``outputs`` declares, by name, (N, …) each.

        A quantity of the whole structure is the sum of its contributions (N, …) over the atoms.
        """
        return {"energies": self.energies(inputs)}

    def tables(self, inputs: Inputs) -> tuple[torch.Tensor, ...]:
        """Integer tables that ``energies`` finds in ``inputs.tables``, such as pairs of bonds; () by default.

        What makes arrays whose sizes depend on where the atoms are belongs here: a compiled graph takes
        these tables as inputs, since it cannot find them itself. No derivative goes through them.
        """
        return ()

    def calibrate(self, graph: Graph, shortest: torch.Tensor | None = None) -> None:
        """Set data-dependent constants (not weights) before training.

        Args:
            graph: a sample of the training structures.
            shortest: (n, n) Å, shortest distance of each pair of elements in all of them.
        """

    def fixed_energy(self, graph: Graph) -> torch.Tensor:
        """Energy (eV) of one structure that is there before anything is learned, () float64."""
        return torch.zeros((), dtype=torch.float64)

    @torch.no_grad()
    def fit_constants(self, graphs: Sequence[Graph], energies: np.ndarray, forces: np.ndarray | None) -> None:
        """Energy scale, the architecture's own constants and reference energies, from the training data.

        Args:
            graphs: of the S training structures.
            energies: (S,) eV, NaN where there is no label.
            forces: (…, 3) eV/Å, all that are labelled; their root mean square becomes the scale.
        """
        if forces is not None:
            self.scale.fill_(max(1e-3, float(np.sqrt(np.mean(forces**2)))))
        stride = -(-len(graphs) // CALIBRATION)
        self.calibrate(batch_graphs(graphs[::stride]), self.shortest_bonds(graphs))
        fixed = np.array([float(self.fixed_energy(graph)) for graph in graphs])
        self.add_references([graph.atoms.numbers for graph in graphs], energies - fixed)

    def add_references(self, numbers: Sequence[torch.Tensor], energies: np.ndarray) -> None:
        """Add to the reference energies the least-squares fit of energies (S,) eV, NaN where unknown.

        Args:
            numbers: atomic numbers (N,) of each of the S structures.
            energies: what the sum of references should be.
        """
        labelled = np.isfinite(energies)
        if labelled.any():
            n = len(self.elements)
            counts = np.stack([np.bincount(self.species(z).cpu().numpy(), minlength=n) for z in numbers])
            solution = np.linalg.lstsq(counts[labelled].astype(float), energies[labelled], rcond=None)[0]
            self.reference_energies += torch.from_numpy(solution).to(self.device)

    def shortest_bonds(self, graphs: Sequence[Graph]) -> torch.Tensor:
        """Shortest distance of each pair of elements, (n, n) Å float64; infinite where there is none."""
        n = len(self.elements)
        shortest = torch.full((n * n,), torch.inf, dtype=torch.float64, device=self.device)
        for graph in graphs:
            species = self.species(graph.atoms.numbers)
            pair = species[graph.dst] * n + species[graph.src]
            shortest.scatter_reduce_(0, pair, graph.vectors().norm(dim=1), "amin")
        return torch.minimum(shortest.view(n, n), shortest.view(n, n).T)

    def species(self, numbers: torch.Tensor) -> torch.Tensor:
        """Position of each atomic number in ``elements``, (N,).

        Raises:
            StructureError: naming the elements that the model does not cover.
        """
        possible = numbers.clamp(0, len(self.element_index) - 1)
        index = self.element_index.index_select(0, possible).masked_fill(numbers != possible, -1)
        if index.numel() and int(index.min()) < 0:
            refuse_missing(numbers, self.elements)
        return index

    def inputs(self, graph: Graph, vectors: torch.Tensor | None = None) -> Inputs:
        """What ``energies`` takes, of a graph; its bond vectors, without a gradient, if none are given.

        Raises:
            StructureError: naming the elements that the model does not cover.
        """
        numbers = graph.atoms.numbers
        if vectors is None:
            vectors = graph.vectors().detach().to(self.dtype)
        bonds = Inputs(self.species(numbers), numbers, graph.src, graph.dst, vectors)
        tables = self.tables(bonds)
        return Inputs(bonds.species, numbers, graph.src, graph.dst, vectors, tables) if tables else bonds

    def forward(self, x: Input, stress: bool = True, virials: bool = False) -> dict[str, torch.Tensor]:
        """Energies, forces and stress of one structure or a batch.

        Args:
            x: ``Graph``, ``nfflr.Atoms``, ``ase.Atoms``, a list of structures, ghost-padded atoms, a DGL
                graph, PyG data, or any type registered with ``nfflr.data.inputs.as_graph``.
            stress: leave the stress out with False.
            virials: return atomic virials too; see ``nfflr.models.assemble``.

        Returns:
            ``total_energy`` () or (B,) float64, eV; ``energies`` (N,) float64, eV; ``forces`` (N, 3), eV/Å;
            ``stress`` (3, 3) or (B, 3, 3), eV/Å³, zero for a structure whose cell has no volume; ``virials``
            (N, 3, 3), eV. Those from ``forces`` on are left out by a model whose ``compute_forces`` is False.
            Then what else ``outputs`` declares.

        Of a graph with ``n_local`` the results are those of the energies that count, (n_local,), with their
        share of the forces and virials of all N atoms.

        In training mode the outputs can be differentiated with respect to the weights.
        """
        # Forces are gradients, whatever mode the caller is in.
        with torch.inference_mode(False), torch.set_grad_enabled(self.training or self.compute_forces):
            graph = self.graph(x)
            inputs = self.inputs(graph)
            inputs.vectors.requires_grad_()
            cells, structure = graph.atoms.cell, graph.atoms.structure
            return assemble(
                self, inputs, cells, structure, n_local=graph.n_local, stress=stress, virials=virials
            )

    @classmethod
    def from_file(cls, path: Path) -> Potential:
        """A potential whose hyper-parameters, in a YAML file, are all that there is to know about it.

        Raises:
            ConfigError: the file is not there or not YAML, a value is wrong, or a model has to be trained.
        """
        if cls.fits_references:
            raise ConfigError(f"{path}: {cls.key} is a network, which has to be trained; give a checkpoint")
        try:
            return cls(cls.Config(**yaml.safe_load(path.read_text(encoding="utf-8")))).eval()
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from error
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or cls.key
            if first["type"] == "extra_forbidden":
                hint = did_you_mean(field, cls.Config.model_fields)
                raise ConfigError(f"{path}: {field}: {cls.key} has no such parameter{hint}") from error
            raise ConfigError(f"{path}: {field}: {plain_reason(first)}") from error
        except (yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
            raise ConfigError(
                f"{path}: not a YAML file of parameters; expected lines such as 'elements: [Ar]'"
            ) from error
