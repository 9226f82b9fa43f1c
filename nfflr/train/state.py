"""Stop and resume: signals wait for the end of a step; states are folders ``step-<n>/``, whole or absent."""

from __future__ import annotations

import math
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from ..checkpoint import pack, unpack
from ..errors import CheckpointError, ResourceError
from ..storage.sealed import Record

FORMAT = "nfflr-state"
KEEP = 2
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StateRecord(Record):
    """The settings, data and progress of a run, beside the tensors of a state."""

    kind: ClassVar[str] = "a training state"

    version: int = 2
    settings: dict[str, Any]
    model: dict[str, Any]
    data_digest: str
    step: int
    epoch: int
    best: float | None
    stale: int
    loss_sum: float
    loss_count: int
    fall: int | None = None  # earlier states have none
    history: list[dict[str, int | float | None]]

    def stored(self) -> dict[str, Any]:
        """The metadata of a state; there ``version`` is that of the sealed file."""
        content = self.model_dump(mode="json")
        return {"state_version": content.pop("version"), **content}

    @classmethod
    def restored(cls, metadata: dict[str, Any]) -> Self:
        """The record in the metadata of a state, of whatever version."""
        return cls.from_content({**metadata, "version": metadata.get("state_version", 1)}, Path("state"))


def save_state(root: Path, step: int, tensors: dict[str, torch.Tensor], metadata: dict) -> None:
    """Write ``root/step-<step>``: temporary name, flush, rename, read again, then remove the oldest.

    Raises:
        ResourceError: it cannot be written; earlier states are untouched.
        CheckpointError: what was read back differs.
    """
    final, temporary = root / f"step-{step}", root / f".step-{step}.tmp"
    try:
        root.mkdir(parents=True, exist_ok=True)
        for leftover in root.glob(".step-*.tmp"):
            shutil.rmtree(leftover)
        temporary.mkdir()
        with open(temporary / "state.safetensors", "wb") as file:
            plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
            file.write(pack(plain, _finite(metadata), FORMAT))
            file.flush()
            os.fsync(file.fileno())
        if final.exists():  # a resume may reach a step again
            os.rename(final, root / f".step-{step}.old.tmp")
        os.replace(temporary, final)
        _flush_folder(root)
        read_state(final)
        _sweep(root, step)
    except OSError as error:
        if not final.exists() and (root / f".step-{step}.old.tmp").exists():
            os.rename(root / f".step-{step}.old.tmp", final)
        shutil.rmtree(temporary, ignore_errors=True)
        raise ResourceError(f"{final}: cannot be written ({error.strerror}); check the disk") from error


def _finite(value):
    """JSON has no NaN or infinity: null stands for them."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)  # makes the rename itself durable
    finally:
        os.close(handle)


def sweep_states(root: Path, step: int) -> None:
    """Remove what a killed save left beside ``step``: a half-written state, or an old one too many."""
    try:
        _sweep(root, step)
    except OSError as error:
        raise ResourceError(f"{root}: cannot be written ({error.strerror}); check the disk") from error


def _sweep(root: Path, step: int) -> None:
    whole = [folder for folder in states(root) if _number(folder) <= step]  # a later one is damaged
    for leftover in [*root.glob(".step-*.tmp"), *whole[:-KEEP]]:
        shutil.rmtree(leftover)


def clear_states(root: Path) -> None:
    """Remove the states below ``root``, and nothing else that may lie there."""
    for folder in [*states(root), *root.glob(".step-*.tmp")]:
        shutil.rmtree(folder)


def states(root: Path) -> list[Path]:
    """Folders ``step-<n>`` by ascending n."""
    folders = [p for p in root.glob("step-*") if p.name.removeprefix("step-").isdigit()]
    return sorted(folders, key=_number)


def _number(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def read_state(folder: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Read tensors and metadata of one state; CheckpointError if it is damaged."""
    file = folder / "state.safetensors"
    if not file.is_file():
        raise CheckpointError(f"{file}: missing; the state is incomplete")
    return unpack(file.read_bytes(), str(file), FORMAT)


def newest_state(root: Path) -> tuple[dict[str, torch.Tensor], dict] | None:
    """The newest state that verifies, or None if there is no state.

    Raises:
        CheckpointError: no state verifies; the message is that of the newest.
    """
    reason = None
    for folder in reversed(states(root)):
        try:
            return read_state(folder)
        except CheckpointError as error:
            reason = reason or error
    if reason is not None:
        raise reason
    return None


@contextmanager
def postponed_signals() -> Iterator[Callable[[], int | None]]:
    """Make SIGINT and SIGTERM wait; gives a function that returns the first that came, or None.

    The same signal once more acts at once. Other threads than the main one, and signals that are ignored, are
    left alone.
    """
    came: list[int] = []
    before: dict[int, Any] = {}  # handlers, as signal.signal returns them

    def note(signum: int, frame) -> None:
        if signum in came:
            signal.signal(signum, before[signum])
            signal.raise_signal(signum)
        came.append(signum)

    if threading.current_thread() is threading.main_thread():
        for signum in SIGNALS:
            if signal.getsignal(signum) not in (signal.SIG_IGN, None):
                before[signum] = signal.signal(signum, note)
    try:
        yield lambda: came[0] if came else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
