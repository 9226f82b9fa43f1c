"""Screened nuclear repulsion, alone as a term of a sum or inside a network."""

from __future__ import annotations

import torch
from pydantic import Field

from ...nn.radial import polynomial_cutoff
from ..assemble import Inputs
from ..base import Potential, PotentialConfig
from ..registry import register

COULOMB = 14.399645478425668  # e²/(4πε0), eV·Å
SHARES = (0.18175, 0.50986, 0.28022, 0.02817)  # c_k
DECAYS = (3.19980, 0.94229, 0.40290, 0.20162)  # d_k


class CoreRepulsionConfig(PotentialConfig):
    """It needs no parameter but its radius."""

    envelope: int = Field(8, ge=3, description="order p of the polynomial cutoff")


@register("zbl")
class CoreRepulsion(Potential):
    """The universal repulsion of ``zbl_energy`` times a polynomial cutoff, half of it on either atom."""

    Config = CoreRepulsionConfig
    config: CoreRepulsionConfig
    unit: torch.Tensor
    fits_references = False

    def __init__(self, config: CoreRepulsionConfig):
        super().__init__(config)
        # eV. Without weights, it is what has a precision here.
        self.register_buffer("unit", torch.ones((), dtype=torch.float64), persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        return self.unit.dtype

    def energies(self, inputs: Inputs) -> torch.Tensor:
        return repulsion(inputs, self.cutoff, self.config.envelope, self.unit)


def repulsion(inputs: Inputs, cutoff: float, envelope: int, unit: torch.Tensor | float = 1.0) -> torch.Tensor:
    """Half of each pair's repulsion on either atom, (N,), in ``unit`` (eV); it vanishes at the cutoff (Å)."""
    r, z = inputs.vectors.square().sum(1).sqrt(), inputs.numbers
    pair = zbl_energy(r, z.index_select(0, inputs.dst), z.index_select(0, inputs.src))
    pair = pair * polynomial_cutoff(r / cutoff, envelope)[0] / (2 * unit)
    return r.new_zeros(inputs.n_atoms).index_add(0, inputs.dst, pair)


def zbl_energy(r: torch.Tensor, z_i: torch.Tensor, z_j: torch.Tensor) -> torch.Tensor:
    """Universal repulsion V(r) = Z_i Z_j e²/(4πε0 r) Σ_k c_k exp(−d_k r/a), eV per pair.

    a = 0.46850 Å / (Z_i^0.23 + Z_j^0.23). Ziegler, Biersack and Littmark, *The Stopping and Range of
    Ions in Matter* (Pergamon, 1985).

    Args:
        r: (...), Å.
        z_i, z_j: atomic numbers, broadcastable to ``r``.
    """
    z_i, z_j = z_i.to(r.dtype), z_j.to(r.dtype)
    x = r * (z_i**0.23 + z_j**0.23) / 0.46850
    # Term by term: a compiled loop over four would leave most lanes of a register empty.
    screening = sum(share * torch.exp(-decay * x) for share, decay in zip(SHARES, DECAYS, strict=True))
    return COULOMB * z_i * z_j / r * screening
