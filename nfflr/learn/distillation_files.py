"""Files of a finished distillation: the potential, its data, card, figure and record."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import matplotlib.figure
import numpy as np
import yaml

from ..calculator import NFFLrCalculator
from ..cards import FILE as CARD
from ..cards import Card, Errors, Measured
from ..checkpoint import FILE, load_checkpoint
from ..storage.files import write_atomically, write_figure, write_json
from ..units import GPA
from ..validation.speed import Contestant, measure_speed
from . import DistillSettings
from .loop import Distillation
from .students import Judgement, write_frames


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
    contents = card(run, record)
    content = {"version": contents.version, **contents.model_dump(mode="json", exclude_unset=True)}
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
