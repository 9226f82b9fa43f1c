"""ASE trajectories, in which a frame counts when all of it is written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import ase
from ase.io.trajectory import Trajectory
from ase.io.ulm import InvalidULMFileError

from ..errors import ResourceError
from .files import temporary_name


class FrameWriter:
    """Appends frames to a file, which is made with the first.

    Raises:
        ResourceError: a frame cannot be written; those before it are whole.
    """

    def __init__(self, path: Path, mode: str = "a"):
        self.path = path
        try:
            self._trajectory = Trajectory(path, mode)
        except OSError as error:
            raise _unwritable(path, error) from error

    def write(self, frame: ase.Atoms) -> None:
        try:
            self._trajectory.write(frame)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def flush(self) -> None:
        """Wait until the disk has the frames."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def close(self) -> None:
        """Close the file. ASE would complete a frame that an error or an interrupt broke off."""
        with suppress(OSError):  # whole frames have left the buffer
            self._file.close()

    @property
    def _file(self):
        return self._trajectory.backend.fd


def write_trajectory(path: Path, frames: Iterable[ase.Atoms]) -> None:
    """Write frames under a temporary name, one in memory at a time, and rename the file into place.

    Raises:
        ResourceError: the file cannot be written; nothing is left behind.
    """
    temporary = temporary_name(path)
    try:
        writer = FrameWriter(temporary, "w")
        try:
            for frame in frames:
                writer.write(frame)
            writer.flush()
        finally:
            writer.close()
        os.replace(temporary, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


class StoredFrames(Sequence):
    """Frames of a trajectory file, read one at a time; none if there is no file."""

    def __init__(self, path: Path):
        self._path = path
        self._count = 0
        if path.exists():
            try:
                with Trajectory(path) as reader:
                    self._count = len(reader)
            except (InvalidULMFileError, ValueError, IndexError):  # killed before the first frame was whole
                self._count = 0

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        with Trajectory(self._path) as reader:
            return reader[index % len(self)]

    def __iter__(self) -> Iterator[ase.Atoms]:
        if not len(self):
            return
        with Trajectory(self._path) as reader:
            for k in range(len(self)):
                yield reader[k]


def _unwritable(path: Path, error: OSError) -> ResourceError:
    cause = error.__cause__ if isinstance(error, ResourceError) else None
    reason = cause if isinstance(cause, OSError) else error
    return ResourceError(f"{path}: cannot be written ({reason.strerror or reason}); check the disk")
