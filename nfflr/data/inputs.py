"""Whatever describes structures, as a ``Graph``: the one door through which models take their input.

A representation of your own is registered by its type::

    @as_graph.register(MyStructure)
    def _(x, r):
        return periodic_radius_graph(ase.Atoms(x.symbols, x.xyz, cell=x.box, pbc=True), r)
"""

from __future__ import annotations

import importlib
from functools import singledispatch

import ase

from ..atoms import Atoms
from ..errors import StructureError
from .ghosts import GhostAtoms, from_ghosts
from .graph import Graph, periodic_radius_graph

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
@as_graph.register(list)
@as_graph.register(tuple)
def _(x, r: float) -> Graph:
    return periodic_radius_graph(x, r)


@as_graph.register
def _(x: GhostAtoms, r: float) -> Graph:
    return from_ghosts(x, r)
