"""Whatever describes structures, as a ``Graph``: the one door through which models take their input.

A representation of your own is registered by its type::

    @as_graph.register(MyStructure)
    def _(x, r):
        return periodic_radius_graph(ase.Atoms(x.symbols, x.xyz, cell=x.box, pbc=True), r)
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import ase
import torch

from ..atoms import Atoms, batch
from ..errors import StructureError
from .graph import Graph, batch_graphs, periodic_radius_graph

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


# Packages whose types are known, and the module that registers them; imported when such an object appears.
FOREIGN = {"dgl": "dgl_view", "torch_geometric": "pyg_view"}


@singledispatch
def as_graph(x, r: float) -> Graph:
    """The graph of ``x`` within the radius ``r`` (Å).

    Known: ``Graph`` (as it is), ``nfflr.Atoms``, ``ase.Atoms``, lists of them, ``GhostAtoms``,
    ``dgl.DGLGraph`` and PyG's ``Data`` and ``Batch``.

    Raises:
        StructureError: the type of ``x`` is not known.
    """
    package = type(x).__module__.partition(".")[0]
    if package in FOREIGN:
        importlib.import_module(f".{FOREIGN[package]}", __package__)
        if as_graph.dispatch(type(x)) is not as_graph.dispatch(object):
            return as_graph(x, r)
    raise StructureError(
        f"input: a {type(x).__qualname__} is not a known representation; give ase.Atoms, nfflr.Atoms, Graph, "
        "DGLGraph, PyG Data, or register the type with nfflr.data.inputs.as_graph"
    )


@as_graph.register
def _(x: Graph, r: float) -> Graph:
    return x


@as_graph.register(ase.Atoms)
@as_graph.register(Atoms)
def _(x, r: float) -> Graph:
    return periodic_radius_graph(x, r)


@as_graph.register(list)
@as_graph.register(tuple)
def _(x, r: float) -> Graph:
    if all(isinstance(item, ase.Atoms | Atoms) for item in x):
        return periodic_radius_graph(x, r)
    return batch_graphs([as_graph(item, r) for item in x])


@as_graph.register
def _(x: GhostAtoms, r: float) -> Graph:
    return from_ghosts(x, r)


def batch_inputs(items: Sequence[Any]) -> Any:
    """Single structures of one representation as a batch of it.

    A ``Graph``, ``nfflr.Atoms``, ``dgl.DGLGraph`` or PyG ``Data`` gives a batch of its own kind; anything
    else a list, which models take too (see ``as_graph``).
    """
    first = items[0]
    package = type(first).__module__.partition(".")[0]
    if isinstance(first, Graph):
        return batch_graphs(items)
    if isinstance(first, Atoms):
        return batch(items)
    if package == "dgl":
        import dgl

        return dgl.batch(list(items))
    if package == "torch_geometric":
        from torch_geometric.data import Batch

        return Batch.from_data_list(list(items))
    return list(items)
