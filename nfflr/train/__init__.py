"""Training: configuration, the ignite core, evaluation. Names load on first use."""

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:  # for editors and type checkers
    from .config import TrainingConfig, load_config
    from .evaluation import Predictions, error_table, predict
    from .trainer import train
    from .trials import find_learning_rate

__getattr__, __all__ = lazy_names(
    __name__,
    {
        ".config": ("TrainingConfig", "load_config"),
        ".evaluation": ("Predictions", "error_table", "predict"),
        ".trials": ("find_learning_rate",),
        ".trainer": ("train",),
    },
)
