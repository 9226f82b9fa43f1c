"""Tasks (a workflow, a structure, a reference, limits), suites of them, reports, and their figure."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import ase
import numpy as np
from ase.calculators.calculator import Calculator
from ase.io.jsonio import MyEncoder
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..errors import ConfigError, NFFLrError, NumericsError, did_you_mean, is_lack_of_resources
from ..notes import quiet
from ..workflows.framework.contract import Workflow
from ..workflows.framework.interface import Progress, Settings, silent
from ..workflows.framework.results import Result
from ..workflows.framework.scores import Score, has_fields

FAILED = math.inf  # the score of a failure, which no lowest score and no weighted sum can prefer


class BudgetSpentError(Exception):
    """Raised in the midst of a task whose time is up."""


@dataclass(frozen=True)
class Task:
    """One measurement of a calculator's physics.

    Attributes:
        name: as in ``"<name>/<score>"``.
        workflow: what is computed.
        structures: its leading arguments, one structure for most workflows.
        settings: its options.
        reference: what should come out, all of it or some fields; None where the scores need none.
        limits: the largest value allowed, by score.
        score_names: scores to take; default: all for which the reference holds what is needed.
        source: where the reference comes from, for people.

    Raises:
        ConfigError: there is nothing to score, or a limit or ``score_names`` names no score of the task.
    """

    name: str
    workflow: Workflow
    structures: tuple[ase.Atoms, ...]
    settings: Settings
    reference: Result | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    score_names: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        possible = self._possible()
        for name in (*self.score_names, *self.limits):
            if name not in possible:
                hint = did_you_mean(name, possible) or f"; possible: {', '.join(possible) or 'none'}"
                raise ConfigError(f"task {self.name}: has no score {name!r} with this reference{hint}")
        if not possible:
            raise ConfigError(f"task {self.name}: nothing to score; give a reference with fields to compare")
        for name in self.limits:
            if name not in self.scores:
                raise ConfigError(f"task {self.name}: {name} has a limit but is not among the scores chosen")

    def _possible(self) -> dict[str, Score]:
        return {
            name: score
            for name, score in self.workflow.scores.items()
            if has_fields(self.reference, score.needs) and (not score.needs or score.applies(self.reference))
        }

    @property
    def scores(self) -> dict[str, Score]:
        """The scores of every outcome of this task, by name: known before it runs."""
        names = self.score_names
        return {name: score for name, score in self._possible().items() if not names or name in names}

    def described(self) -> dict:
        """JSON of what the numbers depend on besides the calculator: equal for equal tasks."""
        inputs = {
            "structures": [atoms.todict() for atoms in self.structures],
            "reference": None if self.reference is None else vars(self.reference),
        }
        text = json.dumps(inputs, cls=MyEncoder, sort_keys=True)
        return {
            "workflow": self.workflow.name,
            "settings": self.settings.model_dump(mode="json"),
            "scores": list(self.scores),
            "inputs": hashlib.sha256(text.encode()).hexdigest(),
        }

    def run(self, calculator: Calculator, progress: Progress = silent) -> Outcome:
        """Measure a calculator. What fails, fails as a result: nothing but lack of resources is raised.

        The calculator, any of ASE's, is reset first and seeds are settings, so that equal calculators give
        equal numbers, whatever they have done before.
        """
        started, result = time.perf_counter(), None
        scores = dict.fromkeys(self.scores, FAILED)
        try:
            result = self._result(calculator, progress)
            status: Literal["scored", "failed"] = "scored" if result.converged else "failed"
            message = result.message
            scores |= {
                name: self._score(score, result)
                for name, score in self.scores.items()
                if result.converged or score.of_failure
            }
        except BudgetSpentError:
            raise
        except Exception as error:
            if is_lack_of_resources(error):
                raise
            # Half-trained models break other libraries (symmetry, fits, linear algebra) in their own ways.
            # That says something about the model and must not end a training run.
            kind = "" if isinstance(error, NFFLrError) else f"{type(error).__name__}: "
            status, message = "failed", kind + " ".join(str(error).split())
        return Outcome(self, status, scores, message, result, time.perf_counter() - started)

    def skipped(self, message: str) -> Outcome:
        """The outcome of not being run."""
        return Outcome(self, "skipped", dict.fromkeys(self.scores, FAILED), message)

    def _result(self, calculator: Calculator, progress: Progress) -> Result:
        if hasattr(calculator, "reset"):
            calculator.reset()
        structures = [atoms.copy() for atoms in self.structures]
        for atoms in structures:
            atoms.calc = calculator  # unknown elements are refused here
        structures = self.workflow.prepare(structures, self.settings, [f"task {self.name}"] * len(structures))
        with quiet():  # what a suite computes is its author's choice
            result: Result = self.workflow.function(*structures, calculator, self.settings, progress)
        return result

    def _score(self, score: Score, result: Result) -> float:
        value = float(score.of(result, self.reference, self.settings))
        if not math.isfinite(value):
            raise NumericsError("a score is not finite")
        return value


@dataclass(frozen=True)
class Outcome:
    """The outcome of a task.

    Attributes:
        status: ``"failed"`` if the workflow raised an error, exploded, did not converge, or gave what cannot
            be compared; ``"skipped"`` if there was no time left.
        scores: every score of the task; infinite where there is none, so that a failure keeps its place.
        message: of the result, or why there is none.
        seconds: wall time.
    """

    task: Task
    status: Literal["scored", "failed", "skipped"]
    scores: dict[str, float]
    message: str
    result: Result | None = None
    seconds: float = 0.0

    @property
    def converged(self) -> bool:
        """Whether the workflow came to a converged result."""
        return self.result is not None and self.result.converged

    @property
    def failed(self) -> bool:
        return self.status == "failed"

    @property
    def coverage(self) -> float:
        """1 if the task was scored, 0 if not."""
        return float(self.status == "scored")

    @property
    def units(self) -> dict[str, str]:
        """The unit of each score."""
        return {name: score.unit for name, score in self.task.scores.items()}

    @property
    def exceeded(self) -> tuple[str, ...]:
        """Scores beyond their limits."""
        return tuple(n for n, limit in self.task.limits.items() if self.scores[n] > limit)

    def record(self) -> dict:
        """JSON; a score that there is none of is null."""
        task = self.task
        return {
            "workflow": task.workflow.name,
            "settings": task.settings.model_dump(mode="json"),
            "reference": task.source or None,
            "status": self.status,
            "converged": self.converged,
            "coverage": self.coverage,
            "scores": {n: v if math.isfinite(v) else None for n, v in self.scores.items()},
            "units": self.units,
            "limits": dict(task.limits),
            "exceeded": list(self.exceeded),
            "message": self.message,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Suite:
    """Tasks with different names, in the order they are run; the name is that of its folder."""

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
        """The suite of these tasks alone, or of all if none is named."""
        own = [task.name for task in self.tasks]
        for name in names:
            if name not in own:
                hint = did_you_mean(name, own) or f"; expected one of {', '.join(own)}"
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
        other tasks are run; after ``budget_s`` seconds a task is stopped at its next step, and no other
        begins. ``begin`` is called with each task before it runs.
        """
        started = time.perf_counter()
        deadline = started + (math.inf if budget_s is None else budget_s)

        def watched(step: int, total: int, numbers: dict[str, float], atoms: ase.Atoms) -> None:
            progress(step, total, numbers, atoms)
            if time.perf_counter() > deadline:
                raise BudgetSpentError

        def outcome(task: Task) -> Outcome:
            if time.perf_counter() >= deadline:
                return task.skipped(f"not begun: the budget of {budget_s:g} s was spent")
            begin(task)
            try:
                return task.run(calculator, watched)
            except BudgetSpentError:
                return task.skipped(f"broken off: the budget of {budget_s:g} s was spent")

        outcomes = tuple(outcome(task) for task in self.tasks)
        return Report(self, outcomes, time.perf_counter() - started)


@dataclass(frozen=True)
class Report:
    """The outcomes of every task of a suite, in order."""

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

        ``<task>/<score>``, infinite if the task failed or was skipped; ``<task>/failed``, 0 or 1;
        ``coverage``, the fraction of tasks that were scored; ``skipped``, their number.
        """
        flat: dict[str, float] = {}
        for outcome in self.outcomes:
            name = outcome.task.name
            flat |= {f"{name}/{score}": value for score, value in outcome.scores.items()}
            flat[f"{name}/failed"] = float(outcome.failed)
        skipped = sum(outcome.status == "skipped" for outcome in self.outcomes)
        return flat | {"coverage": self.coverage, "skipped": float(skipped)}

    def units(self) -> dict[str, str]:
        """The unit of each score that has one, by ``<task>/<score>``."""
        return {f"{o.task.name}/{n}": unit for o in self.outcomes for n, unit in o.units.items() if unit}

    def record(self) -> dict:
        """JSON: tasks by name, coverage, verdict."""
        return {
            "tasks": {outcome.task.name: outcome.record() for outcome in self.outcomes},
            "coverage": self.coverage,
            "passed": self.passed,
        }


GOOD, BAD = "C0", "C3"
COLUMNS = 2
FURTHEST = 3.0  # times the limit; what lies beyond is cut, its value is written beside it


def draw(report: Report, title: str) -> Figure:
    """Bars of score over limit above, the figures of the tasks' results below."""
    results = [outcome for outcome in report.outcomes if outcome.result is not None]
    pictures = [(o, picture) for o in results if (picture := _picture(o)) is not None]
    bars = sum(len(outcome.scores) for outcome in report.outcomes)
    rows = math.ceil(len(pictures) / COLUMNS)
    heights = [0.9 + 0.3 * bars, *([3.6 * rows] if rows else [])]
    figure = Figure(figsize=(10, sum(heights) + 0.4), layout="constrained")
    figure.suptitle(f"{title}: coverage {report.coverage:.0%}", fontsize="large")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _bars(parts[0].add_subplot(), report)
    grid = parts[-1].add_gridspec(max(rows, 1), COLUMNS)
    for k, (outcome, picture) in enumerate(pictures):
        axes = parts[-1].add_subplot(grid[k // COLUMNS, k % COLUMNS])
        axes.imshow(picture, interpolation="antialiased")
        axes.axis("off")
        verdict = outcome.message.partition(";")[0]  # what follows is in the table
        axes.set_title(f"{outcome.task.name}: {verdict}", fontsize="small", loc="left")
    return figure


def _bars(axes: Any, report: Report) -> None:
    labels: list[str] = []
    for outcome in report.outcomes:
        for name, value in outcome.scores.items():
            y, limit, unit = len(labels), outcome.task.limits.get(name), outcome.units[name]
            labels.append(f"{outcome.task.name}  {name}")
            fraction = _fraction(value, limit)
            text = f"{value:.3g} {unit}".rstrip() if math.isfinite(value) else outcome.status
            text += "" if limit is None else f" (limit {limit:g})"
            colour = BAD if outcome.status != "scored" or name in outcome.exceeded else GOOD
            axes.barh(y, fraction, color=colour, height=0.65)
            paper = {"color": "white", "pad": 1, "alpha": 0.8}  # the line does not cross the text
            axes.text(fraction + 0.03, y, text, va="center", fontsize="small", bbox=paper)
    axes.axvline(1, color="black", lw=0.8, zorder=0)
    axes.set_yticks(range(len(labels)), labels, fontsize="small")
    longest = max([1.0, *(bar.get_width() for bar in axes.patches)])
    axes.set(xlim=(0, 1.3 * longest + 0.5), ylim=(len(labels) - 0.4, -0.6), xlabel="score / limit")
    axes.spines[["top", "right"]].set_visible(False)


def _fraction(value: float, limit: float | None) -> float:
    """Length of a bar; none without a limit."""
    if limit is None or value <= 0:
        return 0.0
    return FURTHEST if limit == 0 else min(FURTHEST, value / limit)


def _picture(outcome: Outcome) -> np.ndarray | None:
    """(H, W, 4) of the workflow's figure, with the reference where all of it is there."""
    workflow, reference = outcome.task.workflow, outcome.task.reference
    if workflow.plot is None:
        return None
    complete = reference is not None and workflow.result.model_fields.keys() <= reference.model_fields_set
    others = ({"reference": reference}, "checkpoint") if workflow.overlays and complete else ()
    canvas = FigureCanvasAgg(workflow.plot(outcome.result, *others))
    canvas.figure.set_dpi(150)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())
