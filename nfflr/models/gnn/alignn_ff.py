"""ALIGNN: edge-gated graph convolutions on the atoms and on the line graph of their bonds.

Choudhary and DeCost, npj Comput. Mater. 7, 185 (2021); as a force field: Choudhary et al., Digital
Discovery 2, 346 (2023). Bonds are the line graph's nodes, and two bonds with the same centre are joined by
an edge that carries the cosine of their angle. What a potential needs is different from the papers:

- Every message is multiplied by its bond's switch w, which falls smoothly (C2) from 1 at ``cutoff_onset`` to
  0 at ``cutoff``, in the gates' normalisation as well, whose floor of 1 lets a first neighbour come and go. A
  bond at the cutoff leaves no trace, and an atom without neighbours is finite. For angles it is the product
  of both bonds' switches: one in the sum, one on what the other bond learns from it.
- Messages carry the bond's features besides the neighbour's. The papers' normalised sum, Σ σ x / Σ σ, is x
  itself when all atoms are alike: in an element it would not see where the neighbours are.
- Layer normalisation in place of batch normalisation: the same result in a batch as alone.
- Smooth radii in place of the twelve nearest neighbours, which jump. Only bonds shorter than ``angle_cutoff``
  make angles, because those grow as the sixth power of the radius: the 98 neighbours within 8 Å of a silicon
  atom make 9506 pairs, the 16 within 4 Å make 240, the papers' twelve made 132. It is no second
  neighbourhood: the line graph's bonds are the shortest of the graph's own, and fade over the same fraction.
"""

from __future__ import annotations

from typing import Literal

import torch
from ase.data import chemical_symbols
from pydantic import Field, model_validator
from torch import nn
from torch.nn.functional import silu

from ...nn.padding import bond_pairs
from ...nn.radial import smoothstep
from ..assemble import Inputs
from ..property import PropertyConfig, PropertyModel
from ..registry import register


class ALIGNNConfig(PropertyConfig):
    """Hyper-parameters of ALIGNN; the papers' size is 4 + 4 layers of 256 features."""

    elements: tuple[str, ...] = Field(
        tuple(chemical_symbols[1:104]), min_length=1, description="chemical symbols the model covers"
    )
    cutoff_onset: float | None = Field(
        None, ge=0, description="distance where bonds begin to fade (Å); None: half the cutoff"
    )
    angle_cutoff: float = Field(
        4.0, gt=0, description="longer bonds make no angles (Å); a smaller cutoff counts instead"
    )
    alignn_layers: int = Field(2, ge=1, description="convolutions on line graph and atoms")
    gcn_layers: int = Field(2, ge=0, description="convolutions on atoms alone, after the former")
    atom_features: Literal["embedding"] = Field("embedding", description="learned, one vector per element")
    edge_input_features: int = Field(80, ge=2, description="radial basis functions of a bond length")
    triplet_input_features: int = Field(40, ge=2, description="radial basis functions of a cosine")
    embedding_features: int = Field(64, ge=1, description="width between basis and features")
    hidden_features: int = Field(64, ge=1, description="features of an atom, bond or angle")

    @model_validator(mode="after")
    def _consistent(self) -> ALIGNNConfig:
        if self.cutoff_onset is not None and self.cutoff_onset >= self.cutoff:
            raise ValueError(f"cutoff_onset {self.cutoff_onset} Å; expected less than cutoff {self.cutoff} Å")
        return self

    @property
    def fade(self) -> float:
        """Onset of the switch as a fraction of the radius where it ends."""
        return 0.5 if self.cutoff_onset is None else self.cutoff_onset / self.cutoff


@register("alignn")
class ALIGNN(PropertyModel):
    """See the module's text; a potential or, by its ``readout``, a property model."""

    Config = ALIGNNConfig
    config: ALIGNNConfig

    def __init__(self, config: ALIGNNConfig):
        super().__init__(config)
        inner, width = config.embedding_features, config.hidden_features
        self.angle_cutoff = min(config.angle_cutoff, config.cutoff)
        self.atom_embedding = nn.Sequential(nn.Embedding(len(config.elements), inner), Dense(inner, width))
        self.bond_embedding = embedding(0.0, config.cutoff, config.edge_input_features, inner, width)
        self.angle_embedding = embedding(-1.0, 1.0, config.triplet_input_features, inner, width)
        # What nobody reads is not computed: angles after the last line graph, bonds after the last layer.
        last = config.alignn_layers - 1
        self.line_layers = nn.ModuleList(EdgeGatedConv(width, edges=k < last) for k in range(last + 1))
        last += config.gcn_layers
        self.atom_layers = nn.ModuleList(EdgeGatedConv(width, edges=k < last) for k in range(last + 1))
        self.head = self.make_head(nn.Linear(width, config.n_outputs))

    def tables(self, inputs: Inputs) -> tuple[torch.Tensor, ...]:
        """The line graph's nodes among the bonds, (L,), its edges (T,) twice, and ``unordered``'s tables."""
        near = (inputs.vectors.square().sum(1).sqrt() < self.angle_cutoff).nonzero().squeeze(1)
        first, second = bond_pairs(inputs.dst.index_select(0, near), inputs.n_atoms)
        return near, first, second, *unordered(first, second)

    def features(self, inputs: Inputs) -> torch.Tensor:
        vectors, src, dst = inputs.vectors, inputs.src, inputs.dst
        r = vectors.square().sum(1).sqrt()  # (E,); graphs refuse coincident atoms
        atoms = self.atom_embedding(inputs.species)  # (N, H)
        bonds = self.bond_embedding(r)  # (E, H)
        near, first, second, half, mirror = inputs.tables
        unit = vectors.index_select(0, near) / r.index_select(0, near)[:, None]  # (L, 3)
        angles = self.angles(unit, first.index_select(0, half), second.index_select(0, half), mirror)
        weight = self.switch(r, self.cutoff)  # (E, 1)
        inner = self.switch(r.index_select(0, near), self.angle_cutoff)  # (L, 1)
        pair = inner.index_select(0, second)  # (T, 1); the switch of the first is on its update
        for k, atom_layer in enumerate(self.atom_layers):
            if k < len(self.line_layers):
                legs = bonds.index_select(0, near)  # (L, H)
                update, turned = self.line_layers[k](legs, angles, second, first, pair)
                bonds = bonds.index_add(0, near, inner * update)
                angles = angles if turned is None else angles + turned
            update, bent = atom_layer(atoms, bonds, src, dst, weight)
            atoms = atoms + update
            bonds = bonds if bent is None else bonds + bent
        return atoms

    def angles(self, unit, first, second, mirror) -> torch.Tensor:
        """Features (T, H) of the angles between unit bonds (L, 3), embedded once for both orders (T/2,)."""
        cosine = (unit.index_select(0, first) * unit.index_select(0, second)).sum(1)
        return self.angle_embedding(cosine).index_select(0, mirror)

    def switch(self, r: torch.Tensor, cutoff: float) -> torch.Tensor:
        """1 for short distances r (M,), falling to 0 at ``cutoff`` (Å); (M, 1)."""
        return smoothstep((cutoff - r) / (cutoff * (1 - self.config.fade)))[0][:, None]


class EdgeGatedConv(nn.Module):
    """Edge-gated graph convolution: nodes (N, H), edges (E, H) and their switches w (E, 1) → updates.

    m_e = A x_dst + B x_src + C y_e, h_i = Σ_e w σ(m_e) (V x_src + D y_e) / (1 + Σ_e w σ(m_e)),
    updates SiLU(norm(U x_i + h_i)) and SiLU(norm(m_e)) (npj Comput. Mater. 7, 185, eqs. 1-4; D is ours).
    """

    def __init__(self, width: int, edges: bool):
        super().__init__()
        self.target = nn.Linear(width, 2 * width)  # U and A
        self.source = nn.Linear(width, 2 * width, bias=False)  # V and B
        self.edge = nn.Linear(width, 2 * width, bias=False)  # D and C
        self.node_norm = nn.LayerNorm(width)
        self.edge_norm = nn.LayerNorm(width) if edges else None

    def forward(self, nodes, edges, src, dst, weight) -> tuple[torch.Tensor, torch.Tensor | None]:
        own, gate = self.target(nodes).chunk(2, dim=1)  # (N, H)
        sent = self.source(nodes).index_select(0, src) + self.edge(edges)  # (E, 2H)
        value, message = sent.chunk(2, dim=1)  # (E, H)
        message = message + gate.index_select(0, dst)
        opened = weight * torch.sigmoid(message)  # (E, H)
        total = torch.ones_like(own).index_add(0, dst, opened)
        mean = torch.zeros_like(own).index_add(0, dst, opened * value) / total
        update = silu(self.node_norm(own + mean))
        return update, None if self.edge_norm is None else silu(self.edge_norm(message))


class Gaussians(nn.Module):
    """exp(−(x − μ_k)² / Δ) with n centres μ_k from low to high, Δ apart: (M,) → (M, n)."""

    centres: torch.Tensor

    def __init__(self, low: float, high: float, n: int):
        super().__init__()
        self.gamma = (n - 1) / (high - low)
        self.register_buffer("centres", torch.linspace(low, high, n), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.exp(-self.gamma * (x[:, None] - self.centres).square())


class Dense(nn.Sequential):
    """Linear, layer normalisation, SiLU: (M, inner) → (M, width)."""

    def __init__(self, inner: int, width: int):
        super().__init__(nn.Linear(inner, width), nn.LayerNorm(width), nn.SiLU())


def embedding(low: float, high: float, n: int, inner: int, width: int) -> nn.Sequential:
    """Scalars (M,) between low and high → features (M, width)."""
    return nn.Sequential(Gaussians(low, high, n), Dense(n, inner), Dense(inner, width))


def unordered(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each pair of bonds once, and where every ordered pair (T,) of ``bond_pairs`` is among these.

    Returns:
        half (T/2,), the pairs with first < second, and mirror (T,): ``x[half][mirror] == x`` for any x (T,)
        that is the same for both orders.
    """
    half = (first < second).nonzero().squeeze(1)
    other = (first > second).nonzero().squeeze(1)
    other = other.index_select(0, second.index_select(0, other).argsort(stable=True))
    mirror = torch.empty_like(first)
    mirror[half] = mirror[other] = torch.arange(len(half), device=first.device)
    return half, mirror
