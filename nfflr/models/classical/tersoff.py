"""Tersoff's bond-order potential, with Abell–Brenner parameter sets as a special case."""

from __future__ import annotations

from math import exp, log, pi, sqrt

import torch
from pydantic import Field, model_validator
from torch import nn

from ...nn.padding import bond_pairs
from ..assemble import Inputs
from ..base import Potential, PotentialConfig
from ..registry import register
from .parameter_tables import Parameters, check_complete, check_symbols, constant, settle_cutoff, weight

TINY = 5e-9  # of β·ζ, which is 1e-2 in a crystal: see ``softened_power``

# J. Tersoff, Phys. Rev. B 39, 5566 (1989), table I.
PUBLISHED_1989 = {
    "C": dict(A=1393.6, B=346.74, lam=3.4879, mu=2.2119, r1=1.80, r2=2.10)
    | dict(beta=1.5724e-7, n=0.72751, c=38049.0, d=4.3484, h=-0.57058),
    "Si": dict(A=1830.8, B=471.18, lam=2.4799, mu=1.7322, r1=2.70, r2=3.00)
    | dict(beta=1.1e-6, n=0.78734, c=100390.0, d=16.217, h=-0.59825),
    "Ge": dict(A=1769.0, B=419.23, lam=2.4451, mu=1.7047, r1=2.80, r2=3.10)
    | dict(beta=9.0166e-7, n=0.75627, c=106430.0, d=15.652, h=-0.43884),
}
CHI_1989 = {frozenset(("C", "Si")): 0.9776, frozenset(("Si", "Ge")): 1.00061}


class PairParameters(Parameters):
    """A bond i-j as seen from its centre i."""

    A: float = Field(ge=0, description="repulsion (eV)")
    B: float = Field(ge=0, description="attraction, χ included (eV)")
    lam: float = Field(gt=0, description="decay λ of the repulsion (1/Å)")
    mu: float = Field(gt=0, description="decay μ of the attraction (1/Å)")
    beta: float = Field(gt=0, description="weight β of the angular sum")
    n: float = Field(gt=0, description="exponent of the angular sum")
    r1: float = Field(ge=0, description="where the bond begins to fade (Å)")
    r2: float = Field(gt=0, description="where it has faded (Å)")


class TripletParameters(Parameters):
    """The effect of neighbour k on the bond i-j."""

    c: float = Field(ge=0, description="strength of the angular dependence")
    d: float = Field(gt=0, description="its sharpness")
    h: float = Field(description="cosine of the preferred angle")
    gamma: float = Field(1.0, ge=0, description="prefactor γ")
    lambda3: float = Field(0.0, description="how much nearer neighbours count more (1/Å)")
    m: int = Field(1, ge=1, description="power of lambda3·(r_ij − r_ik)")


class TersoffConfig(PotentialConfig):
    """Tables by ordered pair "C-Si" and triplet "C-Si-Si", centre first, then the bond, then k.

    An empty table is Tersoff's of 1989 for C, Si and Ge, mixed as published; other elements count as Si.
    Otherwise each pair or triplet has its row.
    """

    cutoff: float = Field(5.0, gt=0, description="largest r2 (Å); follows from the parameters")
    pairs: dict[str, PairParameters] = Field({}, description="bond parameters by ordered pair")
    triplets: dict[str, TripletParameters] = Field({}, description="angular parameters by triplet")

    @model_validator(mode="after")
    def _check(self):
        check_symbols("pairs", self.pairs, self.elements, (2,))
        check_symbols("triplets", self.triplets, self.elements, (3,))
        check_complete("pairs", self.pairs, [(f"{i}-{j}",) for i in self.elements for j in self.elements])
        names = [f"{i}-{j}-{k}" for i in self.elements for j in self.elements for k in self.elements]
        check_complete("triplets", self.triplets, [(name,) for name in names])
        bad = [name for name, row in self.pairs.items() if row.r1 >= row.r2]
        if bad:
            raise ValueError(f"pairs: row {bad[0]!r} has r1 ≥ r2; expected r1 < r2")
        settle_cutoff(self, max(row.r2 for row in self.pair_rows()))
        return self

    def pair_rows(self) -> list[PairParameters]:
        """All n² ordered pairs, centre slowest."""
        ordered = [(i, j) for i in self.elements for j in self.elements]
        return [self.pairs[f"{i}-{j}"] if self.pairs else pair_1989(i, j) for i, j in ordered]

    def triplet_rows(self) -> list[TripletParameters]:
        """All n³ triplets, centre slowest, k fastest."""
        e, own = self.elements, self.triplets
        ordered = [(i, j, k) for i in e for j in e for k in e]
        return [own[f"{i}-{j}-{k}"] if own else triplet_1989(i) for i, j, k in ordered]

    @classmethod
    def silicon(cls) -> TersoffConfig:
        """J. Tersoff, Phys. Rev. B 39, 5566 (1989)."""
        return cls(elements=("Si",))

    @classmethod
    def silicon_carbide(cls) -> TersoffConfig:
        """J. Tersoff, Phys. Rev. B 39, 5566 (1989)."""
        return cls(elements=("C", "Si"))

    @classmethod
    def silicon_2005(cls) -> TersoffConfig:
        """P. Erhart and K. Albe, Phys. Rev. B 71, 035211 (2005), set Si-II."""
        pair = brenner(D0=3.24, r0=2.222, S=1.57, beta=1.4760, r1=2.75, r2=3.05)
        triplet = TripletParameters(gamma=0.09253, c=1.13681, d=0.63397, h=-0.335)
        return cls(elements=("Si",), pairs={"Si-Si": pair}, triplets={"Si-Si-Si": triplet})


def pair_1989(i: str, j: str) -> PairParameters:
    """Geometric means of A, B and ranges, arithmetic of decays; β and n are the centre's."""
    a, b = (PUBLISHED_1989.get(e, PUBLISHED_1989["Si"]) for e in (i, j))
    mixed = {name: sqrt(a[name] * b[name]) for name in ("A", "B", "r1", "r2")}
    mixed |= {name: (a[name] + b[name]) / 2 for name in ("lam", "mu")}
    mixed["B"] *= CHI_1989.get(frozenset((i, j)), 1.0)
    return PairParameters(**mixed, beta=a["beta"], n=a["n"])


def triplet_1989(i: str) -> TripletParameters:
    """The angular dependence is the centre's alone."""
    own = PUBLISHED_1989.get(i, PUBLISHED_1989["Si"])
    return TripletParameters(c=own["c"], d=own["d"], h=own["h"])


def brenner(D0: float, r0: float, S: float, beta: float, r1: float, r2: float) -> PairParameters:
    """A bond in the form of Brenner, and of Erhart and Albe: D0 (eV), r0 (Å), S, β (1/Å), n = 1."""
    lam, mu = beta * sqrt(2 * S), beta * sqrt(2 / S)
    a, b = D0 / (S - 1) * exp(lam * r0), S * D0 / (S - 1) * exp(mu * r0)
    return PairParameters(A=a, B=b, lam=lam, mu=mu, beta=1.0, n=1.0, r1=r1, r2=r2)


@register("tersoff")
class Tersoff(Potential):
    """E = ½ Σ_ij f(r_ij) [A e^{−λr_ij} − b_ij B e^{−μr_ij}], b = (1 + (βζ)ⁿ)^{−1/2n},
    ζ_ij = Σ_k f(r_ik) γ [1 + c²/d² − c²/(d² + (h − cos θ_ijk)²)] e^{(λ₃(r_ij − r_ik))^m}.

    J. Tersoff, Phys. Rev. B 39, 5566 (1989), in LAMMPS's general form: parameters of a bond by ordered
    pair, of angles by triplet. All are weights but m and the ranges, on which neighbour lists rely.
    """

    Config = TersoffConfig
    A: nn.Parameter
    B: nn.Parameter
    lam: nn.Parameter
    mu: nn.Parameter
    n: nn.Parameter
    c: nn.Parameter
    d: nn.Parameter
    h: nn.Parameter
    gamma: nn.Parameter
    lambda3: nn.Parameter
    r1: torch.Tensor
    r2: torch.Tensor
    m: torch.Tensor
    fits_references = False

    def __init__(self, config: TersoffConfig):
        super().__init__(config)
        pairs, triplets = config.pair_rows(), config.triplet_rows()
        for name in ("A", "B", "lam", "mu", "n"):  # (n²,)
            self.register_parameter(name, weight(getattr(row, name) for row in pairs))
        self.log_beta = weight(log(row.beta) for row in pairs)  # β spans decades and is positive
        for name in ("c", "d", "h", "gamma", "lambda3"):  # (n³,)
            self.register_parameter(name, weight(getattr(row, name) for row in triplets))
        self.register_buffer("r1", constant(row.r1 for row in pairs), persistent=False)
        self.register_buffer("r2", constant(row.r2 for row in pairs), persistent=False)
        self.register_buffer("m", constant(row.m for row in triplets), persistent=False)

    def tables(self, inputs: Inputs) -> tuple[torch.Tensor, ...]:
        species, r = inputs.species, inputs.vectors.square().sum(1).sqrt()
        pair = species[inputs.dst] * len(self.elements) + species[inputs.src]
        near = (r < self.r2[pair]).nonzero().squeeze(1)
        return near, *bond_pairs(inputs.dst[near], inputs.n_atoms)

    def energies(self, inputs: Inputs) -> torch.Tensor:
        species, n = inputs.species, len(self.elements)
        near, ij, ik = inputs.tables  # (K,), (T,); only these bonds matter
        vectors, dst, src = inputs.vectors[near], inputs.dst[near], inputs.src[near]
        r = vectors.square().sum(1).sqrt()  # (K,)
        pair = species[dst] * n + species[src]
        fade = taper(r, self.r1[pair], self.r2[pair])
        unit = vectors / r[:, None]
        triplet = pair[ij] * n + species[src[ik]]
        angular = self._angular((unit[ij] * unit[ik]).sum(1), r[ij] - r[ik], triplet)
        zeta = r.new_zeros(r.shape[0]).index_add(0, ij, fade[ik] * angular)  # (K,)
        power = softened_power(self.log_beta[pair].exp() * zeta, self.n[pair])
        order = (1 + power) ** (-0.5 / self.n[pair])
        repulsion = self.A[pair] * torch.exp(-self.lam[pair] * r)
        attraction = self.B[pair] * torch.exp(-self.mu[pair] * r)
        bonds = fade * (repulsion - order * attraction)  # (K,)
        return bonds.new_zeros(inputs.n_atoms).index_add(0, dst, bonds / 2)

    def _angular(self, cosine: torch.Tensor, difference: torch.Tensor, triplet: torch.Tensor) -> torch.Tensor:
        """What neighbour k adds to ζ_ij, (T,), before it fades."""
        c2, d2 = self.c[triplet].square(), self.d[triplet].square()
        y = (self.h[triplet] - cosine).square()
        shape = 1 + c2 * y / (d2 * (d2 + y))  # the published form without its cancellation
        return (
            self.gamma[triplet] * shape * torch.exp((self.lambda3[triplet] * difference) ** self.m[triplet])
        )


def taper(r: torch.Tensor, r1: torch.Tensor, r2: torch.Tensor) -> torch.Tensor:
    """From 1 at r1 to 0 at r2: ½ + ½ cos(π(r − r1)/(r2 − r1)), written as a square."""
    return torch.cos(pi / 2 * ((r - r1) / (r2 - r1)).clamp(0, 1)).square()


def softened_power(x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    """xⁿ for x ≫ TINY, but linear below: for n < 1 the slope of xⁿ at x = 0 is infinite, and with it the
    force of a neighbour that enters the range of an otherwise lonely bond. Relative change ~ (TINY/x)²."""
    return x * (x.square() + TINY**2) ** ((n - 1) / 2)
