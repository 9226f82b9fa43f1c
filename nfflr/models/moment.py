"""Moment-tensor network: invariants of Cartesian density moments, read out by a small network.

Per atom, the neighbour density is expanded in Bessel functions times the unit bond vector's Cartesian
tensors up to rank 3 (traceless from rank 2), channels are mixed per rank, and rotational invariants up
to body order 5 are contracted per channel: Shapeev's moment tensors (Multiscale Model. Simul. 14, 1153
(2016)) with learned channels in the spirit of MACE (Batatia et al., NeurIPS 2022). Neighbours' elements
enter through learned embeddings; an atom's own element chooses the weights that mix and read out, as in
Behler and Parrinello's networks (Phys. Rev. Lett. 98, 146401 (2007)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, partial
from typing import ClassVar, cast

import torch
from ase.data import covalent_radii
from pydantic import Field
from torch import nn

from ..data.graph import Graph
from ..nn.moments import density_moments, full_tensor_index, monomials, traceless_projection
from ..nn.padding import bond_slots, pad_bonds, pad_weights
from ..nn.radial import bessel, smoothstep
from .assemble import Inputs
from .base import Potential, PotentialConfig
from .classical.core_repulsion import repulsion
from .registry import register

RANK = 3
BODY_ORDER = (2, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5)  # of the invariants, centre included
N_INVARIANTS = len(BODY_ORDER)
REACH = 0.9  # of the shortest distance in the data: the network is trusted so far, and fades out below
LEAST = 1e-2  # variation, relative to what is typical, that calibration blows up to one; below is noise


class MomentConfig(PotentialConfig):
    """Hyper-parameters of the moment-tensor network."""

    earlier: ClassVar[dict] = {"own_weights": False}

    n_radial: int = Field(8, ge=1, description="Bessel functions per bond")
    envelope: int = Field(8, ge=3, description="order p of the polynomial cutoff")
    channels: int = Field(32, ge=1, description="mixed channels per tensor rank")
    hidden: int = Field(32, ge=1, description="width of the readout's hidden layer")
    layers: int = Field(1, ge=1, description="1 is strictly local; more pass messages")
    species_channels: int = Field(4, ge=1, description="length of an element's bond embedding")
    own_weights: bool = Field(
        True, description="each element has weights of its own; False: they share them, for many elements"
    )
    message_channels: int = Field(8, ge=1, description="scalar features a neighbour sends per layer")
    radial_decay: float = Field(1.0, ge=0, description="smoothness prior: k^-decay on function k's moments")
    order_decay: float = Field(
        0.5, gt=0, le=1, description="prior: factor per body order above 2 on the features"
    )
    zbl: bool = Field(
        True, description="add screened nuclear repulsion; the network fades out below the data's distances"
    )


@register("moment")
class MomentNetwork(Potential):
    """See the module's text. ``energies`` maps bond vectors (E, 3) to atomic energies (N,)."""

    Config = MomentConfig
    element_blocks = ("layers.*.mix", "layers.*.hidden.*", "layers.*.readout.*", "layers.*.linear.*")
    config: MomentConfig
    zbl_inner: torch.Tensor
    zbl_outer: torch.Tensor

    def __init__(self, config: MomentConfig):
        super().__init__(config)
        n = len(config.elements)
        # One element needs no embedding: its weight is the channel mixing's.
        self.bond_embedding = nn.Embedding(n, config.species_channels) if n > 1 else None
        first = config.species_channels if n > 1 else 1
        widths = [first] + [config.message_channels] * (config.layers - 1)
        self.layers = cast(Sequence[MomentLayer], nn.ModuleList(MomentLayer(config, w) for w in widths))
        self.messages = nn.ModuleList(
            nn.Linear(config.hidden, config.message_channels) for _ in range(config.layers - 1)
        )
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
        total = padded.new_zeros(shape[0])
        for k, layer in enumerate(self.layers):
            moments = density_moments(padded, weights, radial, RANK, constant_bonds=self.training)
            features, energies = layer(moments, species)
            total = total + energies
            if k < len(self.messages):
                message = self.messages[k](features).index_select(0, inputs.src)
                weights = pad_weights(message, slots, shape)
        if self.config.zbl:
            total = total + self._repulsion(inputs)
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
        for layer in self.layers:
            layer.calibrating = True
        try:
            self.energies(self.inputs(graph))
        finally:
            for layer in self.layers:
                layer.calibrating = False


class MomentLayer(nn.Module):
    """Moments (N, S·B, M) → hidden features (N, hidden) and atomic energies (N,)."""

    moment_prior: torch.Tensor
    feature_prior: torch.Tensor
    moment_scale: torch.Tensor
    moment_shift: torch.Tensor
    feature_scale: torch.Tensor
    feature_shift: torch.Tensor

    def __init__(self, config: MomentConfig, width: int):
        super().__init__()
        n, channels = len(config.elements), config.channels
        rows = width * config.n_radial
        self.calibrating = False
        own = n if config.own_weights else 1  # sets of weights, side by side
        shares = own < n
        self.n_own = own
        self.mix = nn.Parameter(torch.randn(RANK + 1, rows, own * channels) / math.sqrt(rows))
        self.gain = nn.Parameter(torch.ones(n, RANK + 1, channels)) if shares else None
        self.hidden = nn.Linear(N_INVARIANTS * channels, own * config.hidden)
        self.species_bias = nn.Embedding(n, config.hidden) if shares else None
        self.readout = nn.Linear(config.hidden, own)
        self.linear = nn.Linear(N_INVARIANTS * channels, own, bias=False)
        nn.init.zeros_(self.linear.weight)
        smooth = torch.arange(1, config.n_radial + 1).pow(-config.radial_decay)
        smooth = (smooth / smooth.square().mean().sqrt()).repeat(width)
        prior = config.order_decay ** torch.tensor(BODY_ORDER).sub(2)
        # Priors: how much of each moment and feature there would be if all had unit variance.
        self.register_buffer("moment_prior", smooth.repeat(RANK + 1, 1), persistent=False)
        self.register_buffer("feature_prior", prior.repeat_interleave(channels), persistent=False)
        self.register_buffer("moment_scale", self.moment_prior.clone())
        self.register_buffer("moment_shift", torch.zeros(rows))
        self.register_buffer("feature_scale", self.feature_prior.clone())
        self.register_buffer("feature_shift", torch.zeros(N_INVARIANTS * channels))

    def forward(self, moments: torch.Tensor, species: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tensors = self.channels(moments, species)
        features = invariants(*tensors)  # (N, F·C)
        if self.calibrating:
            self._calibrate_features(features)
        features = (features - self.feature_shift) * self.feature_scale
        hidden = self._own(self.hidden(features), species)  # (N, hidden)
        if self.species_bias is not None:
            hidden = hidden + self.species_bias(species)
        hidden = nn.functional.silu(hidden)
        return hidden, self._own(self.readout(hidden) + self.linear(features), species).squeeze(1)

    def _own(self, x: torch.Tensor, species: torch.Tensor) -> torch.Tensor:
        """Select the columns (N, …, K) of each atom's own element from those of all (N, …, elements · K).

        Columns of all elements are computed: with a few elements that costs less than sorting atoms.
        """
        if self.n_own == 1:
            return x
        mask = nn.functional.one_hot(species, self.n_own).to(x.dtype)  # (N, elements)
        mask = mask.view(x.shape[0], *[1] * (x.dim() - 2), self.n_own, 1)
        return (x.unflatten(-1, (self.n_own, -1)) * mask).sum(-2)

    def channels(self, moments: torch.Tensor, species: torch.Tensor) -> list[torch.Tensor]:
        """Mixed traceless tensors (N, M_l, C) of rank 0 to 3, M_l independent components each."""
        moments = moments @ traceless_projection(RANK).to(moments)  # (N, S·B, M)
        parts = moments.split([1, 3, 6, 10], dim=2)
        if self.calibrating:
            self._calibrate_moments(parts)
        mixed = []
        for rank, part in enumerate(parts):
            if rank == 0:
                part = part - self.moment_shift[:, None]
            mix = self.mix[rank] * self.moment_scale[rank][:, None]
            channel = self._own(part.transpose(1, 2) @ mix, species)  # (N, M_l, C)
            if self.gain is not None:
                channel = channel * self.gain[species, rank][:, None]
            mixed.append(channel)
        return mixed

    def _calibrate_moments(self, parts: tuple[torch.Tensor, ...]) -> None:
        """Unit variance of every moment (N, S·B, M_l), but for those that hardly vary."""
        self.moment_shift.copy_(parts[0].mean((0, 2)))
        typical = parts[0].square().mean().sqrt().clamp(min=1e-6)
        for rank, part in enumerate([parts[0] - self.moment_shift[:, None], *parts[1:]]):
            rms = part.square().sum(2).mean(0).sqrt().clamp(min=LEAST * typical)
            self.moment_scale[rank] = self.moment_prior[rank] / rms

    def _calibrate_features(self, features: torch.Tensor) -> None:
        """Zero mean and unit variance of every feature (N, F·C), but for those that hardly vary."""
        kinds = features.unflatten(1, (N_INVARIANTS, -1))  # (N, F, C)
        typical = kinds.square().mean((0, 2)).sqrt().clamp(min=LEAST)[:, None]
        spread = kinds.std(0, correction=0).clamp(min=LEAST * typical).flatten()
        self.feature_shift.copy_(features.mean(0))
        self.feature_scale.copy_(self.feature_prior / spread)


@cache
def component_tables(dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Index tables of symmetric tensors, whose unique components are the monomials of their rank.

    Returns:
        how often each component of rank 2 and 3 occurs, (6, 1) and (10, 1); first and second axis of the
        components of rank 2, (6,) both; components of rank 2 as (3·3,) and of rank 3 as (3·6,).
    """
    with torch.inference_mode(False), torch.device("cpu"):  # kept for later calls, whatever their mode is
        return tuple(t.to(device) for t in _component_tables(dtype))


def _component_tables(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    first, second = torch.tensor(monomials(RANK)[4:10]).T
    rows_3 = full_tensor_index(RANK, 3).view(3, 9)[:, 3 * first + second].flatten()
    rows_2 = full_tensor_index(RANK, 2)
    counts = [torch.bincount(full_tensor_index(RANK, k)).to(dtype)[:, None] for k in (2, 3)]
    return *counts, first, second, rows_2, rows_3


def invariants(s, v, m, t) -> torch.Tensor:
    """Contractions of tensors of rank 0-3, (N, M_l, C) each, to rotational invariants (N, F·C).

    Body order counts the centre: a product of k moments has order k + 1. Symmetric pairs of axes are
    summed once, with weight 2 off the diagonal.
    """
    n, _, c = v.shape
    count_2, count_3, first, second, rows_2, rows_3 = component_tables(s.dtype, s.device)
    s = s.squeeze(1)
    m_full = m.index_select(1, rows_2).view(n, 3, 3, c)
    t_pairs = t.index_select(1, rows_3).view(n, 3, 6, c)  # axes a, (bc)
    m_twice, t_twice = m * count_2, t_pairs * count_2
    mv = (m_full * v[:, None]).sum(2)  # (N, 3, C)
    tm = (t_pairs * m_twice[:, None]).sum(2)  # (N, 3, C)
    tv = (t_pairs * v[:, :, None]).sum(1)  # (N, 6, C), as are mm and tt
    mm = (m_full.index_select(1, first) * m_full.index_select(1, second)).sum(2)
    tt = (t_pairs.index_select(1, first) * t_twice.index_select(1, second)).sum(2)
    features = [
        s,  # order 2
        v.square().sum(1),  # order 3 from here
        (m * m_twice).sum(1),
        (t.square() * count_3).sum(1),
        (mv * v).sum(1),  # order 4 from here
        (mm * m_twice).sum(1),
        (tm * v).sum(1),
        (tt * m_twice).sum(1),
        mv.square().sum(1),  # order 5 from here
        tm.square().sum(1),
        (tv.square() * count_2).sum(1),
        (tm * mv).sum(1),
        (tt * mm * count_2).sum(1),
        (tt.square() * count_2).sum(1),
    ]
    return torch.cat(features, dim=1)


def faded_bessel(r, n, cutoff, p, window):
    """Bessel functions and derivatives, (n, N, K), faded out inside ``window``."""
    value, slope = bessel(r, n, cutoff, p)
    if window is None:
        return value, slope
    inner, outer = window
    step, d_step = smoothstep((r - inner) / (outer - inner))
    return value * step, slope * step + value * (d_step / (outer - inner))
