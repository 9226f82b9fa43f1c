"""A task: a workflow, what it acts on, and what should come out."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import ase
from ase.calculators.calculator import Calculator
from ase.io.jsonio import MyEncoder

from ..errors import ConfigError, NFFLrError, NumericsError, did_you_mean, is_lack_of_resources
from ..notes import quiet
from ..workflows.framework.contract import Workflow
from ..workflows.framework.interface import Progress, Settings, silent
from ..workflows.framework.results import Result
from ..workflows.framework.scores import Score, known

FAILED = math.inf  # of a score there is none of: no lowest score, and no weighted sum, can prefer it


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
        chosen: names of the scores to take; default: all that the reference holds what is needed for.
        source: where the reference comes from, for people.

    Raises:
        ConfigError: there is nothing to score, or a limit or choice names no score of the task.
    """

    name: str
    workflow: Workflow
    structures: tuple[ase.Atoms, ...]
    settings: Settings
    reference: Result | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    chosen: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        possible = self._possible()
        for name in (*self.chosen, *self.limits):
            if name not in possible:
                hint = did_you_mean(name, possible) or f"; possible: {', '.join(possible) or 'none'}"
                raise ConfigError(f"task {self.name}: has no score {name!r} with this reference{hint}")
        if not possible:
            raise ConfigError(f"task {self.name}: nothing to score; give a reference with fields to compare")
        for name in self.limits:
            if name not in self.scores:
                raise ConfigError(f"task {self.name}: {name} has a limit but is not among the scores chosen")

    def _possible(self) -> dict[str, Score]:
        held = {n: s for n, s in self.workflow.scores.items() if known(self.reference, s.needs)}
        return {n: s for n, s in held.items() if not s.needs or s.applies(self.reference)}

    @property
    def scores(self) -> dict[str, Score]:
        """The scores of every outcome of this task, by name: known before it runs."""
        return {n: s for n, s in self._possible().items() if not self.chosen or n in self.chosen}

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

        The calculator is reset first, and seeds are settings, so that equal calculators give equal numbers,
        whatever they have done before.

        Args:
            calculator: any ASE calculator; it is used, not copied.
            progress: handed to the workflow.
        """
        started = time.perf_counter()
        outcome = self._run(calculator, progress)
        return replace(outcome, seconds=time.perf_counter() - started)

    def skipped(self, message: str) -> Outcome:
        """The outcome of not being run."""
        return Outcome(self, "skipped", self._none(), message)

    def _run(self, calculator: Calculator, progress: Progress) -> Outcome:
        if hasattr(calculator, "reset"):
            calculator.reset()
        structures = [atoms.copy() for atoms in self.structures]
        result = None
        try:
            for atoms in structures:
                atoms.calc = calculator  # unknown elements are refused here
            names = [f"task {self.name}"] * len(structures)
            structures = self.workflow.prepare(structures, self.settings, names)
            with quiet():  # what a suite computes is its author's choice
                result = self.workflow.function(*structures, calculator, self.settings, progress)
            if not result.converged:
                meant = {n: self._score(s, result) for n, s in self.scores.items() if s.of_failure}
                return Outcome(self, "failed", self._none() | meant, result.message, result)
            scores = {name: self._score(score, result) for name, score in self.scores.items()}
        except BudgetSpentError:
            raise
        except Exception as error:
            if is_lack_of_resources(error):
                raise
            # Half-trained models break other libraries (symmetry, fits, linear algebra) in their own ways.
            # That says something about the model and must not end a training run.
            kind = "" if isinstance(error, NFFLrError) else f"{type(error).__name__}: "
            message = kind + " ".join(str(error).split())
            return Outcome(self, "failed", self._none(), message, result)
        return Outcome(self, "scored", scores, result.message, result)

    def _none(self) -> dict[str, float]:
        return dict.fromkeys(self.scores, FAILED)

    def _score(self, score: Score, result: Result) -> float:
        value = float(score.of(result, self.reference, self.settings))
        if not math.isfinite(value):
            raise NumericsError("a score is not finite")
        return value


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes:
        status: ``"failed"``: the workflow raised an error, exploded, did not converge, or gave what cannot
            be compared; ``"skipped"``: there was no time left.
        scores: every score of the task; infinite where there is none, so that a failure keeps its place.
        message: of the result, or why there is none.
        result: what the workflow returned.
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
        """Of each score."""
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
