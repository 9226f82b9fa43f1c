"""Whatever describes structures, as a ``Graph``: the one door through which models take their input.

A representation of your own is registered by its type::

    @as_graph.register(MyStructure)
    def _(x, r):
        return periodic_radius_graph(ase.Atoms(x.symbols, x.xyz, cell=x.box, pbc=True), r)
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import singledispatch
from typing import Any

import ase

from ..atoms import Atoms, batch
from ..errors import StructureError
from .ghosts import GhostAtoms, from_ghosts
from .graph import Graph, batch_graphs, periodic_radius_graph

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
