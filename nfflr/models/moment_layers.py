"""Layers of the moment-tensor network: from moments or messages to tensors, features and energies.

The first layer mixes the moments of the neighbour density. After it, every atom sends scalars, vectors and
matrices, made of the products of its tensors. Its neighbours receive them times tensors of the bond. This is
as in TensorNet (Simeon and De Fabritiis, NeurIPS 2023), CAMP (Wen et al., npj Comput. Mater. 11, 128 (2025))
and MACE (Batatia et al., NeurIPS 2022), in Cartesian form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import nn

from ..nn.moments import traceless_projection
from ..nn.tensors import (
    INVARIANT_ORDER,
    MATRIX_ORDER,
    N_INVARIANTS,
    N_MATRICES,
    N_PATHS,
    N_TENSORS,
    N_VECTORS,
    RANK,
    SIZES,
    VECTOR_ORDER,
    products,
    traceless,
)
from .base import PotentialConfig

LEAST = 1e-2  # variation, relative to what is typical, that calibration blows up to one; below is noise
Products = Callable[[torch.Tensor, bool], torch.Tensor]  # as ``nn.tensors.products``


class MomentConfig(PotentialConfig):
    """Hyper-parameters of the moment-tensor network."""

    earlier: ClassVar[dict] = {"own_weights": False, "tensor_messages": False, "message_limit": 0.0}

    n_radial: int = Field(8, ge=1, description="Bessel functions per bond")
    envelope: int = Field(8, ge=3, description="order p of the polynomial cutoff")
    channels: int = Field(32, ge=1, description="mixed channels per tensor rank")
    hidden: int = Field(32, ge=1, description="width of the readout's hidden layer")
    layers: int = Field(1, ge=1, description="1 is strictly local; more pass messages")
    species_channels: int = Field(4, ge=1, description="length of an element's bond embedding")
    own_weights: bool = Field(
        True, description="each element has weights of its own; False: they share them, for many elements"
    )
    message_channels: int = Field(
        32, ge=1, description="scalars, vectors and matrices that a neighbour sends"
    )
    tensor_messages: bool = Field(
        True, description="neighbours send tensors up to rank 2; False: scalars alone, as in earlier versions"
    )
    message_limit: float = Field(
        3.0,
        ge=0,
        description="what an atom sends is divided by its features where they are so many times "
        "their usual size; 0: never",
    )
    radial_decay: float = Field(1.0, ge=0, description="smoothness prior: k^-decay on function k's moments")
    order_decay: float = Field(
        0.5, gt=0, le=1, description="prior: factor per body order above 2 on the features"
    )
    zbl: bool = Field(
        True, description="add screened nuclear repulsion; the network fades out below the data's distances"
    )

    @property
    def n_own(self) -> int:
        """Sets of weights: one for each element, or one for all."""
        return len(self.elements) if self.own_weights else 1

    def radial_prior(self) -> torch.Tensor:
        """k^-decay of the radial functions (B,), of unit mean square."""
        smooth = torch.arange(1, self.n_radial + 1).pow(-self.radial_decay)
        return smooth / smooth.square().mean().sqrt()

    def product_prior(self, orders: Sequence[int]) -> torch.Tensor:
        """decay^(order − 2) of products of these body orders, (K, C)."""
        return (self.order_decay ** torch.tensor(orders).sub(2))[:, None].repeat(1, self.channels)


class Species(NamedTuple):
    """Which elements N atoms have.

    Attributes:
        element: (N,) position of each atom's element in the model's ``elements``.
        order: (N,) atoms by element.
        place: (N,) where each atom is in that order.
        counts: numbers of atoms of each element; None: atoms are not ordered.
    """

    element: torch.Tensor
    order: torch.Tensor
    place: torch.Tensor
    counts: list[int] | None

    @classmethod
    def unordered(cls, element: torch.Tensor) -> Species:
        return cls(element, element, element, None)

    @classmethod
    def ordered(cls, element: torch.Tensor, n_elements: int) -> Species:
        order = torch.argsort(element, stable=True)
        counts = torch.bincount(element, minlength=n_elements).tolist()
        return cls(element, order, torch.argsort(order), counts)


class LayerOutput(NamedTuple):
    """What a layer makes of N atoms.

    Attributes:
        energies: (N,), in units of the model's ``scale``.
        hidden: (N, H) of the readout.
        tensors: (N, 20, C).
        products: of these, (N, 14, C), or (N, 74, C) for another layer.
        features: (N, 14, C), the invariants among the products, normalised.
    """

    energies: torch.Tensor
    hidden: torch.Tensor
    tensors: torch.Tensor
    products: torch.Tensor
    features: torch.Tensor


class MomentLayer(nn.Module):
    """Moments (N, S·B, M) of the neighbour density → ``LayerOutput``."""

    moment_prior: torch.Tensor
    feature_prior: torch.Tensor
    moment_scale: torch.Tensor
    moment_shift: torch.Tensor
    feature_scale: torch.Tensor
    feature_shift: torch.Tensor

    def __init__(self, config: MomentConfig, width: int):
        super().__init__()
        n, channels, own = len(config.elements), config.channels, config.n_own
        rows = width * config.n_radial
        shares = own < n
        self.calibrating = False
        self.n_own = own
        self.mix = nn.Parameter(torch.randn(RANK + 1, rows, own * channels) / math.sqrt(rows))
        self.gain = nn.Parameter(torch.ones(n, RANK + 1, channels)) if shares else None
        self.hidden = nn.Linear(N_INVARIANTS * channels, own * config.hidden)
        self.species_bias = nn.Embedding(n, config.hidden) if shares else None
        self.readout = nn.Linear(config.hidden, own)
        self.linear = nn.Linear(N_INVARIANTS * channels, own, bias=False)
        nn.init.zeros_(self.linear.weight)
        # Priors: how much of each moment and feature there would be if all had unit variance.
        smooth = config.radial_prior().repeat(width)
        self.register_buffer("moment_prior", smooth.repeat(RANK + 1, 1), persistent=False)
        self.register_buffer(
            "feature_prior", config.product_prior(INVARIANT_ORDER).flatten(), persistent=False
        )
        self.register_buffer("moment_scale", self.moment_prior.clone())
        self.register_buffer("moment_shift", torch.zeros(rows))
        self.register_buffer("feature_scale", self.feature_prior.clone())
        self.register_buffer("feature_shift", torch.zeros(N_INVARIANTS * channels))

    def forward(
        self, moments: torch.Tensor, species: Species, products: Products = products, last: bool = True
    ) -> LayerOutput:
        tensors = self.channels(moments, species)
        terms = products(tensors, not last)
        features = terms[:, :N_INVARIANTS].flatten(1)  # (N, F·C)
        if self.calibrating:
            self._calibrate_features(features)
        features = (features - self.feature_shift) * self.feature_scale
        hidden = own_linear(features, self.hidden.weight.T, species, self.n_own)  # (N, H)
        hidden = hidden + own_rows(self.hidden.bias, species, self.n_own)
        if self.species_bias is not None:
            hidden = hidden + self.species_bias(species.element)
        hidden = nn.functional.silu(hidden)
        energies = self.readout(hidden) + self.linear(features)  # (N, n_own)
        own = species.element if self.n_own > 1 else torch.zeros_like(species.element)
        energies = energies.gather(1, own[:, None]).squeeze(1)
        return LayerOutput(energies, hidden, tensors, terms, features.unflatten(1, (N_INVARIANTS, -1)))

    def channels(self, moments: torch.Tensor, species: Species) -> torch.Tensor:
        """Mixed traceless tensors (N, 20, C)."""
        moments = moments @ traceless_projection(RANK).to(moments)  # (N, S·B, M)
        parts = moments.split(SIZES, dim=2)
        if self.calibrating:
            self._calibrate_moments(parts)
        mixed = []
        for rank, part in enumerate(parts):
            if rank == 0:
                part = part - self.moment_shift[:, None]
            mix = self.mix[rank] * self.moment_scale[rank][:, None]
            channel = own_linear(part.transpose(1, 2), mix, species, self.n_own)  # (N, M_l, C)
            if self.gain is not None:
                channel = channel * self.gain[species.element, rank][:, None]
            mixed.append(channel)
        return torch.cat(mixed, dim=1)

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


class Sender(nn.Module):
    """What a layer makes of atoms → the tensors up to rank 2 that they send, (N, 10, message channels).

    They are divided by √(1 + s²/limit²), where s is the root mean square of the atom's features, relative to
    that of the data. Features grow as a high power of the density. Without the division, what neighbours make
    of them in a crystal that is compressed beyond the data can be an energy of −300 eV.

    Attributes:
        damping: what the sum of an atom's squared features is multiplied by to give s²/limit².
    """

    smooth: torch.Tensor
    vector_prior: torch.Tensor
    matrix_prior: torch.Tensor
    vector_scale: torch.Tensor
    matrix_scale: torch.Tensor

    def __init__(self, config: MomentConfig):
        super().__init__()
        n, c, m = len(config.elements), config.channels, config.message_channels
        self.calibrating = False
        limit, usual = config.message_limit, config.product_prior(INVARIANT_ORDER).square().sum().item()
        self.damping = 1 / (limit**2 * usual) if limit else 0.0
        self.scalars = ElementLinear(n, (N_INVARIANTS, c), m, bias=True)
        self.vectors = ElementLinear(n, (N_VECTORS, c), m)
        self.matrices = ElementLinear(n, (N_MATRICES, c), m)
        self.gate = ElementLinear(n, (1, config.hidden), 3 * m, size=0.5)
        self.radial = nn.Parameter(torch.randn(config.n_radial, N_PATHS, m) / math.sqrt(config.n_radial))
        self.register_buffer("smooth", config.radial_prior(), persistent=False)
        self.register_buffer("vector_prior", config.product_prior(VECTOR_ORDER), persistent=False)
        self.register_buffer("matrix_prior", config.product_prior(MATRIX_ORDER), persistent=False)
        self.register_buffer("vector_scale", self.vector_prior.clone())
        self.register_buffer("matrix_scale", self.matrix_prior.clone())

    @property
    def radial_weights(self) -> torch.Tensor:
        """Of the messages' radial functions, (B, 20, message channels)."""
        return self.radial * self.smooth[:, None, None]

    def forward(self, x: LayerOutput, species: Species) -> torch.Tensor:
        _, vectors, matrices = x.products.split((N_INVARIANTS, 3 * N_VECTORS, 6 * N_MATRICES), dim=1)
        vectors, matrices = vectors.unflatten(1, (3, -1)), matrices.unflatten(1, (6, -1))
        if self.calibrating:
            self.vector_scale.copy_(unit_scale(vectors, self.vector_prior))
            self.matrix_scale.copy_(unit_scale(matrices, self.matrix_prior))
        gates = 1 + self.gate(x.hidden[:, None], species).unflatten(2, (3, -1)).squeeze(1)  # (N, 3, m)
        parts = [
            self.scalars(x.features[:, None], species),  # (N, 1, m)
            self.vectors(vectors * self.vector_scale, species),  # (N, 3, m)
            traceless(2)[4:, 4:].to(matrices)
            @ self.matrices(matrices * self.matrix_scale, species),  # (N, 6, m)
        ]
        sent = torch.cat([part * gates[:, rank, None] for rank, part in enumerate(parts)], dim=1)
        if not self.damping:
            return sent
        return sent * (1 + self.damping * x.features.square().sum((1, 2), keepdim=True)).rsqrt()


class MessageLayer(nn.Module):
    """Received tensors (N, 20, message channels) and what the layer before made → ``LayerOutput``."""

    feature_prior: torch.Tensor
    feature_scale: torch.Tensor
    feature_shift: torch.Tensor
    message_scale: torch.Tensor
    message_shift: torch.Tensor

    def __init__(self, config: MomentConfig):
        super().__init__()
        n, c, m, own, h = (
            len(config.elements),
            config.channels,
            config.message_channels,
            config.n_own,
            config.hidden,
        )
        self.n_elements, self.n_own = n, own
        self.calibrating = False
        self.mix = RankLinear(n, m, c)
        self.keep = RankLinear(n, c, c, size=0.5)
        self.hidden = nn.Parameter(torch.randn(N_INVARIANTS, c, own * h) / math.sqrt(N_INVARIANTS * c))
        self.before = nn.Parameter(torch.randn(h, h) / math.sqrt(h))
        self.bias = nn.Parameter(torch.zeros(n * h))
        self.readout = nn.Parameter(torch.randn(own * h) / math.sqrt(h))
        self.linear = nn.Parameter(torch.zeros(own * N_INVARIANTS * c))
        self.register_buffer("feature_prior", config.product_prior(INVARIANT_ORDER), persistent=False)
        self.register_buffer("feature_scale", self.feature_prior.clone())
        self.register_buffer("feature_shift", torch.zeros(N_INVARIANTS, c))
        self.register_buffer("message_scale", torch.ones(RANK + 1, m))
        self.register_buffer("message_shift", torch.zeros(m))

    def forward(
        self,
        received: torch.Tensor,
        before: LayerOutput,
        species: Species,
        products: Products = products,
        last: bool = True,
    ) -> LayerOutput:
        received = traceless(RANK).to(received) @ received
        if self.calibrating:
            self._calibrate_messages(received)
        shift = nn.functional.pad(self.message_shift[None], (0, 0, 0, N_TENSORS - 1))  # of scalars alone
        tensors = self.mix(received - shift, species, self.message_scale) + self.keep(before.tensors, species)
        terms = products(tensors, not last)
        features = terms[:, :N_INVARIANTS]
        if self.calibrating:
            self.feature_shift.copy_(features.mean(0))
            self.feature_scale.copy_(unit_scale((features - self.feature_shift)[:, None], self.feature_prior))
        features = (features - self.feature_shift) * self.feature_scale
        hidden = own_linear(features.flatten(1), self.hidden.flatten(0, 1), species, self.n_own)
        hidden = hidden + before.hidden @ self.before + own_rows(self.bias, species, self.n_elements)
        hidden = nn.functional.silu(hidden)
        energies = (hidden * own_rows(self.readout, species, self.n_own)).sum(1)
        energies = energies + (features.flatten(1) * own_rows(self.linear, species, self.n_own)).sum(1)
        return LayerOutput(energies, hidden, tensors, terms, features)

    def _calibrate_messages(self, received: torch.Tensor) -> None:
        """Unit variance of what is received in every channel, but for what hardly varies."""
        self.message_shift.copy_(received[:, 0].mean(0))
        for rank, part in enumerate(received.split(SIZES, dim=1)):
            part = part - self.message_shift if rank == 0 else part
            self.message_scale[rank] = unit_scale(part[:, :, None], torch.ones_like(self.message_scale[:1]))[
                0
            ]


class ElementLinear(nn.Module):
    """x (N, M, K, C) → (N, M, out) by weights (K, C, out) for all elements; each scales its inputs (K·C)."""

    def __init__(self, n: int, shape: tuple[int, int], out: int, bias: bool = False, size: float = 1.0):
        super().__init__()
        n_in = shape[0] * shape[1]
        self.n = n
        self.weight = nn.Parameter(torch.randn(*shape, out) * size / math.sqrt(n_in))
        self.gain = nn.Parameter(torch.ones(n * n_in)) if n > 1 else None
        self.bias = nn.Parameter(torch.zeros(n * out)) if bias else None

    def forward(self, x: torch.Tensor, species: Species) -> torch.Tensor:
        x = x.flatten(2) if x.dim() == 4 else x
        if self.gain is not None:
            x = x * self.gain.view(self.n, 1, -1).index_select(0, species.element)
        x = x @ self.weight.flatten(0, 1)
        return x if self.bias is None else x + self.bias.view(self.n, 1, -1).index_select(0, species.element)


class RankLinear(nn.Module):
    """Tensors (N, 20, K) → (N, 20, C) by a matrix for each rank; each element scales its inputs."""

    def __init__(self, n: int, n_in: int, n_out: int, size: float = 1.0):
        super().__init__()
        self.n = n
        self.weight = nn.Parameter(torch.randn(RANK + 1, n_in, n_out) * size / math.sqrt(n_in))
        self.gain = nn.Parameter(torch.ones(n * (RANK + 1) * n_in)) if n > 1 else None

    def forward(self, x: torch.Tensor, species: Species, scale: torch.Tensor | None = None) -> torch.Tensor:
        """``scale`` (4, K) multiplies the inputs of each rank."""
        weights = self.weight if scale is None else self.weight * scale[:, :, None]
        parts = list(x.split(SIZES, dim=1))
        if self.gain is not None:
            gains = self.gain.view(self.n, RANK + 1, 1, -1).index_select(0, species.element)  # (N, 4, 1, K)
            parts = [part * gains[:, rank] for rank, part in enumerate(parts)]
        return torch.cat([part @ weights[rank] for rank, part in enumerate(parts)], dim=1)


def own_linear(x: torch.Tensor, weights: torch.Tensor, species: Species, n_own: int) -> torch.Tensor:
    """x (N, …, K) times the block of each atom's own element among weights (K, n_own · C): (N, …, C).

    Without an order of atoms the products with all blocks are computed, as a graph that is compiled for any
    numbers of atoms must do.
    """
    if n_own == 1:
        return x @ weights
    if species.counts is None:
        mask = nn.functional.one_hot(species.element, n_own).to(x.dtype)  # (N, elements)
        mask = mask.view(x.shape[0], *[1] * (x.dim() - 2), n_own, 1)
        return ((x @ weights).unflatten(-1, (n_own, -1)) * mask).sum(-2)
    parts = x.index_select(0, species.order).split(species.counts)
    blocks = weights.unflatten(1, (n_own, -1)).unbind(1)
    products = [part @ block for part, block in zip(parts, blocks, strict=True)]
    return torch.cat(products).index_select(0, species.place)


def own_rows(weights: torch.Tensor, species: Species, n: int) -> torch.Tensor:
    """The weights (n·K,) of each atom's own element, (N, K), or (1, K) where there is one set for all."""
    rows = weights.view(n, -1)
    return rows if n == 1 else rows.index_select(0, species.element)


def unit_scale(x: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    """Factors (K, C) that give products x (N, M, K, C) the root mean square ``goal``; noise is left small."""
    x = x if x.dim() == 4 else x.unflatten(2, goal.shape)
    rms = x.square().sum(1).mean(0).sqrt()
    typical = rms.square().mean(1, keepdim=True).sqrt().clamp(min=1e-6)
    return goal / torch.maximum(rms, LEAST * typical)
