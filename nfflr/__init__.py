"""NFFLr: an ASE calculator and MD-simulation toolkit for neural force fields.

Names load on first use, so that ``import nfflr`` and ``nff --help`` do not import torch.
"""

import importlib

__version__ = "0.1.0"

_ROOMS = {
    "Atoms": "atoms",
    "batch": "atoms",
    "unbatch": "atoms",
    "Graph": "data.graph",
    "periodic_radius_graph": "data.graph",
    "AtomsDataset": "data.dataset",
    "NFFLrCalculator": "calculator",
    "open_calculator": "potentials",
    "load_model": "checkpoint",
    "TrainingConfig": "train.config",
    "load_config": "train.config",
    "predict": "train.evaluation",
    "read_suite": "validation.reading",
}
__all__ = ["__version__", *_ROOMS]


def __getattr__(name: str):
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_ROOMS[name]}", __name__), name)


def __dir__():
    return sorted(__all__)
