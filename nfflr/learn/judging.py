"""What a potential is worth against its teacher: errors on frames of its own MD, and the suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ase
import numpy as np

from ..calculator import NFFLrCalculator
from ..checkpoint import load_checkpoint
from ..data.dataset import AtomsDataset
from ..train.evaluation import Predictions, predict
from ..validation.suite import Report, Suite
from .distill_settings import DistillSettings


@dataclass(frozen=True)
class Judgement:
    """What a potential is worth against the teacher.

    Attributes:
        checkpoint: of the potential.
        rms_force: eV/Å, root mean square of the teacher's force components on the test frames.
        errors: as ``Predictions.errors``, on the test frames.
        report: on the suite, or None where there is none.
        calls: of the teacher so far.
        trained: structures it was made from, those that chose its weights included.
        seconds: since the run began or was resumed.
    """

    checkpoint: Path
    rms_force: float
    errors: dict[str, float]
    predictions: Predictions
    report: Report | None
    calls: int = 0
    trained: int = 0
    seconds: float = 0.0

    @property
    def force_error(self) -> float:
        """RMSE of force components in per cent of the teacher's rms force."""
        return 100 * self.errors["forces_rmse"] / self.rms_force

    def good(self, settings: DistillSettings, slack: float = 1.0) -> bool:
        """Whether all limits hold, or would if they were ``slack`` times as wide."""
        outcomes = self.report.outcomes if self.report else ()
        within = all(o.scores[n] <= slack * limit for o in outcomes for n, limit in o.task.limits.items())
        return within and self.force_error <= slack * settings.force_limit

    def row(self) -> dict:
        """JSON for the history."""
        scores = {k: v for k, v in (self.report.scores() if self.report else {}).items() if np.isfinite(v)}
        errors = {k: v for k, v in self.errors.items() if np.isfinite(v)}
        row = {"calls": self.calls, "structures": self.trained, "force_error_percent": self.force_error}
        return {**row, "rms_force": self.rms_force, "test": errors, "suite": scores, "seconds": self.seconds}


def judge(checkpoint: Path, tests: Sequence[ase.Atoms], suite: Suite | None, compile: bool) -> Judgement:
    """Measure a potential on labelled test frames, none of which it was trained on, and on the suite."""
    dataset = AtomsDataset(list(tests), n_train=1.0, n_val=0.0)
    pairs = predict(load_checkpoint(checkpoint)[0], dataset, range(len(tests)))
    calculator = NFFLrCalculator.load(checkpoint, compile=compile)
    return Judgement(
        checkpoint=checkpoint,
        rms_force=float(np.sqrt(np.mean(pairs["forces"].reference ** 2))),
        errors=pairs.errors(),
        predictions=pairs,
        report=None if suite is None else suite.run(calculator),
    )
