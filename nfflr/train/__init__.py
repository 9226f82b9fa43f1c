"""Training: configuration, the ignite core, evaluation. Names load on first use."""

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:  # the names of the package
    from ..reports.evaluation import Predictions, error_table, predict
    from .config import TrainingConfig, load_config
    from .learning_rate_finder import find_learning_rate
    from .trainer import train

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
