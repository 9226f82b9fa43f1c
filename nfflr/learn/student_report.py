"""What a distillation leaves: the potential, its card, its data, the figure and the numbers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import ase
import matplotlib.figure
import numpy as np
import yaml

from ..calculator import NFFLrCalculator
from ..checkpoint import FILE, load_checkpoint
from ..storage.files import write_atomically, write_figure, write_json
from ..units import GPA
from ..validation.speed import Contestant, measure_speed
from .distill_settings import DistillSettings
from .judging import Judgement
from .loop import Distillation
from .students import write_frames

UNITS = {"energy": "eV", "forces": "eV/Å", "stress": "eV/Å^3", "length": "Å"}


def write_results(run: Distillation, final: Judgement, teacher: str, command: str, more: dict) -> dict:
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
    record = {
        "teacher": teacher,
        "calls": len(run.labels),
        "calls_by_use": {u: _count(run.labels.frames, u) for u in ("reference", "train", "test")},
        "calls_failed": sum(frame.calc is None for frame in run.labels.frames),
        "good": final.good(run.settings),
        "structures_trained_on": final.trained,
        "force_error_percent": final.force_error,
        "final": final.row(),
        "history": [judged.row() for judged in run.history],
        "without_reference": run.notes,
        "speed": speed(run, final.checkpoint),
        "settings": run.settings.model_dump(mode="json"),
        "digest": load_checkpoint(out)[1]["sha256"],
        "wall_time_s": time.perf_counter() - run.started,
        "command": command,
        **more,
    }
    write_figure(out / "distill.png", draw(run.history, run.settings, teacher))
    text = yaml.safe_dump(card(run, record), sort_keys=False, allow_unicode=True, width=110)
    write_atomically(out / "card.yaml", text.encode())
    write_json(out / "distill.json", record)
    return record


def write_data(run: Distillation) -> None:
    """Every label so far as ``data.xyz``, and the test frames once more as ``test.xyz``."""
    known = [frame for frame in run.labels.frames if frame.calc is not None]
    for name, frames in {"data.xyz": known, "test.xyz": run.labels.used_for("test")}.items():
        if frames:
            write_frames(run.out / name, frames)


def speed(run: Distillation, checkpoint: Path) -> dict:
    """Least milliseconds per call of teacher and potential for the largest supercell.

    The teacher is not asked again; the least is what other work on the machine disturbs least.
    """
    supercell = max(run.supercells.values(), key=len)
    contestants = [
        Contestant(name, NFFLrCalculator.load(checkpoint, compile=compile))
        for name, compile in (("student", False), ("student_compiled", True))
    ]
    timings = measure_speed(contestants, [supercell])
    seconds = run.labels.seconds(len(supercell))
    teacher = None if seconds is None else 1e3 * seconds
    found: dict = {"atoms": len(supercell), "teacher_ms": teacher}
    for timing in timings:
        own = 1e3 * min(timing.seconds) if timing.seconds else None
        found[f"{timing.name}_ms"] = own
        found[f"{timing.name}_speed_up"] = teacher / own if teacher and own else None
    return found


def card(run: Distillation, record: dict) -> dict:
    """What ``calculators/*/card.yaml`` holds, as far as it is known here."""
    model, metadata = load_checkpoint(run.out)
    errors, settings = record["final"]["test"], run.settings
    names_of = {"energy": "energy", "force": "forces"}
    scores = {f"{k}_{e}": 1e3 * errors[f"{v}_{e}"] for k, v in names_of.items() for e in ("mae", "rmse")}
    if "stress_mae" in errors:
        scores["stress_mae"] = errors["stress_mae"] / GPA
    names = ", ".join(run.cells)
    trained, chosen = record["structures_trained_on"], record["calls_by_use"]
    return {
        "name": run.out.resolve().name,
        "description": f"Distilled from {record['teacher']} for {names}: moment-tensor network, cutoff "
        f"{model.cutoff:g} Å.",
        "elements": sorted(model.elements),
        "cutoff": model.cutoff,
        "data": f"data.xyz: {record['calls']} calls of {record['teacher']}, {trained} structures trained on "
        f"or selecting the weights, {chosen['test']} for the test, {chosen['reference']} for references.",
        "licence": f"that of {record['teacher']}, whose labels the potential repeats",
        "citation": f"cite {record['teacher']}",
        "units": UNITS,
        "test": {
            "command": f"nff evaluate {run.out} {run.out / 'test.xyz'}",
            "structures": chosen["test"],
            **_rounded(scores),
        },
        "training": {"command": record["command"], "results": {"teacher_calls": record["calls"]}},
        "suite": {
            "command": f"nff validate {run.out} {run.out / 'suite'}",
            "results": _rounded({k: v for k, v in record["final"]["suite"].items() if np.isfinite(v)}),
        },
        "limits": f"Made for {names} and what lies within {settings.temperature:g} K and strains of 3 %; "
        "the teacher's own errors come on top.",
        "sha256": metadata["sha256"],
    }


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


def _count(frames: Sequence[ase.Atoms], use: str) -> int:
    return sum(frame.info["use"] == use for frame in frames)


def _rounded(scores: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in scores.items()}
