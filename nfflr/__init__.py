"""NFFLr: an ASE calculator and MD-simulation toolkit for neural force fields.

Names load on first use, so that ``import nfflr`` and ``nff --help`` do not import torch. Workflows are in
``nfflr.workflows``, architectures in ``nfflr.models``, training in ``nfflr.train``.
"""

from typing import TYPE_CHECKING

from .lazy import lazy_names

if TYPE_CHECKING:  # the names of the package
    from .atoms import Atoms, batch, unbatch
    from .calculator import NFFLrCalculator
    from .cards import bundled
    from .checkpoint import load_model
    from .data.dataset import AtomsDataset
    from .data.graph import Graph, periodic_radius_graph
    from .potentials import open_calculator
    from .reports.evaluation import predict
    from .structures.readers import read_structure, read_structures
    from .train.config import TrainingConfig, load_config
    from .validation.reading import read_suite
    from .workflows.framework.progress_bar import progress_bar
    from .workflows.framework.saved_results import read_result

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
