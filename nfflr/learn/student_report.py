"""What a distillation leaves: the potential, its card, its data, the figure and the numbers."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jinja2
import matplotlib.figure
import numpy as np
import yaml

from ..calculator import NFFLrCalculator
from ..checkpoint import FILE, load_checkpoint
from ..storage.files import write_atomically, write_figure, write_json
from ..units import GPA
from ..validation.speed import Contestant, measure_speed
from .distill_settings import DistillSettings
from .loop import Distillation
from .students import Judgement, write_frames

SHOWN = {"energy": "energy", "force": "forces"}  # errors of the card (meV), and their names elsewhere


def write_results(
    run: Distillation, final: Judgement, teacher: str, command: str, more: dict[str, Any]
) -> dict[str, Any]:
    """Write ``model.safetensors``, ``config.py``, ``data.xyz``, ``test.xyz``, ``card.yaml``, ``distill.png``
    and, last, ``distill.json``; returns what that holds.

    Args:
        run: the finished run.
        final: the worth of the potential that is kept.
        teacher: its name.
        command: the command line.
        more: what else the JSON says, such as versions.
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
        "history": [judged.row() for judged in run.history],
        "without_reference": run.notes,
        "speed": speed(run, final),
        "settings": run.settings.model_dump(mode="json"),
        "digest": load_checkpoint(out)[1]["sha256"],
        "wall_time_s": time.perf_counter() - run.started,
        "command": command,
        **more,
    }
    write_figure(out / "distill.png", draw(run.history, run.settings, teacher))
    write_atomically(out / "card.yaml", card(run, record).encode())
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

    The teacher is not asked again; the least is what other work on the machine disturbs least.
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
        own = 1e3 * min(timing.seconds) if timing.seconds else None
        times[f"{timing.name}_ms"] = own
        times[f"{timing.name}_speed_up"] = teacher / own if teacher and own else None
    return times


def card(run: Distillation, record: dict[str, Any]) -> str:
    """What ``calculators/*/card.yaml`` holds, as far as it is known here."""
    model, metadata = load_checkpoint(run.out)
    errors = record["final"]["test"]
    shown = {f"{k}_{e}": 1e3 * errors[f"{name}_{e}"] for k, name in SHOWN.items() for e in ("mae", "rmse")}
    if "stress_mae" in errors:
        shown["stress_mae"] = errors["stress_mae"] / GPA
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__ or ""), undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["yaml"] = _in_one_line
    return environment.get_template("card.yaml.jinja").render(
        record,
        name=run.out.resolve().name,
        names=", ".join(run.cells),
        out=str(run.out),
        model=model,
        trained=record["structures_trained_on"],
        temperature=run.settings.temperature,
        errors=_rounded(shown),
        scores=_rounded(record["final"]["suite"]),
        digest=metadata["sha256"],
    )


def _in_one_line(value: object) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=math.inf)
    return text.removesuffix("...\n").strip()


def _rounded(scores: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in scores.items() if np.isfinite(value)}


def draw(history: Sequence[Judgement], settings: DistillSettings, teacher: str) -> matplotlib.figure.Figure:
    """Errors against calls, and the last potential's forces against the teacher's."""
    figure = matplotlib.figure.Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    calls = [judged.calls for judged in history]
    left.plot(calls, [judged.force_error for judged in history], "o-", color="C0", label="forces")
    left.axhline(settings.force_limit, color="C0", ls=":", lw=1)
    left.set(xlabel=f"calls of {teacher}", ylabel="force error (% of rms force)", ylim=(0, None))
    phonons = [judged.row()["suite"].get("phonons/frequency_mae", np.nan) for judged in history]
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
