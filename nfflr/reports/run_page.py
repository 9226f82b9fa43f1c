"""The page of a training run: what its folder holds, for the template ``run.html``."""

from __future__ import annotations

import base64
import io
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.figure
import numpy as np
from markupsafe import Markup

from ..checkpoint import FILE, find_run, load_checkpoint
from ..errors import ConfigError
from ..models.base import Potential
from ..quantities import LABELLED, Quantity, from_description
from ..structures.kinds import kind_of
from .evaluation import higher_is_better, predict
from .figures import learning_curve, parity
from .run_data import RunData, listed, run_data, summary
from .run_record import (
    METRICS,
    CheckRecord,
    Column,
    DataRecord,
    Row,
    RunRecord,
    ValidationRecord,
    columns_of,
    read_metrics,
    read_record,
)

SHORT = 22  # characters of a cell that is not broken into lines


def render(template: str, **content: object) -> str:
    """A page by a template of this folder; every value is escaped, so that names in data stay text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__ or ""),
        autoescape=True,
        finalize=shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**content)


def shown(value: object) -> object:
    """A value as people read it: a dash where there is none, numbers in four digits, lists in one line.

    Control characters and lone surrogates, which no page may hold, are left out.
    """
    if isinstance(value, Markup):
        return value
    if value is None or value != value or value in ({}, [], ()):
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs"))


@dataclass(frozen=True)
class Grid:
    """A table of rows below headers."""

    headers: Sequence[str]
    rows: Sequence[Sequence[object]]

    def look(self, column: int, value: object) -> Markup:
        """The class attribute of a cell: numbers stand right, what is short is not broken into lines."""
        cells = [row[column] for row in self.rows if row[column] is not None]
        numbers = [cell for cell in cells if isinstance(cell, int | float) and not isinstance(cell, bool)]
        classes = ["number"] if numbers and len(numbers) == len(cells) else []
        classes += ["short"] if len(str(shown(value))) <= SHORT else []
        return Markup(f' class="{" ".join(classes)}"' if classes else "")


@dataclass(frozen=True)
class Image:
    """A PNG inside the page, with the words that stand for it."""

    content: bytes
    alt: str

    @property
    def png(self) -> str:
        return base64.b64encode(self.content).decode()


def panels(figure: matplotlib.figure.Figure, dpi: int = 160) -> list[bytes]:
    """Each visible axes of a figure as a PNG of its own: on a phone they go below each other."""
    visible = [axes for axes in figure.axes if axes.axison]
    for axes in visible:
        axes.tick_params(labelbottom=True, labelleft=True)  # shared axes show them at the rim only
        axes.set_xlabel(axes.get_xlabel() or visible[-1].get_xlabel())
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # hiding the others below would move what is left
    parts = []
    for axes in visible:
        for other in figure.axes:
            other.set_visible(other is axes)
        content, box = io.BytesIO(), axes.get_tightbbox()
        assert box is not None  # the axes are visible
        inches = box.transformed(figure.dpi_scale_trans.inverted())
        figure.savefig(content, format="png", dpi=dpi, bbox_inches=inches.padded(0.08))
        parts.append(content.getvalue())
    return parts


STATE = "state"
COVERAGE = "val/tasks/coverage"
SECTIONS = {
    "learning": "Learning curves",
    "parity": "Predicted against reference",
    "tasks": "Physics during training",
    "check": "Check",
    "validation": "Validation",
    "data": "Data",
    "model": "Model card",
    "settings": "Training settings",
    "origin": "How it was made",
    "licence": "Licence and citation",
}


@dataclass(frozen=True)
class RunFolder:
    """What was read from the folder of a run."""

    path: Path
    model: Potential
    metadata: dict[str, Any]
    record: RunRecord | None
    history: list[Row]

    @property
    def data(self) -> DataRecord:
        return self.record.data if self.record else DataRecord()

    @property
    def columns(self) -> tuple[Column, ...]:
        """What the metrics of the run are of."""
        targets = self.metadata.get("targets") or {}
        quantities = [Quantity(name, classes=t.get("classes")) for name, t in targets.items()]
        outputs = [from_description(output) for output in self.metadata.get("outputs") or ()]
        return columns_of(quantities or [*LABELLED, *outputs])

    @property
    def tasks(self) -> list[str]:
        """Columns ``val/<task>/<field>``."""
        own = {f"val/{column.key}" for column in self.columns}  # the name of a property may have a slash
        return [n for n in self.history[0] if n.startswith("val/") and n.count("/") >= 2 and n not in own]

    def measured(self, key: str) -> list[Row]:
        """The validations that have a finite value of a metric."""
        return [row for row in self.history if math.isfinite(row.get(key, math.nan))]


def read_run(folder: Path) -> RunFolder:
    """Read the folder of a run, or the run in a folder; ConfigError if there is none."""
    if folder.is_file():
        raise ConfigError(f"{folder}: is {kind_of(folder) or 'a file'}; give the output folder of nff train")
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give the output folder of nff train")
    folder = find_run(folder)
    if not (folder / FILE).is_file() and any((folder / STATE).glob("step-*")):
        raise ConfigError(f"{folder}: the run has not been validated yet; wait for {FILE}, or resume it")
    for name in (FILE, METRICS):
        if not (folder / name).is_file():
            raise ConfigError(f"{folder}: not a run of nff train (it has no {name}); give its output folder")
    model, metadata = load_checkpoint(folder / FILE)
    return RunFolder(folder, model, metadata, read_record(folder), read_metrics(folder / METRICS))


def run_page(
    folder: Path, data: Path | None = None, checks: Sequence[Path] = (), validations: Sequence[Path] = ()
) -> str:
    """HTML of a run.

    Args:
        folder: output folder of ``nff train``.
        data: labelled structures for the parity plots; default: those that the run's record names.
        checks, validations: JSON of ``nff check`` and ``nff validate``, besides those in the folder.

    Raises:
        ConfigError: the folder is no run, or a JSON cannot be read.
        CheckpointError: the checkpoint is damaged.
        NFFLrError: the data that were given cannot be used.
    """
    run = read_run(folder)
    labelled = run_data(run.metadata, run.data, data)
    grouped = labelled.dataset is not None
    return render(
        "run.html",
        title=f"Training run: {folder.resolve().name}",
        sections=SECTIONS,
        folder=run.path.name,
        metadata=run.metadata,
        record=run.record,
        errors=_errors(run),
        last=run.history[-1]["epoch"],
        learning=_learning(run),
        data=labelled,
        legend=" Colours are the data's groups of structures, named in the first plot of a row." * grouped,
        parity=_parity(run, labelled),
        tasks=_tasks(run),
        checks=_results(run, "check", CheckRecord, checks),
        validations=_results(run, "validate", ValidationRecord, validations),
        sources=_sources(run),
        splits=_splits(labelled),
        parameters=sum(p.numel() for p in run.model.parameters()),
    )


def _errors(run: RunFolder) -> list[tuple[str, object]]:
    """The mean errors of the kept weights on the validation split."""
    scores = run.metadata["scores"]
    errors = {column.label: (f"val/{column.key}", column.factor) for column in run.columns if column.panel}
    return [(label, scores[key] * factor) for label, (key, factor) in errors.items() if key in scores]


def _learning(run: RunFolder) -> dict[str, Any]:
    columns = [column for column in run.columns if run.measured(f"val/{column.key}")]
    images = panels(learning_curve(run.history, columns))
    labels = ["loss", *(column.label for column in columns if column.panel)]
    names = [("train/loss", "training loss", 1.0), ("val/loss", "validation loss", 1.0)]
    names += [(f"val/{column.key}", column.label, column.factor) for column in columns]
    rows = [[label, *_first_best_last(run.measured(key), key, factor)] for key, label, factor in names]
    return {
        "images": [Image(i, f"{label} against epoch") for i, label in zip(images, labels, strict=True)],
        "table": Grid(["metric", "first", "best", "at epoch", "last"], rows),
    }


def _first_best_last(rows: list[Row], key: str, factor: float) -> list[object]:
    if not rows:
        return [None] * 4
    best = (max if higher_is_better(key) else min)(rows, key=lambda row: row[key])
    first, last = rows[0][key] * factor, rows[-1][key] * factor
    return [first, best[key] * factor, int(best["epoch"]), last]


def _tasks(run: RunFolder) -> dict[str, Any] | None:
    """Scores of validation tasks against epoch; None if no task ran."""
    names = [name for name in run.tasks if run.measured(name)]
    if not names:
        return None
    images, rows = [], []
    for name in names:
        task, _, score = name.removeprefix("val/").rpartition("/")
        if score == "failed" or task == "tasks":
            continue
        history = run.measured(name)
        values = [row[name] for row in history]
        if min(values) < max(values):
            title = f"{task}/{score}".replace("$", r"\$")
            curve = panels(learning_curve(history, [Column(f"{task}/{score}", title)]))[1]
            images.append(Image(curve, f"{task}/{score} against epoch"))
        failures = sum(row.get(f"val/{task}/failed") == 1 for row in run.history)
        rows.append([f"{task}/{score}", values[0], min(values), max(values), values[-1], failures])
    rounds = [row[COVERAGE] for row in run.measured(COVERAGE)]
    return {
        "rounds": len(rounds),
        "coverage": np.mean(rounds) if rounds else 0.0,
        "images": images,
        "table": Grid(["task/score", "first", "lowest", "highest", "last", "rounds failed"], rows),
    }


def _parity(run: RunFolder, data: RunData) -> list[dict[str, Any]]:
    """Plots and errors of each split."""
    if data.dataset is None:
        return []
    parts = []
    for title, indices in data.parts.items():
        predictions = predict(run.model, data.dataset, indices)
        errors, figure = predictions.errors(), parity(predictions)
        values = {c.label: errors[c.key] * c.factor for c in run.columns if c.key in errors}
        images = [
            Image(png, f"predicted against reference, {title}, {axes.get_xlabel()}")
            for png, axes in zip(panels(figure), figure.axes, strict=True)
            if not axes.get_title().startswith("MAE nan")  # nothing is labelled
        ]
        labelled = [(label, value) for label, value in values.items() if not math.isnan(value)]
        parts.append({"title": title, "count": len(indices), "images": images, "errors": labelled})
    return parts


def _results(
    run: RunFolder, command: str, kind: type[CheckRecord | ValidationRecord], others: Sequence[Path]
) -> list[dict[str, Any]]:
    inside = sorted(run.path.glob(f"*-{command}.json"))
    results = []
    for path in {p.resolve(): p for p in [*inside, *others]}.values():
        record, picture = kind.read(path), path.with_suffix(".png")
        image = Image(picture.read_bytes(), f"figure of {path.stem}") if picture.is_file() else None
        foreign = record.digest not in (None, run.metadata["sha256"])
        results.append({"name": path.name, "foreign": foreign, "table": Grid(*record.table), "image": image})
    return results


def _sources(run: RunFolder) -> list[tuple[str, object]]:
    """Files of the run's data, with a digest where it is one file."""
    pairs: list[tuple[str, object]] = []
    for name, label in (("source", "file"), ("test_source", "test file")):
        paths, digest = run.data.origin.get(name) or [], run.data.sha256.get(name)
        files = ", ".join(Path(path).name for path in listed(paths))
        if files:
            pairs.append((label, f"{files}, sha256 {digest}" if isinstance(digest, str) else files))
    return pairs


def _splits(data: RunData) -> Grid | None:
    if data.dataset is None:
        return None
    parts = dict(data.parts)
    if "Validation split" in parts:
        parts = {"Training split": data.dataset.split["train"], **parts}
    return Grid(*summary(data.dataset, parts))
