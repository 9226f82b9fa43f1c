"""Many structures: a workflow on each, in several processes or on a cluster, continued after an interrupt."""

import importlib

_ROOMS = {"run_many": "many", "Listener": "plan", "Outcome": "plan"}
__all__ = list(_ROOMS)


def __getattr__(name: str):
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_ROOMS[name]}", __name__), name)


def __dir__():
    return sorted(__all__)
