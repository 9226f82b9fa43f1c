"""Potentials trained on labels by the recipe of ``nff init``: training, judging, and writing what is kept."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import torch

from ..calculator import NFFLrCalculator
from ..checkpoint import FILE, load_checkpoint
from ..data.dataset import AtomsDataset
from ..data.quality.diagnosis import diagnose
from ..models.moment import MomentNetwork
from ..reports.evaluation import Predictions, predict
from ..reports.run_record import read_record
from ..storage.files import claim_folder, write_atomically
from ..train.config import TrainingConfig, load_config
from ..train.first_config import config_text
from ..train.state import states
from ..train.trainer import train
from ..validation.suite import Report, Suite
from . import DistillSettings

DATA = "data.xyz"


def train_student(
    folder: Path,
    frames: Sequence[ase.Atoms],
    *,
    seed: int,
    layers: int,
    length: float,
    compile: bool,
    on_step: Callable[[dict], None],
) -> Path:
    """Train on labelled frames in a folder, or continue a killed training there.

    The folder is the one of ``nff init data.xyz`` and ``nff train config.py``, except for the number of
    epochs, and for the split, which follows from the seed.

    Args:
        frames: with energies and forces.
        layers: of the network.
        length: of the training over the recipe's.
        on_step: called after every step.

    Returns:
        the checkpoint with the lowest validation loss.
    """
    record = read_record(folder)
    if record is not None and record.finished:
        return folder / FILE
    claim_folder(folder)
    begun = bool(states(folder / "state"))
    if not begun:
        write_frames(folder / DATA, frames)
        write_config(folder, layers)
    config = _config(folder, seed, length, compile)
    return train(config, resume=begun, overwrite=not begun, on_step=on_step)


def write_config(folder: Path, layers: int) -> None:
    """The config that ``nff init`` writes for the data of a folder."""
    diagnosis = diagnose(folder / DATA)
    diagnosis.raise_if_unusable()
    text = config_text(folder / DATA, folder, diagnosis, filtered=True, layers=layers)
    write_atomically(folder / "config.py", text.encode())


def _config(folder: Path, seed: int, length: float, compile: bool) -> TrainingConfig:
    overrides = {"random_seed": seed, "output_dir": folder, "compile": compile, "progress": False}
    config = load_config(folder / "config.py", overrides)
    epochs = max(2, round(length * config.epochs))
    changed: dict = {"epochs": epochs, "validate_every": max(1, min(config.validate_every, epochs // 10))}
    steps = epochs * -(-len(config.dataset.split["train"]) // config.batch_size)
    # A longer average than the run's last tenth would include weights of its beginning.
    changed["ema_decay"] = min(config.ema_decay, 1 - 1 / max(2, steps / 20))
    if config.dataset.origin["source"] is not None:
        arguments: dict[str, Any] = {**config.dataset.origin, "seed": seed}
        changed["dataset"] = AtomsDataset(**arguments)
    return config.model_copy(update=changed)


def write_frames(path: Path, frames: Sequence[ase.Atoms]) -> None:
    """Labelled frames as extended XYZ, whole or not at all."""
    text, copies = io.StringIO(), []
    for frame in frames:
        copies.append(frame.copy())
        copies[-1].calc = frame.calc
        copies[-1].info.pop("seconds", None)  # equal runs give equal bytes
    ase.io.write(text, copies, format="extxyz")
    write_atomically(path, text.getvalue().encode())


@torch.no_grad()
def describe(model: MomentNetwork, frames: Sequence[ase.Atoms]) -> np.ndarray:
    """Mean and standard deviation over a structure's atoms of the network's invariants, (F, D) float64."""
    invariants: list[torch.Tensor] = []
    handle = model.layers[0].register_forward_hook(
        lambda layer, inputs, output: invariants.append(output.features.flatten(1))
    )
    try:
        for atoms in frames:
            model(atoms, stress=False)
    finally:
        handle.remove()
    rows = [torch.cat([x.mean(0), x.std(0, correction=0)]) for x in invariants]  # (2 F·C,) each
    return torch.stack(rows).double().cpu().numpy() if rows else np.zeros((0, 1))


@dataclass(frozen=True)
class Judgement:
    """Errors of a potential against the teacher.

    Attributes:
        checkpoint: of the potential.
        rms_force: eV/Å, root mean square of the teacher's force components on the test frames.
        errors: as ``Predictions.errors``, on the test frames.
        report: on the suite, or None without one.
        calls: of the teacher so far.
        trained: structures of training and validation.
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
        """Whether all limits, times ``slack``, hold."""
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
    """Measure a potential on labelled test frames and on the suite."""
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
