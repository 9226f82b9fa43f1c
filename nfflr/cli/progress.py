"""Progress on a terminal; silence on a pipe."""

from ..workflows.framework.progress_bar import fitting, steady, step_bar, training_bar

__all__ = ["fitting", "steady", "step_bar", "training_bar"]
