"""Ghost-atom padding: periodic images as explicit atoms, padded so that array shapes repeat."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..atoms import Atoms
from ..errors import StructureError
from .graph import Graph, periodic_radius_graph

BUCKET = 64  # ghost counts are rounded up to a multiple of this


@dataclass(frozen=True)
class GhostAtoms:
    """One structure with every periodic image within a cutoff written out.

    Attributes:
        atoms: the N real atoms.
        positions: (G, 3) Å, images within ``cutoff`` of a real atom; padding lies at infinity.
        owner: (G,) the real atom each image copies; −1 for padding.
        cutoff: Å; no longer bond can be found from these images.
    """

    atoms: Atoms
    positions: torch.Tensor
    owner: torch.Tensor
    cutoff: float

    def to(self, device: torch.device | str) -> GhostAtoms:
        parts = (self.atoms.to(device), self.positions.to(device), self.owner.to(device))
        return GhostAtoms(*parts, self.cutoff)


def with_ghosts(atoms: Atoms, cutoff: float, bucket: int = BUCKET) -> GhostAtoms:
    """Write out the images within ``cutoff`` (Å) of a real atom, padded to a multiple of ``bucket``.

    Raises:
        StructureError: ``atoms`` is a batch; make ghosts of single structures.
    """
    if atoms.is_batch:
        raise StructureError("ghosts: a batch was given; unbatch it and pad each structure")
    graph = periodic_radius_graph(atoms, cutoff)
    image = torch.cat([graph.src[:, None].double(), graph.shift], dim=1)  # (E, 4)
    image = torch.unique(image[graph.shift.abs().sum(1) > 0], dim=0)  # each image once
    owner = image[:, 0].long()
    positions = atoms.positions.index_select(0, owner) + image[:, 1:]
    padding = -len(owner) % bucket
    return GhostAtoms(
        atoms,
        torch.cat([positions, positions.new_full((padding, 3), torch.inf)]),
        torch.cat([owner, owner.new_full((padding,), -1)]),
        cutoff,
    )


def from_ghosts(ghosts: GhostAtoms, r: float) -> Graph:
    """Bonds from real atoms to real and ghost atoms, with ghosts folded back onto their owners.

    Padding has no bond and contributes exactly zero; forces on images arrive at the atoms they copy.

    Raises:
        StructureError: ``r`` is longer than the images reach.
    """
    if r > ghosts.cutoff:
        raise StructureError(f"ghosts: made for {ghosts.cutoff} Å, the model needs {r} Å; make them again")
    atoms, n = ghosts.atoms, len(ghosts.atoms)
    real = ghosts.owner >= 0
    everything = torch.cat([atoms.positions, ghosts.positions[real]])  # (N + G, 3)
    owner = torch.cat([torch.arange(n, device=real.device), ghosts.owner[real]])
    numbers = atoms.numbers.index_select(0, owner)
    open_space = Atoms(everything, numbers, torch.zeros_like(atoms.cell), torch.zeros_like(atoms.pbc))
    graph = periodic_radius_graph(open_space, r)
    keep = (graph.dst < n).nonzero().squeeze(1)  # ghosts are neighbours, never centres
    src, dst = graph.src.index_select(0, keep), graph.dst.index_select(0, keep)
    folded = owner.index_select(0, src)
    shift = everything.index_select(0, src) - atoms.positions.index_select(0, folded)
    return Graph(atoms, src=folded, dst=dst, shift=shift, cutoff=r)
