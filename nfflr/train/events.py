"""Event files for TensorBoard, beside metrics.csv."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import ConfigError

Log = Callable[[dict[str, float], int], None]


def event_writer(folder: Path, wanted: bool) -> Log:
    """``log(numbers, step)`` that writes event files to ``folder``; one that does nothing if not wanted.

    Raises:
        ConfigError: the package that writes them is missing.
    """
    if not wanted:
        return lambda numbers, step: None
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ConfigError('tensorboard: needs a package; pip install "nfflr[tensorboard]"') from error
    writer = SummaryWriter(str(folder))

    def log(numbers: dict[str, float], step: int) -> None:
        for name, value in numbers.items():
            if name not in ("epoch", "step"):
                writer.add_scalar(name, value, step)
        writer.flush()

    return log
