"""DGL graphs as input and output. Imported only when a DGL graph appears."""

from __future__ import annotations

import dgl
import torch

from ..atoms import Atoms
from ..errors import StructureError
from .graph import Graph
from .inputs import as_graph

# Per-node copies of what belongs to a structure: a DGL graph has no place for it, and batching keeps them.
CELL, PBC = "cell", "pbc"


def to_dgl(graph: Graph) -> dgl.DGLGraph:
    """A DGL graph, batched if ``graph`` is, sharing the tensors of ``graph``.

    Nodes carry ``atomic_number`` (N,), ``positions`` (N, 3), ``cell`` (N, 3, 3) and ``pbc`` (N, 3);
    edges, from neighbour to centre, ``r`` (E, 3) = x_src + S·cell − x_dst and ``shift`` (E, 3).
    """
    atoms = graph.atoms
    view = dgl.graph((graph.src, graph.dst), num_nodes=len(atoms))
    index = atoms.structure_index()
    view.ndata["atomic_number"] = atoms.numbers
    view.ndata["positions"] = atoms.positions
    view.ndata[CELL] = atoms.cell.reshape(-1, 3, 3)[index]
    view.ndata[PBC] = atoms.pbc.reshape(-1, 3)[index]
    view.edata["r"] = graph.vectors()
    view.edata["shift"] = graph.shift
    if atoms.is_batch:
        view.set_batch_num_nodes(atoms.counts())
        edges = torch.bincount(atoms.structure_index()[graph.dst], minlength=atoms.n_structures)
        view.set_batch_num_edges(edges)
    return view


@as_graph.register
def from_dgl(view: dgl.DGLGraph, r: float | None = None) -> Graph:
    """A ``Graph`` from a DGL graph with node ``atomic_number`` and edge ``r`` = x_src + S·cell − x_dst (Å).

    Positions and cell are used if the nodes carry them (as ``to_dgl`` writes them); energies and forces need
    neither, stress needs the cell. A batched graph gives a batch. Bonds longer than ``r`` are dropped.

    Raises:
        StructureError: ``atomic_number`` or ``r`` is missing.
    """
    for name, frame in (("atomic_number", view.ndata), ("r", view.edata)):
        if name not in frame:
            raise StructureError(f"DGL graph: no {name!r}; expected node 'atomic_number' and edge 'r'")
    numbers = view.ndata["atomic_number"].long().flatten()
    n = len(numbers)
    vectors = view.edata["r"].double()  # (E, 3)
    src, dst = (index.long() for index in view.edges())
    keep = torch.arange(len(src), device=src.device)
    if r is not None:
        keep = (vectors.square().sum(1) < r**2).nonzero().squeeze(1)
    keep = keep[torch.argsort(dst[keep], stable=True)]
    src, dst, vectors = src[keep], dst[keep], vectors[keep]
    positions = view.ndata.get("positions", vectors.new_zeros(n, 3)).double()
    cell = view.ndata.get(CELL, vectors.new_zeros(n, 3, 3)).double()
    pbc = view.ndata.get(PBC, torch.zeros(n, 3, dtype=torch.bool, device=src.device))
    counts = view.batch_num_nodes()
    first = (counts.cumsum(0) - counts).clamp(max=max(n - 1, 0))
    if view.batch_size > 1:
        index = torch.arange(len(counts), device=src.device).repeat_interleave(counts)
        atoms = Atoms(positions, numbers, cell[first], pbc[first], index)
    else:
        atoms = Atoms(positions, numbers, cell[0], pbc[0])
    # The shift that gives back exactly these bonds, whatever the positions are.
    shift = vectors - positions[src] + positions[dst]
    return Graph(atoms, src=src, dst=dst, shift=shift)
