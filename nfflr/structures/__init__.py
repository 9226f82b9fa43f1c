"""Structures: files of them, checks, neighbours, cells and constraints, without torch.

``from nfflr.structures import read_structure, write_structure``. Names load on first use.
"""

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:  # the names of the package
    from .checks import check_structure
    from .neighbours import neighbor_list
    from .readers import read_structure, read_structures
    from .writers import write_structure

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
