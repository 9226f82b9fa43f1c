"""Lennard-Jones pairs with Lorentz–Berthelot mixing."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from ase.data import atomic_numbers, covalent_radii
from ase.units import kB
from pydantic import Field, model_validator

from ..assemble import Inputs
from ..base import Potential, PotentialConfig
from ..registry import register
from .parameter_tables import check_complete, check_symbols, find, keys, unordered_pairs, weight

Table = dict[str, Annotated[float, Field(gt=0)]]


class LennardJonesConfig(PotentialConfig):
    """Parameters per element ("Ar") or pair ("Ar-Kr"); an unnamed pair is mixed from its elements.

    A table without any row is a placeholder, not a fit: minima at the sum of covalent radii, 0.1 eV deep.
    """

    epsilon: Table = Field({}, description="well depth by element or pair (eV)")
    sigma: Table = Field({}, description="distance of zero energy by element or pair (Å)")
    truncation: Literal["smooth", "shift"] = Field(
        "smooth", description="fade to zero above the onset, or shift the energy: forces then jump"
    )
    onset: float = Field(0.66, ge=0, lt=1, description="where fading begins, as a fraction of the cutoff")

    @model_validator(mode="after")
    def _check(self):
        for field in ("epsilon", "sigma"):
            check_symbols(field, getattr(self, field), self.elements, (1, 2))
            check_complete(field, getattr(self, field), [(e,) for e in self.elements])
        return self

    @classmethod
    def argon(cls, **settings) -> LennardJonesConfig:
        """Argon of A. Rahman, Phys. Rev. 136, A405 (1964): ε = 120 K·k_B, σ = 3.4 Å; cutoff 2.5 σ."""
        values = {"epsilon": {"Ar": 120 * kB}, "sigma": {"Ar": 3.4}, "cutoff": 8.5}
        return cls(elements=("Ar",), **{**values, **settings})

    def depth(self, a: str, b: str) -> float:
        """ε of a pair (eV): its own, or the geometric mean of its elements' (Berthelot)."""
        own = [self.epsilon.get(e, 0.1) for e in (a, b)]
        return find(self.epsilon, keys(a, b)) or (own[0] * own[1]) ** 0.5

    def diameter(self, a: str, b: str) -> float:
        """σ of a pair (Å): its own, or the arithmetic mean of its elements' (Lorentz)."""
        own = [self.sigma.get(e, 2 ** (5 / 6) * covalent_radii[atomic_numbers[e]]) for e in (a, b)]
        return find(self.sigma, keys(a, b)) or float(sum(own) / 2)


@register("lennard-jones")
class LennardJones(Potential):
    """V(r) = 4ε[(σ/r)¹² − (σ/r)⁶], half of it on either atom.

    J. E. Jones, Proc. R. Soc. A 106, 463 (1924). ``truncation="smooth"`` multiplies by ASE's and HOOMD's
    cubic in r², which takes energy and force to zero at the cutoff; ``"shift"`` subtracts V(cutoff).
    """

    Config = LennardJonesConfig
    config: LennardJonesConfig
    pair_index: torch.Tensor
    fits_references = False

    def __init__(self, config: LennardJonesConfig):
        super().__init__(config)
        pairs, index = unordered_pairs(len(config.elements))
        names = [(config.elements[i], config.elements[j]) for i, j in pairs]
        self.register_buffer("pair_index", index, persistent=False)  # (n, n) → position among P pairs
        self.epsilon = weight(config.depth(*pair) for pair in names)  # (P,), eV
        self.sigma = weight(config.diameter(*pair) for pair in names)  # (P,), Å

    def tables(self, inputs: Inputs) -> tuple[torch.Tensor, ...]:
        return ((inputs.vectors.square().sum(1) < self.cutoff**2).nonzero().squeeze(1),)

    def energies(self, inputs: Inputs) -> torch.Tensor:
        species, (near,) = inputs.species, inputs.tables  # (N,), (K,)
        square, dst = inputs.vectors.square().sum(1)[near], inputs.dst[near]
        pair = self.pair_index[species[dst], species[inputs.src[near]]]
        epsilon, sigma = self.epsilon[pair], self.sigma[pair]
        bond = lennard_jones(square, epsilon, sigma)  # (K,)
        if self.config.truncation == "smooth":
            bond = bond * fade(square, (self.config.onset * self.cutoff) ** 2, self.cutoff**2)
        else:
            bond = bond - lennard_jones(torch.full_like(square, self.cutoff**2), epsilon, sigma)
        return bond.new_zeros(inputs.n_atoms).index_add(0, dst, bond / 2)


def lennard_jones(square: torch.Tensor, epsilon: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """4ε[(σ/r)¹² − (σ/r)⁶] from r²."""
    x6 = (sigma.square() / square) ** 3
    return 4 * epsilon * x6 * (x6 - 1)


def fade(square: torch.Tensor, onset: float, end: float) -> torch.Tensor:
    """From 1 at r² = ``onset`` to 0 at r² = ``end``, once continuously differentiable."""
    x = ((square - onset) / (end - onset)).clamp(0, 1)
    return (1 - x).square() * (1 + 2 * x)
