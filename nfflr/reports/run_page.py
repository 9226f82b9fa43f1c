"""The page of a training run: what its folder holds, as sections."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..checkpoint import FILE, find_run, load_checkpoint
from ..errors import ConfigError
from ..models.base import Potential
from ..quantities import LABELLED, Quantity, from_description
from ..structures.kinds import kind_of
from ..train.evaluation import higher_is_better
from ..train.state import states
from .columns import Column, columns_of
from .curves import learning_curve
from .metrics_table import digest_of, read_json, table_of
from .page import Code, Facts, Grid, Heading, Image, Images, Pairs, Piece, Section, Text, page, panels
from .run_predictions import RunData, predicted, run_data, summary
from .run_record import read_record

METRICS, STATE = "metrics.csv", "state"
COVERAGE = "val/tasks/coverage"
CITATION = "NFFLr: neural force fields, MIT licence. Cite the architecture's paper and the data's."


@dataclass(frozen=True)
class RunFolder:
    """What was read from the folder of a run."""

    path: Path
    model: Potential
    metadata: dict
    record: dict
    history: list[dict[str, float]]

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


def read_run(folder: Path) -> RunFolder:
    """Read the folder of a run, or the run in a folder (see ``nfflr.checkpoint.find_run``).

    Raises:
        ConfigError: it is none.
        CheckpointError: its checkpoint is damaged.
    """
    if folder.is_file():
        raise ConfigError(f"{folder}: is {kind_of(folder) or 'a file'}; give the output folder of nff train")
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give the output folder of nff train")
    folder = find_run(folder)
    if not (folder / FILE).is_file() and states(folder / STATE):
        raise ConfigError(f"{folder}: the run has not been validated yet; wait for {FILE}, or resume it")
    for name in (FILE, METRICS):
        if not (folder / name).is_file():
            raise ConfigError(f"{folder}: not a run of nff train (it has no {name}); give its output folder")
    model, metadata = load_checkpoint(folder / FILE)
    return RunFolder(folder, model, metadata, read_record(folder) or {}, read_metrics(folder / METRICS))


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Rows of ``metrics.csv``; NaN where a cell is empty.

    Raises:
        ConfigError: it has no row, or a cell is no number.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [{k: float(v) if v else math.nan for k, v in r.items()} for r in csv.DictReader(file)]
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not the metrics of a run ({error}); restore it") from error
    if not rows or not {"epoch", "train/loss", "val/loss"} <= rows[0].keys():
        raise ConfigError(f"{path}: holds no validation with epoch, train/loss and val/loss; restore it")
    return rows


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
    found = run_data(run.metadata, run.record, data)
    sections = [
        Section("learning", "Learning curves", _learning(run)),
        Section("parity", "Predicted against reference", _parity(run, found)),
        Section("tasks", "Physics during training", _tasks(run)),
        Section("check", "Check", _results(run, "check", checks)),
        Section("validation", "Validation", _results(run, "validate", validations)),
        Section("data", "Data", _data(run, found)),
        Section("model", "Model card", _model(run)),
        Section("settings", "Training settings", _settings(run)),
        Section("origin", "How it was made", _origin(run)),
        Section("licence", "Licence and citation", _licence(run)),
    ]
    return page(f"Training run: {folder.resolve().name}", _lead(run), sections)


def _lead(run: RunFolder) -> list[Piece]:
    scores, metadata = run.metadata["scores"], run.metadata
    told = [(c.label, scores[f"val/{c.key}"] * c.factor) for c in run.columns if f"val/{c.key}" in scores]
    shown = [(label, value) for (label, value) in told if "RMSE" not in label]
    best, last = scores.get("epoch"), run.history[-1]["epoch"]
    epochs = "" if best is None else f", weights of epoch {best:.0f} of {last:.0f}"
    elements = ", ".join(metadata["elements"])
    return [
        Text(f"{metadata['architecture']} for {elements}{epochs}. Errors on the validation split:"),
        Facts([*shown, ("parameters", _parameters(run))]),
    ]


def _learning(run: RunFolder) -> list[Piece]:
    told = run.history[0].keys()
    columns = [c for c in run.columns if f"val/{c.key}" in told and _known(run.history, f"val/{c.key}")]
    images = panels(learning_curve(run.history, columns))
    labels = ["loss", *(c.label for c in columns if c.panel)]
    figures = [Image(i, f"{label} against epoch") for i, label in zip(images, labels, strict=True)]
    names = [("train/loss", "training loss", 1.0), ("val/loss", "validation loss", 1.0)]
    names += [(f"val/{c.key}", c.label, c.factor) for c in columns]
    rows = [[label, *_first_best_last(run.history, key, factor)] for key, label, factor in names]
    return [
        Text("Loss of training (orange) and validation (blue), then the errors on the validation split."),
        Images(figures),
        Grid(["metric", "first", "best", "at epoch", "last"], rows),
    ]


def _tasks(run: RunFolder) -> list[Piece]:
    known = [name for name in run.tasks if _known(run.history, name)]
    if not known:
        return [Text("No validation task ran during this training.", muted=True)]
    figures, rows = [], []
    for name in known:
        task, _, score = name.removeprefix("val/").rpartition("/")
        if score == "failed" or task == "tasks":
            continue
        history = [row for row in run.history if math.isfinite(row[name])]
        values = [row[name] for row in history]
        if min(values) < max(values):
            title = f"{task}/{score}".replace("$", r"\$")
            curve = panels(learning_curve(history, [Column(f"{task}/{score}", title)]))[1]
            figures.append(Image(curve, f"{task}/{score} against epoch"))
        failures = sum(row.get(f"val/{task}/failed") == 1 for row in run.history)
        rows.append([f"{task}/{score}", values[0], min(values), max(values), values[-1], failures])
    header = ["task/score", "first", "lowest", "highest", "last", "rounds failed"]
    return [*_coverage(run), Images(figures), Grid(header, rows)]


def _coverage(run: RunFolder) -> list[Piece]:
    rounds = [row[COVERAGE] for row in run.history if math.isfinite(row.get(COVERAGE, math.nan))]
    if not rounds:
        return []
    told = f"{len(rounds)} rounds; {np.mean(rounds):.0%} of the tasks were scored, not failed or skipped."
    return [Text(f"{told} Scores are errors: zero is perfect. What did not change has no curve.")]


def _known(history: list[dict[str, float]], key: str) -> bool:
    return any(math.isfinite(row[key]) for row in history)


def _first_best_last(history: list[dict[str, float]], key: str, factor: float) -> list[object]:
    rows = [row for row in history if math.isfinite(row[key])]
    if not rows:
        return [None] * 4
    best = (max if higher_is_better(key) else min)(rows, key=lambda row: row[key])
    first, last = rows[0][key] * factor, rows[-1][key] * factor
    return [first, best[key] * factor, int(best["epoch"]), last]


def _parity(run: RunFolder, found: RunData) -> list[Piece]:
    if found.dataset is None:
        return [Text(found.said, muted=True)]
    legend = "Colours are the data's groups of structures, named in the first plot of a row."
    pieces: list[Piece] = [Text(f"{found.said} {legend}", muted=True)]
    for title, indices in found.parts.items():
        errors, figure = predicted(run.model, found.dataset, indices, "")
        told = [(c.label, errors[c.key] * c.factor) for c in run.columns if c.key in errors]
        images = [
            Image(png, f"predicted against reference, {title}, {axes.get_xlabel()}")
            for png, axes in zip(panels(figure), figure.axes, strict=True)
            if not axes.get_title().startswith("MAE nan")  # nothing is labelled
        ]
        pieces += [Heading(f"{title}: {len(indices)} structures"), Images(images)]
        pieces.append(Pairs([(label, value) for label, value in told if not math.isnan(value)]))
    return pieces


def _results(run: RunFolder, command: str, given: Sequence[Path]) -> list[Piece]:
    inside = sorted(run.path.glob(f"*-{command}.json"))
    paths = list({p.resolve(): p for p in [*inside, *given]}.values())
    if not paths:
        suite = " SUITE" if command == "validate" else ""
        advice = f"nff {command} {run.path.name}{suite} --out {run.path.name}"
        return [Text(f"Nothing yet: {advice} puts its result into the run's folder.", muted=True)]
    pieces: list[Piece] = []
    for path in paths:
        record = read_json(path)
        pieces.append(Heading(path.name))
        digest = digest_of(record)
        if digest not in (None, run.metadata["sha256"]):
            pieces.append(Text("This result is of another checkpoint than the run's."))
        pieces.append(Grid(*table_of(record)))
        picture = path.with_suffix(".png")
        if picture.is_file():
            pieces.append(Image(picture.read_bytes(), f"figure of {path.stem}", wide=True))
    return pieces


def _data(run: RunFolder, found: RunData) -> list[Piece]:
    known = run.record.get("data") or {}
    origin, digests = known.get("origin") or {}, known.get("sha256") or {}
    pairs: list[tuple[str, object]] = []
    for name, label in (("source", "file"), ("test_source", "test file")):
        if origin.get(name):
            several = isinstance(origin[name], list)
            files = [Path(file).name for file in (origin[name] if several else [origin[name]])]
            digest = "" if several else digests.get(name)
            pairs.append((label, ", ".join(files) + (f", sha256 {digest}" if digest else "")))
    split = known.get("split") or {}
    pairs += [(f"{name} structures", split[name]) for name in ("train", "val", "test") if name in split]
    if known.get("elements"):
        pairs.append(("elements", ", ".join(known["elements"])))
    pairs.append(("digest of structures, labels and split", run.metadata.get("data_digest")))
    if found.dataset is None:
        return [Pairs(pairs)]
    parts = found.parts
    if "Validation split" in parts:
        parts = {"Training split": found.dataset.split["train"], **parts}
    return [Pairs(pairs), Grid(*summary(found.dataset, parts))]


def _model(run: RunFolder) -> list[Piece]:
    metadata = run.metadata
    units = ", ".join(f"{k} {v}" for k, v in metadata.get("units", {}).items())
    pairs: list[tuple[str, object]] = [
        ("architecture", metadata["architecture"]),
        ("parameters", _parameters(run)),
        ("elements", ", ".join(metadata["elements"])),
        ("cutoff (Å)", metadata["cutoff"]),
        ("precision", metadata["dtype"]),
        ("units", units),
    ]
    if "stress_convention" in metadata:
        pairs.append(("stress", metadata["stress_convention"]))
    for name, target in (metadata.get("targets") or {}).items():
        pairs.append((f"predicts {name}", ", ".join(map(str, target.get("classes", ["number"])))))
    pairs.append(("sha256 of the checkpoint", metadata["sha256"]))
    pieces: list[Piece] = [
        Pairs(pairs),
        Heading("Hyper-parameters"),
        Pairs(_plain(metadata["hyperparameters"])),
    ]
    if "reference_energies" in metadata:
        references = [(f"{k} (eV)", f"{v:.6f}") for k, v in metadata["reference_energies"].items()]
        pieces += [Heading("Reference energies"), Pairs(references)]
    return pieces


def _parameters(run: RunFolder) -> int:
    return sum(p.numel() for p in run.model.parameters())


def _settings(run: RunFolder) -> list[Piece]:
    settings = run.record.get("settings")
    if not settings:
        return [Text("The run has no run.json, so its settings are not known.", muted=True)]
    return [Pairs(_plain(settings))]


def _plain(settings: dict) -> list[tuple[str, object]]:
    told = {k: ", ".join(map(str, v)) if isinstance(v, list) else v for k, v in settings.items()}
    return [(k, None if v in ("", {}) else v) for k, v in told.items()]


def _origin(run: RunFolder) -> list[Piece]:
    record = run.record
    command = record.get("command")
    pieces: list[Piece] = [Code(command)] if command else [Text("The command is not recorded.", muted=True)]
    times = [("started", record.get("started")), ("finished", record.get("finished"))]
    times.append(("wall time (s), of the last start", record.get("wall_time_s")))
    times.append(("resumed", record.get("resumed") or None))
    versions = list(run.metadata["versions"].items())
    return [*pieces, Pairs([(k, v) for k, v in times if v is not None]), Heading("Versions"), Pairs(versions)]


def _licence(run: RunFolder) -> list[Piece]:
    notes = list(run.metadata["notes"].items())
    said: Piece = (
        Pairs(notes) if notes else Text("The config names neither licence nor citation (notes).", True)
    )
    return [said, Text(CITATION, muted=True)]
