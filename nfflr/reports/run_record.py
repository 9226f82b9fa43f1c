"""``run.json``: what a training run was asked for, on which data, with which libraries, for how long."""

from __future__ import annotations

import hashlib
import json
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from ..checkpoint import library_versions
from ..data.quality.label_checks import short_fingerprint
from ..errors import ConfigError
from ..storage.files import write_json
from ..train.config import TrainingConfig

FILE = "run.json"
MOST_FINGERPRINTS = 50_000  # structures; a megabyte of text


class RunRecord:
    """The record of a run in its folder; written when made, completed by ``finish``.

    A resume keeps the first start and command and counts itself; ``wall_time_s`` is that of the process that
    came to the end.

    Raises:
        ResourceError: it cannot be written.
    """

    def __init__(self, folder: Path, config: TrainingConfig, command: str | None, resume: bool):
        self.path, self.start = folder / FILE, time.perf_counter()
        model = config.model
        self.content: dict[str, object] = {
            "command": command,
            "settings": config.plain(),
            "model": config.described_model(),
            "parameters": sum(p.numel() for p in model.parameters()),
            "data": described_data(config.dataset),
            "versions": library_versions(),
            "started": _now(),
            "resumed": 0,
            "finished": None,
            "wall_time_s": None,
        }
        before = read_record(folder) if resume else None
        if before is not None:
            kept = {name: before.get(name) for name in ("started", "command")}
            self.content |= {**kept, "resumed": before.get("resumed", 0) + 1}
        write_json(self.path, self.content)

    def finish(self) -> None:
        """Say that the run came to its end."""
        self.content |= {"finished": _now(), "wall_time_s": time.perf_counter() - self.start}
        write_json(self.path, self.content)


def read_record(folder: Path) -> dict | None:
    """The record of a run, or None if there is none.

    Raises:
        ConfigError: it is no JSON object.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error}); delete it or restore it") from error
    if not isinstance(record, dict):
        raise ConfigError(f"{path}: expected a JSON object; delete it or restore it")
    return record


def described_data(dataset) -> dict:
    """Where data are from, their digests, and the sizes of their splits, as JSON."""
    origin = json.loads(json.dumps(dataset.origin, default=_plain))
    files = {name: origin[name] for name in ("source", "test_source") if origin[name]}
    return {
        "origin": origin,
        "sha256": {name: _digests(file) for name, file in files.items()},
        "structures": _fingerprints(dataset),
        "digest": dataset.digest(),
        "split": {name: len(indices) for name, indices in dataset.split.items()},
        "elements": list(dataset.elements),
    }


def _digests(files: str | list[str]) -> str | list[str | None] | None:
    return (
        [file_digest(Path(file)) for file in files] if isinstance(files, list) else file_digest(Path(files))
    )


def _fingerprints(dataset) -> dict[str, list[str]]:
    """Short fingerprints of the structures that training sees, by which they are known again."""
    if len(dataset) > MOST_FINGERPRINTS:
        return {}
    return {part: [short_fingerprint(record) for record in dataset.part(part)] for part in ("train", "val")}


def file_digest(path: Path) -> str | None:
    """SHA-256 of a file; None for a folder or a name that is no file."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(value):
    return value.item() if isinstance(value, np.generic) else repr(value)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
