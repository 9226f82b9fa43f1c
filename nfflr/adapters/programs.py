"""Files that hold a model with its code: TorchScript archives, and ``torch.export`` programs (``.pt2``)."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import torch
from torch import nn

from ..errors import CheckpointError


def is_program(source: str | Path) -> bool:
    """Whether a file is such an archive, by its contents; pickled weights alone are none."""
    return _kind(Path(source)) is not None


def load_program(path: str | Path, trust: bool) -> tuple[nn.Module, str]:
    """The module of an archive, on the CPU, and the SHA-256 of the file.

    A TorchScript archive is unpickled by torch's restricted reader, but it is a program, and its operators
    read and write files; ``torch.export.load`` unpickles parts of the file, which may run any Python.

    Raises:
        CheckpointError: it is not trusted, or is damaged.
    """
    path = Path(path)
    kind = _kind(path)
    if not trust:
        raise CheckpointError(
            f"{path}: holds a program ({kind}), which could do anything on this machine; "
            "if you know who made it, give trust=True, or --trust"
        )
    try:
        content = path.read_bytes()
        if kind == "TorchScript":
            module = torch.jit.load(io.BytesIO(content), map_location="cpu")
        else:
            module = torch.export.load(io.BytesIO(content)).module()
    except Exception as error:  # of whatever an archive may hold
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise CheckpointError(f"{path}: {kind} that torch cannot load ({reason}); save it anew") from error
    return module, hashlib.sha256(content).hexdigest()


def _kind(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            parts = {name.partition("/")[2] for name in archive.namelist()}
    except (OSError, ValueError, zipfile.BadZipFile):
        return None
    if "archive_format" in parts and any(part.startswith("models/") for part in parts):
        return "torch.export"
    if "constants.pkl" in parts and any(part.startswith("code/") for part in parts):
        return "TorchScript"
    return None
