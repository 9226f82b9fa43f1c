"""What a training run writes about itself: ``run.json``, ``metrics.csv``, and event files for TensorBoard."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, Field, PrivateAttr

from ..errors import ConfigError
from ..quantities import Quantity
from ..storage.files import write_atomically
from ..storage.sealed import Record

FILE, METRICS = "run.json", "metrics.csv"
Row = dict[str, float]
Log = Callable[[Row, int], None]


class DataRecord(BaseModel):
    """The data of a run: arguments, digests of files, fingerprints of structures, sizes of splits."""

    origin: dict[str, Any] = Field(default_factory=dict)
    sha256: dict[str, str | list[str | None] | None] = Field(default_factory=dict)
    structures: dict[str, list[str]] = Field(default_factory=dict)
    digest: str | None = None
    split: dict[str, int] = Field(default_factory=dict)
    elements: list[str] = Field(default_factory=list)


class RunRecord(Record):
    """``run.json``: settings, data, libraries and time of a run.

    A resume keeps the first start and command and counts itself; ``wall_time_s`` is that of the last process.
    """

    kind: ClassVar[str] = "the run.json of nff train"

    command: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    model: dict[str, Any] = Field(default_factory=dict)
    parameters: int | None = None
    data: DataRecord = Field(default_factory=DataRecord)
    versions: dict[str, str] = Field(default_factory=dict)
    started: str | None = None
    resumed: int = 0
    finished: str | None = None
    wall_time_s: float | None = None
    _start: float = PrivateAttr(default_factory=time.perf_counter)

    @classmethod
    def begin(cls, folder: Path, command: str | None, resume: bool, **asked: Any) -> Self:
        """Write the record of a run that begins, or goes on, in a folder; ``asked`` are the other fields."""
        before = read_record(folder) if resume else None
        record = cls(
            command=command if before is None else before.command,
            started=_now() if before is None else before.started,
            resumed=0 if before is None else before.resumed + 1,
            **asked,
        )
        record.write(folder / FILE)
        return record

    def finish(self, folder: Path) -> None:
        """Write that the run came to its end."""
        seconds = time.perf_counter() - self._start
        self.model_copy(update={"finished": _now(), "wall_time_s": seconds}).write(folder / FILE)


def read_record(folder: Path) -> RunRecord | None:
    """The record of the run in a folder, None if there is none; ConfigError for another file."""
    return RunRecord.read(folder / FILE) if (folder / FILE).is_file() else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Column:
    """A metric as people read it: ``value · factor`` in ``unit``."""

    key: str
    title: str
    unit: str = ""
    factor: float = 1.0
    panel: bool = True  # whether it has a place in the learning curve

    @property
    def label(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title


def columns_of(quantities: Iterable[Quantity]) -> tuple[Column, ...]:
    """Accuracy of a class; MAE and RMSE of anything else."""
    columns = []
    for q in quantities:
        if q.classes is not None:
            columns.append(Column(f"{q.key}_accuracy", f"{q.title} accuracy", "%", 100.0))
            continue
        unit, factor = q.error_display
        columns.append(Column(f"{q.key}_mae", f"{q.title} MAE", unit, factor))
        columns.append(Column(f"{q.key}_rmse", f"{q.title} RMSE", unit, factor, panel=False))
    return tuple(columns)


def write_metrics(folder: Path, history: list[Row]) -> None:
    """Write ``metrics.csv`` in eV/atom, eV/Å and eV/Å³; a cell is empty where nothing was measured."""
    text = io.StringIO()
    first = ["epoch", "step"]
    names = [*first, *sorted({name for row in history for name in row} - set(first))]
    writer = csv.DictWriter(text, fieldnames=names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_atomically(folder / METRICS, text.getvalue().encode())


def read_metrics(path: Path) -> list[Row]:
    """Rows of ``metrics.csv``, NaN where a cell is empty; ConfigError if there are none."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [{k: float(v) if v else math.nan for k, v in r.items()} for r in csv.DictReader(file)]
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not the metrics of a run ({error}); restore it") from error
    if not rows or not {"epoch", "train/loss", "val/loss"} <= rows[0].keys():
        raise ConfigError(f"{path}: holds no validation with epoch, train/loss and val/loss; restore it")
    return rows


@contextmanager
def event_log(folder: Path, enabled: bool, begin: int = 0) -> Iterator[Log]:
    """``log(numbers, step)`` that writes event files to ``folder``, or nothing if they are not ``enabled``.

    Steps after ``begin`` that a run which is resumed wrote before do not count.

    Raises:
        ConfigError: the package that writes them is missing.
    """
    if not enabled:
        yield lambda numbers, step: None
        return
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ConfigError('tensorboard: needs a package; pip install "nfflr[tensorboard]"') from error
    with SummaryWriter(str(folder), purge_step=begin + 1 if begin else None) as writer:

        def log(numbers: Row, step: int) -> None:
            for name, value in numbers.items():
                if name not in ("epoch", "step"):
                    writer.add_scalar(name, value, step)

        yield log


Table = tuple[list[str], list[list[object]]]


class Origin(BaseModel):
    """The checkpoint that a result is about."""

    digest: str | None = None


class Check(BaseModel):
    """One line of ``nff check``."""

    name: str
    status: str
    value: float | None = None
    unit: str = ""
    limit: float | None = None
    at_least: bool = False
    message: str = ""


class CheckRecord(Record):
    """The JSON of ``nff check``."""

    kind: ClassVar[str] = "a result of nff check"

    version: int = 2
    calculator: Origin = Origin()
    checks: list[Check] = Field(min_length=1)

    @property
    def digest(self) -> str | None:
        """The digest of the checkpoint, if it is known."""
        return self.calculator.digest

    @property
    def table(self) -> Table:
        """Headers, and a row for each check: its verdict, and its limit with the side it is on."""
        rows: list[list[object]] = []
        for check in self.checks:
            bound = None if check.limit is None else f"{'≥' if check.at_least else '≤'} {check.limit:g}"
            rows.append([check.name, check.status, check.value, bound, check.unit, check.message])
        return ["name", "status", "value", "limit", "unit", "message"], rows


class TaskScores(BaseModel):
    """One task of ``nff validate``; a score that could not be computed is None."""

    status: str = "scored"
    scores: dict[str, float | None] = Field(default_factory=dict)
    limits: dict[str, float] = Field(default_factory=dict)
    units: dict[str, str] = Field(default_factory=dict)
    message: str = ""


class ValidationRecord(Record):
    """The JSON of ``nff validate``."""

    kind: ClassVar[str] = "a result of nff validate"

    checkpoint: Origin = Origin()
    tasks: dict[str, TaskScores] = Field(min_length=1)

    @property
    def digest(self) -> str | None:
        """The digest of the checkpoint, if it is known."""
        return self.checkpoint.digest

    @property
    def table(self) -> Table:
        """Headers, and a row for each score; a task without scores has one row."""
        rows: list[list[object]] = []
        for name, task in self.tasks.items():
            for score, value in task.scores.items() or [(None, None)]:
                limit, unit = task.limits.get(str(score)), task.units.get(str(score))
                rows.append([name, task.status, score, value, limit, unit, task.message])
        return ["task", "status", "score", "value", "limit", "unit", "message"], rows
