"""PaiNN: polarizable atom interaction network, messages of scalars and vectors.

Schütt, Unke and Gastegger, *Equivariant message passing for the prediction of tensorial properties and
molecular spectra*, ICML 2021. The paper's blocks less what cannot reach the energy: the first message has
no vectors to pass on, and the last update leaves the vectors as they are.

Bonds are padded to a rectangle (N, K), one row per atom, so that sums over neighbours, weighted by the
cutoff and the bond's direction, are small matrix products. Vector features are component-major, (3, N, C).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from pydantic import Field
from torch import nn

from ...nn.dense import dense
from ...nn.padding import bond_slots, pad_bonds
from ...nn.radial import cosine_cutoff, spherical_bessel
from ..assemble import Inputs
from ..property import PropertyConfig, PropertyModel
from ..registry import register


class PaiNNConfig(PropertyConfig):
    """Hyper-parameters of PaiNN."""

    n_radial: int = Field(20, ge=1, description="Bessel functions per bond")
    channels: int = Field(64, ge=1, description="scalar features, and vector features, per atom")
    layers: int = Field(3, ge=1, description="pairs of a message and an update block")
    softening: float = Field(
        0.1, gt=0, description="length below which a feature vector's norm turns quadratic"
    )


class Bonds(NamedTuple):
    """What the blocks need to know of the padded bonds; empty slots have no weight."""

    src: torch.Tensor  # (N·K,), any atom in an empty slot
    radial: torch.Tensor  # (N·K, R)
    fade: torch.Tensor  # (N, 1, K), the cutoff function
    unit: torch.Tensor  # (N, 3, K), times ``fade``


@register("painn")
class PaiNN(PropertyModel):
    """See the module's text; a potential or, by its ``readout``, a property model."""

    Config = PaiNNConfig
    config: PaiNNConfig

    def __init__(self, config: PaiNNConfig):
        super().__init__(config)
        c, last = config.channels, config.layers - 1
        self.embedding = nn.Embedding(len(config.elements), c)
        self.messages = nn.ModuleList(Message(config, first=k == 0) for k in range(config.layers))
        self.updates = nn.ModuleList(Update(config, last=k == last) for k in range(config.layers))
        half = max(1, c // 2)
        self.head = self.make_head(nn.Sequential(dense(c, half), nn.SiLU(), dense(half, config.n_outputs)))

    def tables(self, inputs: Inputs) -> tuple[torch.Tensor, ...]:
        return bond_slots(inputs.dst, inputs.n_atoms)

    def features(self, inputs: Inputs) -> torch.Tensor:
        scalars, _ = self.scalars_and_vectors(inputs)
        return scalars

    def scalars_and_vectors(self, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Scalar features (N, C) and vector features (3, N, C), which rotate with the structure."""
        bonds = self._bonds(inputs)
        s = self.embedding(inputs.species)  # (N, C)
        v = s.new_zeros(3, *s.shape)
        for message, update in zip(self.messages, self.updates, strict=True):
            s, v = message(s, v, bonds)
            s, v = update(s, v)
        return s, v

    def _bonds(self, inputs: Inputs) -> Bonds:
        slots, columns = inputs.tables
        shape = inputs.n_atoms, columns.shape[0]
        padded = pad_bonds(inputs.vectors, slots, shape, self.cutoff)  # (3, N, K)
        r = padded.square().sum(0).sqrt()  # (N, K)
        fade = cosine_cutoff(r / self.cutoff)
        return Bonds(
            src=inputs.src.new_zeros(r.numel()).index_copy(0, slots, inputs.src),
            radial=spherical_bessel(r.flatten(), self.config.n_radial, self.cutoff),
            fade=fade[:, None],
            unit=(padded * (fade / r)).transpose(0, 1),
        )


class Message(nn.Module):
    """Message block: neighbours' scalars (N, C) and vectors (3, N, C) are added, filtered by distance."""

    def __init__(self, config: PaiNNConfig, first: bool):
        super().__init__()
        c = config.channels
        parts = 2 if first else 3  # scalars, directions and, unless they are all zero, vectors
        self.filters = nn.ModuleList(dense(config.n_radial, c) for _ in range(parts))
        self.scalars = nn.Sequential(dense(c, c), nn.SiLU(), dense(c, parts * c))

    def forward(self, s: torch.Tensor, v: torch.Tensor, bonds: Bonds) -> tuple[torch.Tensor, torch.Tensor]:
        filters = [layer(bonds.radial) for layer in self.filters]  # (N·K, C) each
        parts = self.scalars(s).unflatten(1, (len(filters), -1)).unbind(1)  # (N, C) each
        ds = collect(parts[0], filters[0], bonds.src, bonds.fade)[0]
        dv = collect(parts[1], filters[1], bonds.src, bonds.unit)
        if len(parts) == 3:
            # One component at a time: an array three times as large would leave the cache.
            passed = [collect(u, filters[2], bonds.src, bonds.fade) for u in parts[2] * v]
            dv = dv + torch.cat(passed)
        return s + ds, v + dv


def collect(
    features: torch.Tensor, filters: torch.Tensor, src: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Σ_k w_dik x_src(ik) ∘ f_ik from x (N, C), f (N·K, C), src (N·K,) and w (N, D, K): (D, N, C)."""
    messages = features.index_select(0, src) * filters
    return torch.bmm(weights, messages.view(features.shape[0], -1, messages.shape[1])).transpose(0, 1)


class Update(nn.Module):
    """Update block: scalars (N, C) and vectors (3, N, C) of the same atom act on each other."""

    def __init__(self, config: PaiNNConfig, last: bool):
        super().__init__()
        c = config.channels
        self.last, self.softening = last, config.softening
        self.mix = dense(c, 2 * c, bias=False)
        self.gates = nn.Sequential(dense(2 * c, c), nn.SiLU(), dense(c, (2 if last else 3) * c))

    def forward(self, s: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        left, right = self.mix(v).chunk(2, dim=2)  # (3, N, C) each
        gates = self.gates(torch.cat([s, soft_norm(right, self.softening)], dim=1))
        scalar, product, *vector = gates.chunk(2 if self.last else 3, dim=1)  # (N, C) each
        s = s + scalar + product * (left * right).sum(0)
        return s, v if self.last else v + vector[0] * left


def soft_norm(v: torch.Tensor, softening: float) -> torch.Tensor:
    """√(\\|v\\|² + a²) − a of vectors (3, N, C): (N, C), with a = ``softening``.

    Smooth at v = 0, which is where symmetry puts the atoms of many perfect crystals; the bare norm would
    give their energy a kink instead of a harmonic well.
    """
    return (v.square().sum(0) + softening**2).sqrt() - softening
