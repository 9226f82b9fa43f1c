"""SchNet: continuous-filter convolutions, a deep network of interatomic distances.

Schütt, Sauceda, Kindermans, Tkatchenko and Müller, J. Chem. Phys. 148, 241722 (2018).
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from ...nn.dense import ShiftedSoftplus, dense
from ...nn.radial import cosine_cutoff, gaussian
from ..assemble import Inputs
from ..property import PropertyConfig, PropertyModel
from ..registry import register


class SchNetConfig(PropertyConfig):
    """Hyper-parameters of SchNet."""

    n_radial: int = Field(20, ge=2, description="Gaussians per bond")
    channels: int = Field(64, ge=1, description="features per atom, and filters")
    layers: int = Field(3, ge=1, description="interaction blocks")


@register("schnet")
class SchNet(PropertyModel):
    """See the module's text; a potential or, by its ``readout``, a property model."""

    Config = SchNetConfig
    config: SchNetConfig

    def __init__(self, config: SchNetConfig):
        super().__init__(config)
        self.embedding = nn.Embedding(len(config.elements), config.channels)
        self.layers = nn.ModuleList(Interaction(config) for _ in range(config.layers))
        half = max(1, config.channels // 2)
        network = nn.Sequential(
            dense(config.channels, half), ShiftedSoftplus(), dense(half, config.n_outputs)
        )
        self.head = self.make_head(network)

    def features(self, inputs: Inputs) -> torch.Tensor:
        r = inputs.vectors.square().sum(1).sqrt()  # (E,)
        radial = gaussian(r, self.config.n_radial, self.cutoff)  # (E, R)
        fade = cosine_cutoff(r / self.cutoff)[:, None]  # (E, 1)
        features = self.embedding(inputs.species)  # (N, C)
        for layer in self.layers:
            features = features + layer(features, radial, fade, inputs)
        return features


class Interaction(nn.Module):
    """Features (N, C) → their change (N, C): x_i += f(Σ_j x_j ∘ W(r_ij))."""

    def __init__(self, config: SchNetConfig):
        super().__init__()
        c = config.channels
        self.filter = nn.Sequential(dense(config.n_radial, c), ShiftedSoftplus(), dense(c, c))
        self.incoming = dense(c, c, bias=False)
        self.outgoing = nn.Sequential(dense(c, c), ShiftedSoftplus(), dense(c, c))

    def forward(self, features, radial, fade, inputs: Inputs) -> torch.Tensor:
        filters = self.filter(radial) * fade  # (E, C)
        messages = self.incoming(features).index_select(0, inputs.src) * filters
        return self.outgoing(torch.zeros_like(features).index_add(0, inputs.dst, messages))
