"""Data sets, neighbour graphs, and views of graphs for other libraries. Names load on first use."""

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:  # for editors and type checkers
    from .dataset import AtomsDataset
    from .dgl_view import from_dgl, to_dgl
    from .ghosts import from_ghosts, with_ghosts
    from .graph import Graph, periodic_radius_graph
    from .pyg_view import from_pyg, to_pyg

__getattr__, __all__ = lazy_names(
    __name__,
    {
        ".dataset": ("AtomsDataset",),
        ".dgl_view": ("from_dgl", "to_dgl"),
        ".ghosts": ("from_ghosts", "with_ghosts"),
        ".graph": ("Graph", "periodic_radius_graph"),
        ".pyg_view": ("from_pyg", "to_pyg"),
    },
)
