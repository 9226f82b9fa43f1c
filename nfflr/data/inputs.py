"""Whatever describes structures, as a ``Graph``: the one door through which models take their input.

A representation of your own is registered by its type::

    @as_graph.register(MyStructure)
    def _(x, r):
        return periodic_radius_graph(ase.Atoms(x.symbols, x.xyz, cell=x.box, pbc=True), r)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import TYPE_CHECKING, Any

import ase
import torch

from ..atoms import Atoms, batch, unbatch
from ..errors import StructureError
from .graph import Graph, batch_graphs, periodic_radius_graph

if TYPE_CHECKING:
    import dgl
    from torch_geometric.data import Data

BUCKET = 64  # ghost counts are rounded up to a multiple of this
# Per-node copies of what belongs to a structure: a DGL graph has no place for it, and batching keeps them.
CELL, PBC = "cell", "pbc"


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
    """Write out the images within ``cutoff`` (Å) of one structure, padded to a multiple of ``bucket``."""
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


def to_dgl(graph: Graph) -> dgl.DGLGraph:
    """A DGL graph, batched if ``graph`` is, sharing the tensors of ``graph``.

    Nodes carry ``atomic_number`` (N,), ``positions`` (N, 3), ``cell`` (N, 3, 3) and ``pbc`` (N, 3);
    edges, from neighbour to centre, ``r`` (E, 3) = x_src + S·cell − x_dst and ``shift`` (E, 3).
    """
    import dgl

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
        view.set_batch_num_edges(torch.bincount(index[graph.dst], minlength=atoms.n_structures))
    return view


def from_dgl(view: dgl.DGLGraph, r: float | None = None) -> Graph:
    """A ``Graph`` from a DGL graph with node ``atomic_number`` and edge ``r`` = x_src + S·cell − x_dst (Å).

    Positions and cell are used if the nodes carry them, as ``to_dgl`` writes them; only stress needs the
    cell. A batched graph gives a batch. Bonds longer than ``r`` are dropped.

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


def to_pyg(graph: Graph) -> Data:
    """A PyG ``Data`` of a single structure's graph, sharing its tensors.

    ``z`` (N,), ``pos`` (N, 3), ``cell`` (1, 3, 3), ``pbc`` (1, 3), ``edge_index`` (2, E) from neighbour to
    centre, and ``edge_shift`` (E, 3) Å. ``Batch.from_data_list`` makes batches of them.

    Raises:
        StructureError: ``graph`` is a batch.
    """
    from torch_geometric.data import Data

    atoms = graph.atoms
    if atoms.is_batch:
        raise StructureError("PyG: a batch was given; convert single graphs and use Batch.from_data_list")
    return Data(
        z=atoms.numbers,
        pos=atoms.positions,
        cell=atoms.cell[None],
        pbc=atoms.pbc[None],
        edge_index=torch.stack([graph.src, graph.dst]),
        edge_shift=graph.shift,
    )


def from_pyg(data: Data, r: float) -> Graph:
    """A ``Graph`` from PyG's ``Data`` or ``Batch`` with ``z``, ``pos``, and ``cell``, ``pbc`` if periodic.

    With ``edge_index`` and ``edge_shift`` (as ``to_pyg`` writes them) these bonds are used, otherwise
    neighbours are searched within ``r`` (Å).

    Raises:
        StructureError: ``z`` or ``pos`` is missing.
    """
    for name in ("z", "pos"):
        if data.get(name) is None:
            raise StructureError(f"PyG Data: no {name!r}; expected z (N,) and pos (N, 3)")
    atoms = _atoms(data)
    if data.get("edge_index") is None or data.get("edge_shift") is None:
        return periodic_radius_graph(atoms, r)
    src, dst = data.edge_index
    order = torch.argsort(dst, stable=True)
    graph = Graph(atoms, src=src[order], dst=dst[order], shift=data.edge_shift[order].double())
    near = (graph.vectors().square().sum(1) < r**2).nonzero().squeeze(1)
    return Graph(atoms, src=graph.src[near], dst=graph.dst[near], shift=graph.shift[near])


def _atoms(data: Data) -> Atoms:
    from torch_geometric.data import Batch

    is_batch, device = isinstance(data, Batch), data.pos.device
    count = data.num_graphs if is_batch else 1
    cell = data.get("cell", torch.zeros(count, 3, 3)).view(-1, 3, 3).double().to(device)
    pbc = data.get("pbc", torch.zeros(count, 3)).view(-1, 3).bool().to(device)
    index = data.batch if is_batch else torch.zeros(len(data.z), dtype=torch.int64, device=device)
    atoms = Atoms(data.pos.double(), data.z.long(), cell, pbc, index)
    return batch(unbatch(atoms)) if is_batch else unbatch(atoms)[0]


@singledispatch
def as_graph(x, r: float) -> Graph:
    """The graph of ``x`` within the radius ``r`` (Å).

    ``x`` is a ``Graph`` (which stays as it is), ``nfflr.Atoms``, ``ase.Atoms``, a list of them,
    ``GhostAtoms``, ``dgl.DGLGraph``, PyG's ``Data`` or ``Batch``, or of a registered type; StructureError
    otherwise.
    """
    if _is_of_class(x, "dgl", "DGLGraph"):
        return from_dgl(x, r)
    if _is_of_class(x, "torch_geometric", "Data"):
        return from_pyg(x, r)
    raise StructureError(
        f"input: a {type(x).__qualname__} is not a known representation; give ase.Atoms, nfflr.Atoms, Graph, "
        "DGLGraph, PyG Data, or register the type with nfflr.data.inputs.as_graph"
    )


def _is_of_class(x: object, package: str, name: str) -> bool:
    """Whether ``x`` is of a class of an optional package, which is not imported to find out."""
    return any(c.__name__ == name and c.__module__.split(".")[0] == package for c in type(x).__mro__)


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
    else a list, which models take too.
    """
    first = items[0]
    if isinstance(first, Graph):
        return batch_graphs(items)
    if isinstance(first, Atoms):
        return batch(items)
    if _is_of_class(first, "dgl", "DGLGraph"):
        import dgl

        return dgl.batch(list(items))
    if _is_of_class(first, "torch_geometric", "Data"):
        from torch_geometric.data import Batch

        return Batch.from_data_list(list(items))
    return list(items)
