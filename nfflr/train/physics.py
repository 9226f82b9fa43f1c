"""Physics in the loop: validation tasks on the averaged weights, as ``nff validate`` runs them."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from ..calculator import NFFLrCalculator
from ..models.base import Potential
from ..validation.reading import read_suite
from ..validation.suite import Outcome, Report, Suite, Task
from .distributed import gathered, share


def read_tasks(items: Sequence[Task | Suite | str | Path]) -> tuple[Task, ...]:
    """Tasks of a config: as they are, out of a suite, or out of the folder of one.

    Raises:
        ConfigError: a folder is no suite, or two tasks have one name.
        StructureError: a structure of a suite cannot be read.
    """
    tasks: list[Task] = []
    for item in [items] if isinstance(items, Task | Suite | str | Path) else items:
        if isinstance(item, Task):
            tasks.append(item)
        else:
            tasks.extend((item if isinstance(item, Suite) else read_suite(Path(item))).tasks)
    return Suite(tuple(tasks), "tasks").tasks if tasks else ()


class Physics:
    """The tasks of a run, and when they are due.

    Args:
        tasks: with different names; none: no round is ever due.
        every: epochs between rounds.
        minutes: wall time after which a round is due as well; 0: never.
        budget: seconds that a round may take; what does not fit is skipped.
    """

    def __init__(self, tasks: Sequence[Task], every: int, minutes: float, budget: float):
        self.tasks, self.every, self.minutes, self.budget = list(tasks), every, minutes, budget
        self._last = time.monotonic()

    @property
    def metrics(self) -> list[str]:
        """Names ``val/<task>/<score>``, known before anything runs."""
        return [f"val/{task.name}/{score}" for task in self.tasks for score in task.scores]

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether the end of an epoch is the time for a round; every rank says the same."""
        if not self.tasks:
            return False
        late = self.minutes > 0 and time.monotonic() - self._last > 60 * self.minutes
        return epoch == epochs or epoch % self.every == 0 or any(gathered(late))

    def measure(self, model: Potential, begin: Callable[[str], None] = lambda name: None) -> Report:
        """The tasks on a potential, by the calculator that a user would get of it.

        The ranks share the tasks, so that none waits for one to do all, and every rank gets every outcome
        (without the result itself). The model is copied: its weights, gradients and mode stay, and random
        states too.

        Args:
            model: a potential.
            begin: called with the name of each task that this rank runs, before it does.
        """
        own, parts = share(self.tasks), []
        if own:
            with _random_states_kept():
                report = Suite(tuple(own)).run(
                    NFFLrCalculator(model), budget_s=self.budget, begin=lambda task: begin(task.name)
                )
            parts = [(o.task.name, (o.status, o.scores, o.message)) for o in report.outcomes]
        self._last = time.monotonic()
        results = {name: result for part in gathered(parts) for name, result in part}
        outcomes = tuple(Outcome(task, *results[task.name]) for task in self.tasks)
        return Report(Suite(tuple(self.tasks)), outcomes)


def metrics_of(report: Report) -> dict[str, float]:
    """``val/<task>/<score>`` of a round, and ``val/tasks/coverage``, the fraction that was scored.

    NaN where a task failed, and ``val/<task>/failed`` is 1. A task skipped for lack of time has none.
    """
    scores = report.scores()
    row = {"val/tasks/coverage": scores["coverage"], "val/tasks/skipped": scores["skipped"]}
    for outcome in report.outcomes:
        if outcome.status != "skipped":
            for name in (*outcome.scores, "failed"):
                value = scores[f"{outcome.task.name}/{name}"]
                row[f"val/{outcome.task.name}/{name}"] = value if math.isfinite(value) else math.nan
    return row


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """Workflows have generators of their own, but what a user's task draws from may be global."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        yield
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
