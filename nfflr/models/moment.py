"""Moment-tensor network: invariants of Cartesian density moments, read out by a small network.

Per atom, the neighbour density is expanded in Bessel functions times the unit bond vector's Cartesian
tensors up to rank 3 (traceless from rank 2), channels are mixed per rank, and rotational invariants up
to body order 5 are contracted per channel: Shapeev's moment tensors (Multiscale Model. Simul. 14, 1153
(2016)) with learned channels in the spirit of MACE (Batatia et al., NeurIPS 2022). Neighbours' elements
enter through learned embeddings; an atom's own element chooses the weights that mix and read out, as in
Behler and Parrinello's networks (Phys. Rev. Lett. 98, 146401 (2007)). With more than one layer, neighbours
exchange tensors; see ``moment_layers``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from ase.data import covalent_radii
from torch import nn

from ..data.graph import Graph
from ..nn.moments import Radial, density_moments
from ..nn.padding import bond_slots, pad_bonds, pad_weights
from ..nn.radial import bessel, smoothstep
from ..nn.tensors import RANK, bond_messages, products
from .assemble import Inputs
from .base import Potential
from .classical.core_repulsion import repulsion
from .moment_layers import MessageLayer, MomentConfig, MomentLayer, Products, Sender, Species
from .registry import register

REACH = 0.9  # of the shortest distance in the data: the network is trusted so far, and fades out below
# From what atoms send (N, 10, C) and weights of radial functions (B, 20, C) to what they receive (N, 20, C).
Exchange = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@register("moment")
class MomentNetwork(Potential):
    """See the module's text. ``energies`` maps bond vectors (E, 3) to atomic energies (N,)."""

    Config = MomentConfig
    element_blocks = (
        *("layers.*.mix", "layers.*.hidden", "layers.*.hidden.*", "layers.*.readout", "layers.*.readout.*"),
        *(
            "layers.*.linear",
            "layers.*.linear.*",
            "layers.*.gain",
            "layers.*.bias",
            "senders.*.gain",
            "senders.*.bias",
        ),
    )
    config: MomentConfig
    zbl_inner: torch.Tensor
    zbl_outer: torch.Tensor

    def __init__(self, config: MomentConfig):
        super().__init__(config)
        n = len(config.elements)
        # One element needs no embedding: its weight is the channel mixing's.
        self.bond_embedding = nn.Embedding(n, config.species_channels) if n > 1 else None
        first = config.species_channels if n > 1 else 1
        further = range(config.layers - 1)
        if config.tensor_messages:
            layers: list[nn.Module] = [MomentLayer(config, first), *(MessageLayer(config) for _ in further)]
            senders = [Sender(config) for _ in further]
        else:
            layers = [MomentLayer(config, k) for k in (first, *(config.message_channels for _ in further))]
            senders = []
            self.messages = nn.ModuleList(nn.Linear(config.hidden, config.message_channels) for _ in further)
        self.senders = cast(Sequence[Sender], nn.ModuleList(senders))
        self.layers = cast(Sequence[Any], nn.ModuleList(layers))
        # Distances (Å) between which the network fades in, per element pair: below, repulsion acts alone.
        self.register_buffer("zbl_inner", torch.full((n, n), 0.6))
        self.register_buffer("zbl_outer", torch.full((n, n), 1.0))

    def tables(self, inputs: Inputs) -> tuple[torch.Tensor, ...]:
        return bond_slots(inputs.dst, inputs.n_atoms)

    def energies(self, inputs: Inputs) -> torch.Tensor:
        species, (slots, columns) = inputs.species, inputs.tables
        shape = inputs.n_atoms, columns.shape[0]
        padded = pad_bonds(inputs.vectors, slots, shape, self.cutoff)  # (3, N, K)
        radial = partial(
            faded_bessel,
            n=self.config.n_radial,
            cutoff=self.cutoff,
            p=self.config.envelope,
            window=self._window(inputs, shape),
        )
        weights = None
        if self.bond_embedding is not None:
            weights = pad_weights(self.bond_embedding(species[inputs.src]), slots, shape)
        moments = density_moments(padded, weights, radial, RANK, constant_bonds=self.training)
        if self.config.tensor_messages or self.config.layers == 1:
            of_elements = Species.unordered(species)
            total = self.atomic_energies(moments, of_elements, partial(exchange, inputs, padded, radial))
        else:
            total = self._energies_of_scalar_messages(inputs, padded, moments, radial)
        if self.config.zbl:
            total = total + self._repulsion(inputs)
        return total

    def atomic_energies(
        self, moments: torch.Tensor, species: Species, exchange: Exchange, products: Products = products
    ) -> torch.Tensor:
        """Energies (N,) without repulsion, in units of ``scale``.

        Args:
            moments: (N, S·B, M) of the neighbours' density, weighted by their embeddings.
            species: of the N atoms.
            exchange, products: what computes messages, and products of tensors.
        """
        first, *others = self.layers
        output = first(moments, species, products, last=not others)
        total = output.energies
        for k, (sender, layer) in enumerate(zip(self.senders, others, strict=True), start=1):
            received = exchange(sender(output, species), sender.radial_weights)
            output = layer(received, output, species, products, last=k == len(others))
            total = total + output.energies
        return total

    def _energies_of_scalar_messages(
        self, inputs: Inputs, padded: torch.Tensor, moments: torch.Tensor, radial: Radial
    ) -> torch.Tensor:
        """Energies (N,) of a network of several layers whose messages are scalars, as in earlier versions."""
        species = Species.unordered(inputs.species)
        output = self.layers[0](moments, species)
        total = output.energies
        for message, layer in zip(self.messages, self.layers[1:], strict=True):
            sent = message(output.hidden).index_select(0, inputs.src)
            weights = pad_weights(sent, inputs.tables[0], (padded.shape[1], padded.shape[2]))
            moments = density_moments(padded, weights, radial, RANK, constant_bonds=self.training)
            output = layer(moments, species)
            total = total + output.energies
        return total

    def _window(self, inputs: Inputs, shape: tuple[int, int]):
        """Distances (N, K) below which the network sees nothing and above which it sees all."""
        if not self.config.zbl:
            return None
        if len(self.elements) == 1:
            return self.zbl_inner[0, 0], self.zbl_outer[0, 0]
        species, slots = inputs.species, inputs.tables[0]
        pair = species.index_select(0, inputs.dst), species.index_select(0, inputs.src)
        return tuple(
            edge.new_full((shape[0] * shape[1],), 1e-3 * (1 + k)).index_copy(0, slots, edge[pair]).view(shape)
            for k, edge in enumerate((self.zbl_inner, self.zbl_outer))
        )

    def _repulsion(self, inputs: Inputs) -> torch.Tensor:
        """The core repulsion (N,) in units of ``scale``.

        It acts at every distance, falling to zero at the cutoff, and the network learns the rest: a
        structure that is compressed beyond the data is then met by a wall that was there all along.
        """
        unit = self.scale.to(inputs.vectors.dtype)
        return repulsion(inputs, self.cutoff, self.config.envelope, unit)

    @property
    def shortest_distances(self) -> torch.Tensor | None:
        return self.zbl_outer / REACH if self.config.zbl else None

    @torch.no_grad()
    def fixed_energy(self, graph: Graph) -> torch.Tensor:
        if not self.config.zbl:
            return super().fixed_energy(graph)
        return self._repulsion(self.inputs(graph, graph.vectors())).double().sum() * self.scale

    @torch.no_grad()
    def calibrate(self, graph: Graph, shortest: torch.Tensor | None = None) -> None:
        """Fade the network out well below the shortest distances, and give every feature unit variance."""
        if shortest is None:
            shortest = self.shortest_bonds([graph])
        # A pair that the data lack, or hold only far apart, meets its repulsion where its atoms would touch.
        radii = shortest.new_tensor(covalent_radii[self.numbers.cpu().numpy()])
        outer = REACH * torch.minimum(shortest, radii[:, None] + radii)
        self.zbl_outer.copy_(outer)
        self.zbl_inner.copy_(0.75 * outer)
        for part in (*self.layers, *self.senders):
            part.calibrating = True
        try:
            self.energies(self.inputs(graph))
        finally:
            for part in (*self.layers, *self.senders):
                part.calibrating = False


def faded_bessel(r, n, cutoff, p, window):
    """Bessel functions and derivatives, (n, N, K), faded out inside ``window``."""
    value, slope = bessel(r, n, cutoff, p)
    if window is None:
        return value, slope
    inner, outer = window
    step, d_step = smoothstep((r - inner) / (outer - inner))
    return value * step, slope * step + value * (d_step / (outer - inner))


def exchange(
    inputs: Inputs, padded: torch.Tensor, radial: Radial, sent: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """The messages that atoms receive, (N, 20, C).

    Args:
        inputs: bonds.
        padded: their vectors (3, N, K).
        radial: functions of a distance (N, K), (B, N, K), and their derivatives.
        sent: (N, 10, C) of every atom.
        weights: (B, 20, C).
    """
    phi = radial(padded.square().sum(0).sqrt())[0].flatten(1).index_select(1, inputs.tables[0])  # (B, E)
    functions = (phi.T @ weights.flatten(1)).unflatten(1, weights.shape[1:])  # (E, 20, C)
    unit = inputs.vectors / inputs.vectors.square().sum(1, keepdim=True).sqrt()
    messages = bond_messages(functions, unit, sent.index_select(0, inputs.src))
    return messages.new_zeros(inputs.n_atoms, *messages.shape[1:]).index_add(0, inputs.dst, messages)
