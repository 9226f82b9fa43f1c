"""Trajectories, written frame by frame."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import ase
from ase.io.trajectory import Trajectory

from ..errors import ResourceError


def write_trajectory(path: Path, frames: Iterable[ase.Atoms]) -> None:
    """Write frames under a temporary name, one in memory at a time, and rename the file into place.

    Raises:
        ResourceError: the file cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with Trajectory(temporary, "w") as writer:
            for frame in frames:
                writer.write(frame)
            writer.backend.fd.flush()
            os.fsync(writer.backend.fd.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise ResourceError(f"{path}: cannot be written ({error.strerror}); check the folder") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
