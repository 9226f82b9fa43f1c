"""Potentials trained on labels by the recipe of ``nff init``: training, judging, and writing what is kept."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ase
import ase.io
import matplotlib.figure
import numpy as np
import torch
import yaml

from ..calculator import NFFLrCalculator
from ..cards import FILE as CARD
from ..cards import Card, Errors, Measured
from ..checkpoint import FILE, load_checkpoint
from ..data.dataset import AtomsDataset
from ..data.quality.diagnosis import diagnose
from ..models.moment import MomentNetwork
from ..reports.evaluation import Predictions, predict
from ..reports.run_record import read_record
from ..storage.files import claim_folder, write_atomically, write_figure, write_json
from ..train.config import TrainingConfig, load_config
from ..train.first_config import config_text
from ..train.state import states
from ..train.trainer import train
from ..units import GPA
from ..validation.speed import Contestant, measure_speed
from ..validation.suite import Report, Suite
from . import DistillSettings

if TYPE_CHECKING:  # the loop trains and judges by this file
    from .loop import Distillation

DATA = "data.xyz"


def train_student(
    folder: Path,
    frames: Sequence[ase.Atoms],
    *,
    seed: int,
    length: float,
    compile: bool,
    on_step: Callable[[dict], None],
) -> Path:
    """Train on labelled frames in a folder, or continue a killed training there.

    The folder is the one of ``nff init data.xyz`` and ``nff train config.py``, except for the number of
    epochs, and for the split, which follows from the seed.

    Args:
        frames: with energies and forces.
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
        write_config(folder)
    config = _config(folder, seed, length, compile)
    return train(config, resume=begun, overwrite=not begun, on_step=on_step)


def write_config(folder: Path) -> None:
    """The config that ``nff init`` writes for the data of a folder."""
    diagnosis = diagnose(folder / DATA)
    diagnosis.raise_if_unusable()
    text = config_text(folder / DATA, folder, diagnosis, filtered=True)
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
    handle = model.layers[0].hidden.register_forward_pre_hook(lambda _, inputs: invariants.append(inputs[0]))
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


def write_results(
    run: Distillation, final: Judgement, teacher: str, command: str, more: dict[str, Any]
) -> dict[str, Any]:
    """Write ``model.safetensors``, ``config.py``, ``data.xyz``, ``test.xyz``, ``card.yaml``, ``distill.png``
    and, last, ``distill.json``; returns the contents of the last.

    Args:
        run: the finished run.
        final: the judgement of the potential that is kept.
        teacher: its name.
        command: the command line.
        more: further entries of the JSON, such as versions.
    """
    out = run.out
    write_data(run)
    for name in (FILE, "config.py"):
        write_atomically(out / name, (final.checkpoint / name).read_bytes())
    uses = Counter(frame.info["use"] for frame in run.labels.frames)
    record = {
        "version": 1,
        "teacher": teacher,
        "calls": len(run.labels),
        "calls_by_use": {use: uses[use] for use in ("reference", "train", "test")},
        "calls_failed": sum(frame.calc is None for frame in run.labels.frames),
        "good": final.good(run.settings),
        "structures_trained_on": final.trained,
        "force_error_percent": final.force_error,
        "final": final.row(),
        "history": [judgement.row() for judgement in run.history],
        "without_reference": run.notes,
        "speed": speed(run, final),
        "settings": run.settings.model_dump(mode="json"),
        "digest": load_checkpoint(out)[1]["sha256"],
        "wall_time_s": time.perf_counter() - run.started,
        "command": command,
        **more,
    }
    write_figure(out / "distill.png", draw(run.history, run.settings, teacher))
    content = card(run, record).model_dump(mode="json", exclude_unset=True)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
    write_atomically(out / CARD, text.encode())
    write_json(out / "distill.json", record)
    return record


def write_data(run: Distillation) -> None:
    """Every label so far as ``data.xyz``, and the test frames once more as ``test.xyz``."""
    labelled = [frame for frame in run.labels.frames if frame.calc is not None]
    for name, frames in {"data.xyz": labelled, "test.xyz": run.labels.used_for("test")}.items():
        if frames:
            write_frames(run.out / name, frames)


def speed(run: Distillation, final: Judgement) -> dict[str, Any]:
    """Least milliseconds per call of teacher and potential for the largest supercell.

    The least time is the one that other work on the machine disturbs least.
    """
    supercell = max(run.supercells.values(), key=len)
    contestants = [
        Contestant(name, NFFLrCalculator.load(final.checkpoint, compile=compile))
        for name, compile in (("student", False), ("student_compiled", True))
    ]
    seconds = run.labels.seconds(len(supercell))
    teacher = None if seconds is None else 1e3 * seconds
    times: dict[str, Any] = {"atoms": len(supercell), "teacher_ms": teacher}
    for timing in measure_speed(contestants, [supercell]):
        student = 1e3 * min(timing.seconds) if timing.seconds else None
        times[f"{timing.name}_ms"] = student
        times[f"{timing.name}_speed_up"] = teacher / student if teacher and student else None
    return times


def card(run: Distillation, record: dict[str, Any]) -> Card:
    """The card of the potential in the folder of a run."""
    model, metadata = load_checkpoint(run.out)
    out, teacher, names, uses = run.out, record["teacher"], ", ".join(run.cells), record["calls_by_use"]
    all_errors = record["final"]["test"]
    metrics = ("energy_mae", "energy_rmse", "forces_mae", "forces_rmse")
    errors = {name.replace("forces", "force"): 1e3 * all_errors.get(name, np.nan) for name in metrics}
    if "stress_mae" in all_errors:
        errors["stress_mae"] = all_errors["stress_mae"] / GPA
    test = {"command": f"nff evaluate {out}/test.xyz --model {out}", "structures": uses["test"]}
    return Card(
        name=out.resolve().name,
        description=f"Distilled from {teacher} for {names}: moment-tensor network, "
        f"cutoff {model.cutoff:g} Å.",
        elements=sorted(model.elements),
        cutoff=model.cutoff,
        data=f"data.xyz: {record['calls']} calls of {teacher}, {record['structures_trained_on']} structures "
        f"trained on or selecting the weights, {uses['test']} for the test, {uses['reference']} for "
        "references.",
        licence=f"that of {teacher}, whose labels the potential repeats",
        citation=f"cite {teacher}",
        units={"energy": "eV", "forces": "eV/Å", "stress": "eV/Å^3", "length": "Å"},
        test=Errors(**test, **_rounded(errors)) if np.isfinite(list(errors.values())).all() else None,
        training=Measured(command=record["command"], results={"teacher_calls": record["calls"]}),
        suite=Measured(
            command=f"nff validate {out}/suite --model {out}", results=_rounded(record["final"]["suite"])
        ),
        limits=f"Made for {names} and what lies within {run.settings.temperature:g} K and strains of 3 %; "
        "the teacher's own errors come on top.",
        sha256=metadata["sha256"],
    )


def _rounded(scores: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in scores.items() if np.isfinite(value)}


def draw(history: Sequence[Judgement], settings: DistillSettings, teacher: str) -> matplotlib.figure.Figure:
    """Errors against calls, and the last potential's forces against the teacher's."""
    figure = matplotlib.figure.Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    calls = [judgement.calls for judgement in history]
    left.plot(calls, [judgement.force_error for judgement in history], "o-", color="C0", label="forces")
    left.axhline(settings.force_limit, color="C0", ls=":", lw=1)
    left.set(xlabel=f"calls of {teacher}", ylabel="force error (% of rms force)", ylim=(0, None))
    phonons = [judgement.row()["suite"].get("phonons/frequency_mae", np.nan) for judgement in history]
    if np.isfinite(phonons).any():
        other = left.twinx()
        other.plot(calls, phonons, "s--", color="C1")
        other.axhline(settings.phonon_limit, color="C1", ls=":", lw=1)
        other.set(ylabel="mean phonon difference (THz)", ylim=(0, None))
        left.plot([], [], "s--", color="C1", label="phonons")
    left.plot([], [], ":", color="grey", label="limit")
    left.legend(loc="lower left")
    forces = history[-1].predictions["forces"]
    right.plot(forces.reference.ravel(), forces.predicted.ravel(), ".", ms=2, color="C0")
    ends = [forces.reference.min(), forces.reference.max()]
    right.plot(ends, ends, color="grey", lw=0.8)
    right.set(xlabel=f"force of {teacher} (eV/Å)", ylabel="force of the potential (eV/Å)")
    right.set_title(f"test frames: {history[-1].force_error:.2f} % of {history[-1].rms_force:.3g} eV/Å")
    return figure
