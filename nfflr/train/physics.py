"""Physics in the loop: validation tasks on the averaged weights, by the workflows that ``nff validate`` runs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..calculator import NFFLrCalculator
from ..validation.suite import Suite, read_suite
from ..validation.tasks import Task
from .distributed import gathered, share


class Physics:
    """The tasks of a run, and when they are due.

    Args:
        tasks: tasks, and folders of suites.
        every: epochs between rounds.
        minutes: wall time after which a round is due as well; 0: never.
        budget: seconds of a round; what does not fit is reported as skipped.
    """

    def __init__(self, tasks: Sequence[Task | Suite | str | Path], every: int, minutes: float, budget: float):
        self.tasks = [task for item in tasks for task in _tasks(item)]
        self.every, self.minutes, self.budget = every, minutes, budget
        self._last = time.monotonic()

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether the end of an epoch is the time for a round; every rank says the same."""
        if not self.tasks:
            return False
        late = self.minutes > 0 and time.monotonic() - self._last > 60 * self.minutes
        return epoch == epochs or epoch % self.every == 0 or gathered(late)[0]

    def measure(self, model: nn.Module) -> dict[str, float]:
        """``val/<task>/<score>`` of a potential; the ranks share the tasks, and all get every number.

        The model is copied, so that its weights, gradients and mode stay; random states stay too.
        """
        own = share(self.tasks)
        found: dict[str, float] = {}
        if own:
            with _random_states_kept():
                report = Suite(tasks=own).run(NFFLrCalculator(model, device="cpu"), budget_s=self.budget)
            found = report.scores()
        self._last = time.monotonic()
        return {f"val/{name}": value for part in gathered(found) for name, value in part.items()}


def _tasks(item: Task | Suite | str | Path) -> Sequence[Task]:
    if isinstance(item, Task):
        return [item]
    return (item if isinstance(item, Suite) else read_suite(Path(item))).tasks


@contextmanager
def _random_states_kept() -> Iterator[None]:
    numpy_state = np.random.get_state()
    with torch.random.fork_rng():
        yield
    np.random.set_state(numpy_state)
