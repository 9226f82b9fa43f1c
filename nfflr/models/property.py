"""Networks that are a potential or predict a property of a structure: a scalar, a vector, class scores.

The same features of the atoms serve both. What differs is the readout: the energy of a potential, from which
forces and stress follow, or a mean (intensive: band gap) or sum (extensive: moment) over a structure's atoms.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import nn

from ..data.graph import Graph
from ..errors import ConfigError, StructureError, did_you_mean
from ..nn.dense import ExactBuffers
from ..quantities import Quantity
from .assemble import Inputs, sum_structures
from .base import Potential, PotentialConfig
from .evaluator import Input

Size = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(min_length=1)]
Prediction = torch.Tensor | dict[str, torch.Tensor]
CONSTANT = 1e-9  # a standard deviation this small against the values is rounding


class PropertyConfig(PotentialConfig):
    """Hyper-parameters of a network that is a potential or a property model."""

    readout: Literal["energy", "sum", "mean"] = Field(
        "energy", description="potential energy, or a property: sum or mean over a structure's atoms"
    )
    output_features: Size | dict[Name, Size] = Field(
        1, description="components or classes of a property; a dict for several by name"
    )
    compute_forces: bool = Field(True, description="derive forces and stress from the energy")

    @field_validator("output_features")
    @classmethod
    def _in_order(cls, sizes: int | dict[str, int]) -> int | dict[str, int]:
        # Sorted, for the order is that of the weights, and JSON need not keep it.
        return dict(sorted(sizes.items())) if isinstance(sizes, dict) else sizes

    @model_validator(mode="after")
    def _outputs_fit_the_readout(self) -> PropertyConfig:
        if self.readout == "energy" and self.output_features != 1:
            raise ValueError("an energy has output_features=1; for a property set readout to sum or mean")
        if not self.output_features:
            raise ValueError("output_features names nothing; expected at least one property")
        return self

    @property
    def n_outputs(self) -> int:
        """Numbers that the network's last layer gives for each atom."""
        return sum(sizes_by_name(self.output_features).values())


def sizes_by_name(outputs: int | dict[str, int]) -> dict[str | None, int]:
    """Components of each output; a single one without a name is under None."""
    return {name: size for name, size in outputs.items()} if isinstance(outputs, dict) else {None: outputs}


class PropertyHead(ExactBuffers):
    """Features of the atoms (N, H) → one property of each structure, or several by name.

    A network maps features to y (N, ΣP); predictions are the sum or mean over atoms of mean + std · y. The
    buffers ``mean`` and ``std``, (ΣP,) float64, are those of the training labels once ``standardise`` has
    seen them; for a sum, of the labels per atom.

    Args:
        network: (N, H) → (N, ΣP).
        outputs: components P of the one property, or of each by name.
        pooling: ``"mean"`` (intensive) or ``"sum"`` (extensive).
    """

    exact = ("mean", "std")
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, outputs: int | dict[str, int], pooling: Literal["mean", "sum"]):
        super().__init__()
        self.network, self.outputs, self.pooling = network, outputs, pooling
        n = sum(sizes_by_name(outputs).values())
        self.register_buffer("mean", torch.zeros(n, dtype=torch.float64))
        self.register_buffer("std", torch.ones(n, dtype=torch.float64))

    def forward(self, features: torch.Tensor, graph: Graph) -> Prediction:
        """(B,) or (B, P) float64, for a single structure () or (P,); a dict of them for named outputs."""
        atoms = graph.atoms
        atomic = self.mean + self.std * self.network(features).double()  # (N, ΣP)
        pooled = sum_structures(atomic, atoms)  # (B, ΣP) or (ΣP,)
        if self.pooling == "mean":
            pooled = pooled / (atoms.counts()[:, None] if atoms.is_batch else len(atoms))
        sizes = sizes_by_name(self.outputs)
        parts = pooled.split(list(sizes.values()), dim=-1)
        parts = [part.squeeze(-1) if part.shape[-1] == 1 else part for part in parts]
        return dict(zip(self.outputs, parts, strict=True)) if isinstance(self.outputs, dict) else parts[0]

    @torch.no_grad()
    def standardise(self, labels: dict[str, torch.Tensor], n_atoms: torch.Tensor | None = None) -> None:
        """As ``PropertyModel.standardise``."""
        if self.mean.any() or (self.std != 1).any():
            return
        moments = {name: self._moments(name, values, n_atoms) for name, values in labels.items()}
        columns = self._columns()
        if not isinstance(self.outputs, dict) and len(moments) > 1:
            raise ConfigError(f"labels: got {sorted(moments)}; this model predicts a single property")
        for name, (mean, std) in moments.items():
            part = columns[name if isinstance(self.outputs, dict) else None]
            self.mean[part], self.std[part] = mean.to(self.mean), std.to(self.std)

    def _columns(self) -> dict[str | None, slice]:
        """Where each output is among the ΣP."""
        slices, first = {}, 0
        for name, size in sizes_by_name(self.outputs).items():
            slices[name] = slice(first, first + size)
            first += size
        return slices

    def _moments(self, name, labels, n_atoms) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation (P,) of labels (S,) or (S, P) that may lack some as NaN."""
        sizes = sizes_by_name(self.outputs)
        if isinstance(self.outputs, dict) and name not in sizes:
            raise ConfigError(
                f"labels: {name!r} is not predicted by this model; expected one of {sorted(self.outputs)}"
                f"{did_you_mean(name, self.outputs)}"
            )
        size = sizes[name if isinstance(self.outputs, dict) else None]
        table = labels.double().reshape(len(labels), -1)  # (S, P)
        if table.shape[1] != size:
            raise ConfigError(f"labels: {name!r} has {table.shape[1]} components, the model predicts {size}")
        if table.isinf().any():
            raise StructureError(f"labels: {name!r} is infinite for some structures; check the data")
        if self.pooling == "sum":
            if n_atoms is None:
                raise ConfigError(f"labels: {name!r} is a sum over atoms; give n_atoms, (S,), as well")
            table = table / n_atoms.to(table)[:, None]
        mean = table.nanmean(0).nan_to_num()  # (P,); of no label at all it is zero
        std = (table - mean).square().nanmean(0).sqrt()
        constant = ~(std > CONSTANT * mean.abs())  # NaN, of no label, too
        return mean, std.masked_fill(constant, 1)


class PropertyModel(Potential):
    """A network that is a potential or, by its ``readout``, predicts a property.

    Subclasses write ``features`` and set ``head`` to ``make_head`` of a network (N, H) → (N, ΣP).
    """

    Config = PropertyConfig
    config: PropertyConfig
    head: nn.Module

    def __init__(self, config: PropertyConfig):
        super().__init__(config)
        self.is_potential = config.readout == "energy"
        self.compute_forces = config.compute_forces and self.is_potential

    @property
    def outputs(self) -> tuple[Quantity, ...]:
        """Of a potential those of ``Potential``; else each property, under ``property`` if it has no name."""
        if self.is_potential:
            return super().outputs
        sizes = sizes_by_name(self.config.output_features)
        return tuple(
            Quantity(name or "property", shape=(size,) if size > 1 else ()) for name, size in sizes.items()
        )

    def make_head(self, network: nn.Module) -> nn.Module:
        """``network`` itself for a potential, a ``PropertyHead`` of it otherwise."""
        if self.config.readout == "energy":
            return network
        return PropertyHead(network, self.config.output_features, self.config.readout)

    def features(self, inputs: Inputs) -> torch.Tensor:
        """Invariant features of the atoms, (N, H)."""
        raise NotImplementedError(f"{type(self).__name__} must define features(inputs) -> (N, H)")

    def energies(self, inputs: Inputs) -> torch.Tensor:
        return self.head(self.features(inputs)).squeeze(1)

    def forward(self, x: Input, stress: bool = True, virials: bool = False) -> Prediction:  # type: ignore[override]  # or a property
        """As ``Potential.forward`` if the model is one; otherwise the property of each structure.

        Returns:
            for a batch (B,), or (B, P) for P > 1 components or class scores; for a single structure () or
            (P,); a dict of such tensors if outputs have names. float64, in the units of the labels.
            Differentiable in training mode.
        """
        if self.is_potential:
            return super().forward(x, stress, virials)
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            graph = self.graph(x)
            return self.head(self.features(self.inputs(graph, graph.vectors().to(self.dtype))), graph)

    def standardise(self, labels: dict[str, torch.Tensor], n_atoms: torch.Tensor | None = None) -> None:
        """Let the network learn (label − mean) / std: call it with the training labels before training.

        Classes are left out of ``labels``: their scores keep mean 0 and standard deviation 1, as does a
        component without labels, and the deviation of one that is constant. A model that has been
        standardised before (trained, or loaded from a checkpoint) is left alone.

        Args:
            labels: by name (any name for a single unnamed output), (S,) or (S, P) float64, NaN where
                there is none.
            n_atoms: (S,) atoms of each structure, needed for the readout ``sum``: the standard deviation
                is then that of the label per atom.

        Raises:
            ConfigError: the model is a potential, does not predict a label, or its components differ.
            StructureError: a label is infinite.
        """
        if self.is_potential:
            raise ConfigError("standardise: the model is a potential; its energies have references instead")
        assert isinstance(self.head, PropertyHead)  # made by make_head
        self.head.standardise(labels, n_atoms)
