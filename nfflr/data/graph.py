"""Neighbour graphs: directed edges between atoms and periodic images within a radius."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import ase
import numpy as np
import torch

from ..atoms import Atoms, batch, unbatch
from ..errors import StructureError
from ..structures.neighbours import neighbor_list

COINCIDENT = 1e-3  # Å; two atoms nearer than this are one: no model means it, and powers of 1/r overflow


@dataclass(frozen=True)
class Graph:
    """Atoms with directed edges, sorted by ``dst``, so that sums over neighbours are CSR segment sums.

    Attributes:
        atoms: the structure or batch; N atoms.
        src: (E,) int64, neighbour j of each edge.
        dst: (E,) int64, centre i of each edge, ascending.
        shift: (E, 3) float64, Å: the lattice translation added to x_j.
        cutoff: Å; the graph holds all bonds up to this length. Infinite where that is not known.
        n_local: number of the first atoms whose energies count, of a single structure that is a part of
            space; None: all.
    """

    atoms: Atoms
    src: torch.Tensor
    dst: torch.Tensor
    shift: torch.Tensor
    cutoff: float = math.inf
    n_local: int | None = None

    def vectors(self) -> torch.Tensor:
        """Bond vectors r_ij = x_j + S·cell − x_i, (E, 3) float64, Å."""
        x = self.atoms.positions
        return x.index_select(0, self.src) - x.index_select(0, self.dst) + self.shift

    def degree(self) -> torch.Tensor:
        """Number of neighbours of each atom, (N,)."""
        return torch.bincount(self.dst, minlength=len(self.atoms))

    def shorter_than(self, cutoff: float) -> Graph:
        """The graph with only the bonds shorter than ``cutoff`` (Å); StructureError if two atoms coincide."""
        square = self.vectors().square().sum(1)  # (E,)
        refuse_coincident(self, square)
        keep = (square < cutoff**2).nonzero().squeeze(1)
        src, dst, shift = (edge.index_select(0, keep) for edge in (self.src, self.dst, self.shift))
        return replace(self, src=src, dst=dst, shift=shift, cutoff=cutoff)

    def to(self, device: torch.device | str) -> Graph:
        moved = {name: getattr(self, name).to(device) for name in ("atoms", "src", "dst", "shift")}
        return replace(self, **moved)


def periodic_radius_graph(
    atoms: Atoms | ase.Atoms | Sequence[Atoms | ase.Atoms], r: float = 5.0, backend: str = "auto"
) -> Graph:
    """Build the graph of all pairs closer than ``r`` (Å), periodic images included, self-images too.

    Args:
        atoms: one structure, a batch, or a list of structures.
        r: cutoff radius, Å.
        backend: neighbour search, see ``neighbor_list``.

    Raises:
        StructureError: two atoms coincide, or a periodic axis has no cell vector.

    Example:
        >>> from ase.build import bulk
        >>> graph = periodic_radius_graph(bulk("Si", a=5.43), r=2.5)
        >>> graph.degree().tolist()  # diamond
        [4, 4]
        >>> round(float(graph.vectors().norm(dim=1).max()), 3)  # Å
        2.351
    """
    if isinstance(atoms, ase.Atoms):
        atoms = Atoms.from_ase(atoms)
    elif not isinstance(atoms, Atoms):
        atoms = batch(atoms)
    edges = [_edges(single, r, backend) for single in unbatch(atoms)]
    sizes = torch.tensor([0, *[len(single) for single in unbatch(atoms)][:-1]]).cumsum(0)
    graph = Graph(
        atoms,
        src=torch.cat([e[0] + offset for e, offset in zip(edges, sizes, strict=True)]),
        dst=torch.cat([e[1] + offset for e, offset in zip(edges, sizes, strict=True)]),
        shift=torch.cat([e[2] for e in edges]),
        cutoff=r,
    )
    check_distances(graph)
    return graph


def _edges(atoms: Atoms, r: float, backend: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    cell = atoms.cell
    x, h = (tensor.detach().cpu().numpy() for tensor in (atoms.positions, cell))
    i, j, shift = neighbor_list(x, h, atoms.pbc.cpu().numpy(), r, backend)
    # Bonds follow the cell, for a model that takes ``Atoms`` and is differentiated for its stress.
    translation = torch.from_numpy(shift.astype(np.float64)).to(cell.device) @ cell  # (E, 3)
    return torch.from_numpy(j).to(cell.device), torch.from_numpy(i).to(cell.device), translation


def check_distances(graph: Graph) -> None:
    """Raise StructureError for coincident atoms: the energy has no derivative there."""
    refuse_coincident(graph, graph.vectors().square().sum(1))


def refuse_coincident(graph: Graph, square: torch.Tensor) -> None:
    """As ``check_distances``, for squared bond lengths (E,) in Å²."""
    if square.numel() and square.min() < COINCIDENT**2:
        edge = int(square.argmin())
        raise coincident(int(graph.dst[edge]), int(graph.src[edge]))


def coincident(i: int, j: int) -> StructureError:
    """The error that names two atoms at one place."""
    return StructureError(f"structure: atoms {i} and {j} coincide; move or remove one of them")


def batch_graphs(graphs: Sequence[Graph]) -> Graph:
    """Concatenate graphs of single structures into the graph of their batch."""
    counts = torch.tensor([0, *[len(g.atoms) for g in graphs][:-1]])
    offsets = counts.cumsum(0).tolist()
    return Graph(
        batch([g.atoms for g in graphs]),
        src=torch.cat([g.src + k for g, k in zip(graphs, offsets, strict=True)]),
        dst=torch.cat([g.dst + k for g, k in zip(graphs, offsets, strict=True)]),
        shift=torch.cat([g.shift for g in graphs]),
        cutoff=min(g.cutoff for g in graphs),
    )
