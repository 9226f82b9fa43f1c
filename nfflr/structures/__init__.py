"""Structures: files of them, checks, neighbours, cells and constraints, without torch.

``from nfflr.structures import read_structure, write_structure``. Names load on first use.
"""

import importlib

_ROOMS = {
    "read_structure": "readers",
    "read_structures": "readers",
    "write_structure": "writers",
    "check_structure": "checks",
    "neighbor_list": "neighbours",
}
__all__ = list(_ROOMS)


def __getattr__(name: str):
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_ROOMS[name]}", __name__), name)


def __dir__():
    return sorted(__all__)
