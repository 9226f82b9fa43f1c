"""Stillinger–Weber: pairs and a penalty on angles, for tetrahedral semiconductors."""

from __future__ import annotations

import torch
from pydantic import Field, model_validator

from ...nn.padding import bond_pairs
from ..assemble import Inputs
from ..base import Potential, PotentialConfig
from ..registry import register
from .parameter_tables import (
    Parameters,
    check_complete,
    check_symbols,
    constant,
    find,
    keys,
    settle_cutoff,
    unordered_pairs,
    weight,
)


class PairParameters(Parameters):
    """Two-body parameters; defaults are silicon's of 1985."""

    epsilon: float = Field(2.1683, gt=0, description="energy scale (eV)")
    sigma: float = Field(2.0951, gt=0, description="length scale (Å)")
    a: float = Field(1.80, gt=0, description="range in units of sigma")
    A: float = Field(7.049556277, ge=0, description="strength in units of epsilon")
    B: float = Field(0.6022245584, ge=0, description="ratio of repulsion to attraction")
    p: float = Field(4.0, ge=0, description="power of the repulsion")
    q: float = Field(0.0, ge=0, description="power of the attraction")
    gamma: float = Field(1.20, ge=0, description="decay of angular terms along this bond, in units of sigma")


class TripletParameters(Parameters):
    """Three-body parameters; defaults are silicon's of 1985."""

    epsilon: float = Field(2.1683, gt=0, description="energy scale (eV)")
    lam: float = Field(21.0, ge=0, description="strength λ in units of epsilon")
    costheta0: float = Field(-1 / 3, ge=-1, le=1, description="cosine of the preferred angle")


class StillingerWeberConfig(PotentialConfig):
    """Tables by pair "C-Si" and by triplet "C-Si-Si", centre first; either order of the neighbours.

    An empty table is silicon's of 1985 whatever the elements; otherwise each pair or triplet has its row.
    """

    cutoff: float = Field(5.0, gt=0, description="largest a·sigma (Å); follows from the parameters")
    pairs: dict[str, PairParameters] = Field({}, description="two-body parameters by pair")
    triplets: dict[str, TripletParameters] = Field({}, description="three-body parameters by triplet")

    @model_validator(mode="after")
    def _check(self):
        pairs, triplets = self.pair_names(), self.triplet_names()
        check_symbols("pairs", self.pairs, self.elements, (2,))
        check_symbols("triplets", self.triplets, self.elements, (3,))
        check_complete("pairs", self.pairs, pairs)
        check_complete("triplets", self.triplets, triplets)
        settle_cutoff(self, max(row.a * row.sigma for row in self.rows("pairs")))
        return self

    def pair_names(self) -> list[list[str]]:
        """Names of each of the P unordered pairs of elements."""
        pairs, _ = unordered_pairs(len(self.elements))
        return [keys(self.elements[i], self.elements[j]) for i, j in pairs]

    def triplet_names(self) -> list[list[str]]:
        """Names of each centre with each pair, n·P of them, centre slowest."""
        return [[f"{e}-{name}" for name in names] for e in self.elements for names in self.pair_names()]

    def rows(self, field: str) -> list:
        """Parameters of all pairs (P) or triplets (n·P), in the order of their names."""
        names = self.pair_names() if field == "pairs" else self.triplet_names()
        default = PairParameters() if field == "pairs" else TripletParameters()
        return [find(getattr(self, field), alternatives) or default for alternatives in names]

    @classmethod
    def silicon(cls) -> StillingerWeberConfig:
        """F. H. Stillinger and T. A. Weber, Phys. Rev. B 31, 5262 (1985)."""
        return cls(elements=("Si",))

    @classmethod
    def amorphous_silicon(cls) -> StillingerWeberConfig:
        """R. L. C. Vink et al., J. Non-Cryst. Solids 282, 248 (2001)."""
        pair, triplet = PairParameters(epsilon=1.64833), TripletParameters(epsilon=1.64833, lam=31.5)
        return cls(elements=("Si",), pairs={"Si-Si": pair}, triplets={"Si-Si-Si": triplet})


@register("stillinger-weber")
class StillingerWeber(Potential):
    """E = Σ_pairs εA [B(σ/r)^p − (σ/r)^q] e^{σ/(r−aσ)}
         + Σ_angles ελ (cos θ − cos θ₀)² e^{γσ/(r−aσ)} e^{γ'σ'/(r'−a'σ')}.

    F. H. Stillinger and T. A. Weber, Phys. Rev. B 31, 5262 (1985). Half of a pair's energy is on either
    atom, an angle's on its centre. The parameters are weights; ranges aσ stay as configured, since
    neighbour lists rely on them.
    """

    Config = StillingerWeberConfig
    pair_index: torch.Tensor
    range: torch.Tensor
    p: torch.Tensor
    q: torch.Tensor
    fits_references = False

    def __init__(self, config: StillingerWeberConfig):
        super().__init__(config)
        pairs, triplets = config.rows("pairs"), config.rows("triplets")
        _, index = unordered_pairs(len(config.elements))
        self.register_buffer("pair_index", index, persistent=False)  # (n, n) → position among P pairs
        self.strength = weight(row.epsilon * row.A for row in pairs)  # (P,), eV, as are the next
        self.repulsion = weight(row.B for row in pairs)
        self.sigma = weight(row.sigma for row in pairs)
        self.gamma = weight(row.gamma for row in pairs)
        self.stiffness = weight(row.epsilon * row.lam for row in triplets)  # (n·P,), eV
        self.cosine = weight(row.costheta0 for row in triplets)  # (n·P,)
        for name, values in {
            "range": constant(row.a * row.sigma for row in pairs),  # (P,), Å
            "p": constant(row.p for row in pairs),
            "q": constant(row.q for row in pairs),
        }.items():
            self.register_buffer(name, values, persistent=False)

    def tables(self, inputs: Inputs) -> tuple[torch.Tensor, ...]:
        species, r = inputs.species, inputs.vectors.square().sum(1).sqrt()
        reach = self.range[self.pair_index[species[inputs.dst], species[inputs.src]]]
        # Where exp(1/gap) is long zero, so that no rounding of r gets to the pole behind it.
        near = (r < reach * (1 - 1e-5)).nonzero().squeeze(1)
        first, second = bond_pairs(inputs.dst[near], inputs.n_atoms)
        once = (first < second).nonzero().squeeze(1)
        return near, first[once], second[once]

    def energies(self, inputs: Inputs) -> torch.Tensor:
        species = inputs.species
        near, first, second = inputs.tables  # (K,), (T,); only these bonds matter
        vectors, dst, src = inputs.vectors[near], inputs.dst[near], inputs.src[near]
        r = vectors.square().sum(1).sqrt()  # (K,)
        pair = self.pair_index[species[dst], species[src]]
        gap = r - self.range[pair]  # negative
        bonds = self._bonds(r, gap, pair)  # (K,)
        unit = vectors / r[:, None]
        cosine = (unit[first] * unit[second]).sum(1)  # (T,)
        reach = torch.exp(self.gamma[pair] * self.sigma[pair] / gap)  # (K,)
        triplet = (
            species[dst[first]] * len(self.sigma) + self.pair_index[species[src[first]], species[src[second]]]
        )
        bend = self.stiffness[triplet] * (cosine - self.cosine[triplet]).square()
        angles = bend * reach[first] * reach[second]  # (T,)
        total = bonds.new_zeros(inputs.n_atoms).index_add(0, dst, bonds / 2)
        return total.index_add(0, dst[first], angles)

    def _bonds(self, r: torch.Tensor, gap: torch.Tensor, pair: torch.Tensor) -> torch.Tensor:
        """Two-body energies (K,)."""
        sigma = self.sigma[pair]
        x = sigma / r
        shape = self.repulsion[pair] * x ** self.p[pair] - x ** self.q[pair]
        return self.strength[pair] * shape * torch.exp(sigma / gap)
