"""An equivariant message-passing potential in one file outside the package; see test_outside_model."""

import torch
from pydantic import Field
from torch import nn

from nfflr.models.base import Potential, PotentialConfig
from nfflr.models.registry import register


class ToyConfig(PotentialConfig):
    cutoff: float = Field(4.0, gt=0, description="radius of a neighbourhood (Å)")
    channels: int = Field(6, ge=1, description="scalar features, and vector features, per atom")


@register("toy-equivariant")
class ToyEquivariant(Potential):
    """Scalars s (N, C) make vectors v (N, 3, C), which neighbours pass on; E_i is read from s, v·v' and v².

    The simplest case of N. Thomas et al., arXiv:1802.08219 (2018).
    """

    Config = ToyConfig

    def __init__(self, config):
        super().__init__(config)
        c = config.channels
        self.register_buffer("centres", torch.linspace(0.8, config.cutoff, 8))
        self.embedding = nn.Embedding(len(config.elements), c)
        self.filters = nn.Linear(8, 3 * c)
        self.readout = nn.Sequential(nn.Linear(3 * c, 16), nn.Tanh(), nn.Linear(16, 1))

    def energies(self, inputs):
        r = inputs.vectors.square().sum(1, keepdim=True).sqrt()  # (E, 1)
        fade = (1 - (r / self.cutoff).clamp(max=1) ** 2) ** 3
        first, direct, passed = (self.filters(torch.exp(-((r - self.centres) ** 2))) * fade).chunk(3, dim=1)
        s = self.embedding(inputs.species)  # (N, C)
        s = s + s.new_zeros(inputs.n_atoms, s.shape[1]).index_add(0, inputs.dst, s[inputs.src] * first)
        arrows = (inputs.vectors / r)[:, :, None] * (s[inputs.src] * direct)[:, None]  # (E, 3, C)
        v = s.new_zeros(inputs.n_atoms, 3, s.shape[1]).index_add(0, inputs.dst, arrows)
        w = torch.zeros_like(v).index_add(0, inputs.dst, v[inputs.src] * passed[:, None])
        return self.readout(torch.cat([s, (v * w).sum(1), v.square().sum(1)], dim=1)).squeeze(1)
