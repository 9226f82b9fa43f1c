"""A potential of a user's own that predicts magnetic moments and charges as well: one file, no other."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from nfflr.models.base import Potential, PotentialConfig
from nfflr.models.registry import register
from nfflr.quantities import QUANTITIES, Quantity


class MagnetConfig(PotentialConfig):
    """Hyper-parameters of ``Magnet``."""

    radial: int = Field(10, ge=1, description="Gaussians for each element")
    width: int = Field(24, ge=1, description="of the hidden layer")


@register("test-magnet")
class Magnet(Potential):
    """Densities of each element around an atom, read out as energy, magnetic moment and charge."""

    Config = MagnetConfig
    config: MagnetConfig

    def __init__(self, config: MagnetConfig):
        super().__init__(config)
        kinds = len(config.elements)
        self.register_buffer("centres", torch.linspace(1.5, config.cutoff, config.radial))
        self.hidden = nn.Linear(kinds * config.radial + kinds, config.width)
        self.readout = nn.Linear(config.width, 3)

    @property
    def outputs(self) -> tuple[Quantity, ...]:
        return (*super().outputs, QUANTITIES["magmoms"], QUANTITIES["charges"])

    def atomic(self, inputs):
        r = inputs.vectors.square().sum(1).sqrt()  # (E,)
        fade = (1 - (r / self.cutoff).clamp(max=1) ** 2) ** 3
        bumps = torch.exp(-4 * (r[:, None] - self.centres) ** 2) * fade[:, None]  # (E, R)
        species, kinds = inputs.species, len(self.elements)
        flat = bumps.new_zeros(inputs.n_atoms * kinds, bumps.shape[1])
        density = flat.index_add(0, inputs.dst * kinds + species[inputs.src], bumps).view(inputs.n_atoms, -1)
        own = nn.functional.one_hot(species, kinds).to(density)  # (N, kinds)
        hidden = torch.tanh(self.hidden(torch.cat([density, own], 1)))
        energies, magmoms, charges = self.readout(hidden).unbind(1)
        return {"energies": energies, "magmoms": magmoms, "charges": charges}

    def energies(self, inputs):
        return self.atomic(inputs)["energies"]
