"""Event files for TensorBoard, beside metrics.csv."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ConfigError

Log = Callable[[dict[str, float], int], None]


@contextmanager
def event_log(folder: Path, wanted: bool, begin: int = 0) -> Iterator[Log]:
    """``log(numbers, step)`` that writes event files to ``folder``; one that does nothing if not wanted.

    Steps after ``begin`` that a run which is resumed wrote before do not count.

    Raises:
        ConfigError: the package that writes them is missing.
    """
    if not wanted:
        yield lambda numbers, step: None
        return
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ConfigError('tensorboard: needs a package; pip install "nfflr[tensorboard]"') from error
    with SummaryWriter(str(folder), purge_step=begin + 1 if begin else None) as writer:

        def log(numbers: dict[str, float], step: int) -> None:
            for name, value in numbers.items():
                if name not in ("epoch", "step"):
                    writer.add_scalar(name, value, step)

        yield log
