"""PyG ``Data`` and ``Batch`` as input and output. Imported only when one appears (extra ``nfflr[pyg]``)."""

from __future__ import annotations

import torch
from torch_geometric.data import Batch, Data

from ..atoms import Atoms, batch, unbatch
from ..errors import StructureError
from .graph import Graph, periodic_radius_graph
from .inputs import as_graph


def to_pyg(graph: Graph) -> Data:
    """A PyG ``Data`` of a single structure's graph, sharing its tensors.

    ``z`` (N,), ``pos`` (N, 3), ``cell`` (1, 3, 3), ``pbc`` (1, 3), ``edge_index`` (2, E) from neighbour to
    centre, and ``edge_shift`` (E, 3) Å. ``Batch.from_data_list`` makes batches of them.

    Raises:
        StructureError: ``graph`` is a batch.
    """
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


@as_graph.register
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
    count = data.num_graphs if isinstance(data, Batch) else 1
    cell = data.get("cell")
    pbc = data.get("pbc")
    cell = torch.zeros(count, 3, 3) if cell is None else cell.view(-1, 3, 3)
    pbc = torch.zeros(count, 3, dtype=torch.bool) if pbc is None else pbc.view(-1, 3).bool()
    index = data.batch if isinstance(data, Batch) else torch.zeros(len(data.z), dtype=torch.int64)
    device = data.pos.device
    atoms = Atoms(
        data.pos.double(), data.z.long(), cell.double().to(device), pbc.to(device), index.to(device)
    )
    return batch(unbatch(atoms)) if isinstance(data, Batch) else unbatch(atoms)[0]
