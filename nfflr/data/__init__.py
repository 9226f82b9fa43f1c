"""Data sets, neighbour graphs, and views of graphs for other libraries. Names load on first use."""

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:  # the names of the package
    from .dataset import AtomsDataset
    from .graph import Graph, periodic_radius_graph
    from .inputs import from_dgl, from_ghosts, from_pyg, to_dgl, to_pyg, with_ghosts

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
