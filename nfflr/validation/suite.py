"""A suite: tasks that are run one after another, and the report on them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import ase
from ase.calculators.calculator import Calculator

from ..errors import ConfigError, did_you_mean
from ..workflows.framework.interface import Progress, silent
from .tasks import BudgetSpentError, Outcome, Task


@dataclass(frozen=True)
class Suite:
    """Tasks with different names, in the order they are run.

    Attributes:
        tasks: at least one.
        name: of the folder it was read from.
    """

    tasks: tuple[Task, ...]
    name: str = ""

    def __post_init__(self) -> None:
        names = [task.name for task in self.tasks]
        if not names:
            raise ConfigError(f"suite {self.name}: has no task; give at least one")
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"suite {self.name}: two tasks are called {name!r}; give each its own name")

    def only(self, names: tuple[str, ...]) -> Suite:
        """The suite of these tasks alone, or of all if none is named.

        Raises:
            ConfigError: there is no task of such a name.
        """
        known = [task.name for task in self.tasks]
        for name in names:
            if name not in known:
                hint = did_you_mean(name, known) or f"; expected one of {', '.join(known)}"
                raise ConfigError(f"suite {self.name}: has no task {name!r}{hint}")
        return Suite(tuple(t for t in self.tasks if not names or t.name in names), self.name)

    def run(
        self,
        calculator: Calculator,
        progress: Progress = silent,
        *,
        budget_s: float | None = None,
        begin: Callable[[Task], None] = lambda task: None,
    ) -> Report:
        """Run every task; a failure is an outcome.

        Numbers depend on the calculator's weights and precision alone, not on what it did before or on which
        other tasks are run; a budget decides only on what is skipped.

        Args:
            calculator: any ASE calculator.
            progress: called by the workflows.
            budget_s: seconds after which a task is stopped at its next step, and no other is begun.
            begin: called with each task before it runs.
        """
        started = time.perf_counter()
        deadline = None if budget_s is None else started + budget_s
        outcomes = []
        for task in self.tasks:
            outcomes.append(_within(deadline, budget_s, task, calculator, progress, begin))
        return Report(self, tuple(outcomes), time.perf_counter() - started)


def _within(
    deadline: float | None,
    budget_s: float | None,
    task: Task,
    calculator: Calculator,
    progress: Progress,
    begin: Callable[[Task], None],
) -> Outcome:
    """The outcome of a task, or of its being skipped or broken off when the time is up."""

    def watched(step: int, total: int, numbers: dict[str, float], atoms: ase.Atoms) -> None:
        progress(step, total, numbers, atoms)
        if deadline is not None and time.perf_counter() > deadline:
            raise BudgetSpentError

    if deadline is not None and time.perf_counter() >= deadline:
        return task.skipped(f"not begun: the budget of {budget_s:g} s was spent")
    begin(task)
    try:
        return task.run(calculator, watched)
    except BudgetSpentError:
        return task.skipped(f"broken off: the budget of {budget_s:g} s was spent")


@dataclass(frozen=True)
class Report:
    """What became of a suite.

    Attributes:
        outcomes: of every task, in order; none is left out.
        seconds: wall time.
    """

    suite: Suite
    outcomes: tuple[Outcome, ...]
    seconds: float = 0.0

    @property
    def coverage(self) -> float:
        """Fraction of the tasks that were scored."""
        return sum(outcome.coverage for outcome in self.outcomes) / len(self.outcomes)

    @property
    def passed(self) -> bool:
        """Whether every task was scored and no limit is exceeded."""
        return all(o.status == "scored" and not o.exceeded for o in self.outcomes)

    def scores(self) -> dict[str, float]:
        """Every number by name: the same keys for the same suite, whatever happened.

        ``<task>/<score>``, infinite for a task that failed or was skipped; ``<task>/failed``, 0 or 1;
        ``coverage``, the fraction of tasks that were scored; ``skipped``, how many were skipped.
        """
        flat: dict[str, float] = {}
        for outcome in self.outcomes:
            name = outcome.task.name
            flat |= {f"{name}/{score}": value for score, value in outcome.scores.items()}
            flat[f"{name}/failed"] = float(outcome.failed)
        skipped = sum(outcome.status == "skipped" for outcome in self.outcomes)
        return flat | {"coverage": self.coverage, "skipped": float(skipped)}

    def units(self) -> dict[str, str]:
        """Of each score that has one, by ``<task>/<score>``."""
        return {f"{o.task.name}/{n}": unit for o in self.outcomes for n, unit in o.units.items() if unit}

    def record(self) -> dict:
        """JSON: tasks by name, coverage, verdict."""
        return {
            "tasks": {outcome.task.name: outcome.record() for outcome in self.outcomes},
            "coverage": self.coverage,
            "passed": self.passed,
        }
