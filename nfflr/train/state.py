"""Training state on disk: folders ``step-<n>/`` that are whole or absent, never pickled."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

import torch

from ..checkpoint import pack, unpack
from ..errors import CheckpointError, ResourceError

FORMAT = "nfflr-state"
KEEP = 2


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
    """Remove what a save that was killed left beside ``step``: a half-written state, or an old one too many.

    Raises:
        ResourceError: it cannot be removed.
    """
    try:
        _sweep(root, step)
    except OSError as error:
        raise ResourceError(f"{root}: cannot be written ({error.strerror}); check the disk") from error


def _sweep(root: Path, step: int) -> None:
    known = [folder for folder in states(root) if _number(folder) <= step]  # a later one is damaged
    for leftover in [*root.glob(".step-*.tmp"), *known[:-KEEP]]:
        shutil.rmtree(leftover)


def clear_states(root: Path) -> None:
    """Remove the states below ``root``, and nothing else that may lie there."""
    for folder in [*states(root), *root.glob(".step-*.tmp")]:
        shutil.rmtree(folder)


def states(root: Path) -> list[Path]:
    """Folders ``step-<n>`` by ascending n."""
    found = [p for p in root.glob("step-*") if p.name.removeprefix("step-").isdigit()]
    return sorted(found, key=_number)


def _number(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def read_state(folder: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Tensors and metadata of one state.

    Raises:
        CheckpointError: it is damaged.
    """
    file = folder / "state.safetensors"
    if not file.is_file():
        raise CheckpointError(f"{file}: missing; the state is incomplete")
    return unpack(file.read_bytes(), str(file), FORMAT)


def newest_state(root: Path) -> tuple[dict[str, torch.Tensor], dict] | None:
    """The newest state that verifies, or None if there is no state.

    Raises:
        CheckpointError: there are states, and none verifies; says why of the newest.
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
