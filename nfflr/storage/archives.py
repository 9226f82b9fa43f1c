"""Archives, in which long workflows keep finished steps so that a killed run can be continued."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile

import ase
import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.io.trajectory import Trajectory, TrajectoryReader
from ase.io.ulm import InvalidULMFileError
from pydantic import BaseModel

from ..errors import ConfigError, ResourceError
from .files import claim_folder, replacing, write_atomically


class WithoutNumber:
    """A file that keeps its number to itself, so that ASE does not use numpy's ``tofile`` and ``fromfile``.

    These ask whether they were given a path. An interrupt that comes in this moment is lost, and a TypeError
    comes in its place.
    """

    def __init__(self, file: IO[bytes]):
        self._file = file

    def __getattr__(self, name: str) -> Any:
        if name == "fileno":
            raise AttributeError(name)
        return getattr(self._file, name)


class FrameWriter:
    """Appends frames to a file, which is made with the first.

    Raises:
        ResourceError: a frame cannot be written; those before it are whole.
    """

    def __init__(self, path: Path, mode: str = "a"):
        self.path = path
        with self._naming_the_file():
            self._trajectory = Trajectory(path, mode)
        backend = self._trajectory.backend
        self._file = backend.fd
        backend.fd, backend.hasfileno = WithoutNumber(self._file), False

    def write(self, frame: ase.Atoms) -> None:
        with self._naming_the_file():
            self._trajectory.write(frame)

    def flush(self) -> None:
        """Wait until the disk has the frames."""
        with self._naming_the_file():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file. ASE would complete a frame that an error or an interrupt broke off."""
        with suppress(OSError):  # whole frames have left the buffer
            self._file.close()

    @contextmanager
    def _naming_the_file(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _unwritable(self.path, error) from error


@contextmanager
def reading(path: Path) -> Iterator[TrajectoryReader]:
    """A trajectory file, open for reading."""
    with open(path, "rb") as file, Trajectory(WithoutNumber(file)) as reader:
        yield reader


def write_trajectory(path: Path, frames: Iterable[ase.Atoms]) -> None:
    """Write frames under a temporary name, one in memory at a time, and rename the file into place.

    Raises:
        ResourceError: the file cannot be written; nothing is left behind.
    """
    try:
        with replacing(path) as temporary:
            writer = FrameWriter(temporary, "w")
            try:
                for frame in frames:
                    writer.write(frame)
                writer.flush()
            finally:
                writer.close()
    except OSError as error:
        raise _unwritable(path, error) from error


class StoredFrames(Sequence):
    """Frames of a trajectory file, read one at a time; none if there is no file."""

    def __init__(self, path: Path):
        self._path = path
        self._count = 0
        if path.exists():
            # A process may have been killed before the first frame was whole.
            with suppress(InvalidULMFileError, ValueError, IndexError), reading(path) as reader:
                self._count = len(reader)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        with reading(self._path) as reader:
            return reader[index % len(self)]

    def __iter__(self) -> Iterator[ase.Atoms]:
        if len(self):
            with reading(self._path) as reader:  # once for all frames
                yield from (reader[k] for k in range(len(self)))


def _unwritable(path: Path, error: OSError) -> ResourceError:
    cause = error.__cause__ if isinstance(error, ResourceError) else None
    reason = cause if isinstance(cause, OSError) else error
    return ResourceError(f"{path}: cannot be written ({reason.strerror or reason}); check the disk")


Record = dict[str, np.ndarray]


class Archive:
    """The default archive, which ends with the process: it keeps frames in memory and no records."""

    def __init__(self) -> None:
        self._frames: list[ase.Atoms] = []

    def load(self, name: str) -> Record | None:
        """The record last saved under a name; None if there is none."""
        return None

    def save(self, name: str, record: Record) -> None:
        """Keep named arrays, in place of an earlier record of that name."""

    def append(self, frame: ase.Atoms) -> None:
        """Add a frame, with the results its calculator holds, to the trajectory."""
        self._frames.append(frame)

    def truncate(self, n_frames: int) -> None:
        """Forget the frames after the first ``n_frames``."""
        del self._frames[n_frames:]

    def frames(self) -> Sequence[ase.Atoms]:
        """The trajectory so far; from a folder its frames are read when they are asked for."""
        return self._frames


class FolderArchive(Archive):
    """Records and frames in a folder.

    Records are ``<name>.npz`` with a digest, replaced in one step and never pickled. Frames are in
    ``frames.traj``, in which ASE counts a frame when all of it is written. The folder is made if needed; a
    ResourceError says that it cannot be written.
    """

    def __init__(self, folder: str | Path):
        super().__init__()
        self.folder = Path(folder)
        claim_folder(self.folder)
        self._path = self.folder / "frames.traj"
        self._writer: FrameWriter | None = None

    def load(self, name: str) -> Record | None:
        """As ``Archive.load``.

        Raises:
            ResourceError: the record is damaged.
        """
        path = self.folder / f"{name}.npz"
        if not path.exists():
            return None
        try:
            with open(path, "rb") as content, np.load(content, allow_pickle=False) as file:
                record = dict(file)
            digest = str(record.pop("sha256"))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise _damaged(path) from error
        if digest != _digest(record):
            raise _damaged(path)
        return record

    def save(self, name: str, record: Record) -> None:
        if self._writer is not None:  # a record may count frames: they reach the disk first
            self._writer.flush()
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **record, sha256=np.array(_digest(record)))
        write_atomically(self.folder / f"{name}.npz", content.getvalue())

    def append(self, frame: ase.Atoms) -> None:
        if self._writer is None:
            self._writer = FrameWriter(self._path)
        self._writer.write(frame)

    def truncate(self, n_frames: int) -> None:
        """As ``Archive.truncate``; also removes leftovers of a killed writer.

        Raises:
            ResourceError: there are fewer frames than that.
        """
        self.close()
        frames = StoredFrames(self._path)
        if len(frames) < n_frames:
            raise _damaged(self._path)
        if n_frames:
            write_trajectory(self._path, islice(frames, n_frames))
        else:
            self._path.unlink(missing_ok=True)

    def frames(self) -> Sequence[ase.Atoms]:
        return StoredFrames(self._path)

    def is_new(self) -> bool:
        """Whether the folder holds no frame, and no record except ``run``."""
        names = {"run.npz", self._path.name}
        return not self.frames() and all(p.name in names or p.name[0] == "." for p in self.folder.iterdir())

    def close(self) -> None:
        """Close the trajectory; the next frame opens it again."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def keep_records(self) -> None:
        """Delete the frames, which the results hold now, and leftovers of killed processes; records stay."""
        self.close()
        for path in self.folder.iterdir():
            if path.suffix == ".tmp" or path == self._path:
                path.unlink(missing_ok=True)

    def is_finished(self) -> bool:
        """Whether the run has ended: its record is here, and its frames are among the results."""
        return (self.folder / "run.npz").exists() and not self._path.exists()

    def reopen(self, trajectory: Path) -> None:
        """Take the frames of a finished run back from its results."""
        if self.is_finished() and self.load("state") is not None and trajectory.exists():
            write_trajectory(self._path, StoredFrames(trajectory))

    def remove(self) -> None:
        """Delete the folder, once the results are written elsewhere."""
        self.close()
        shutil.rmtree(self.folder)


class Remembered(Calculator):
    """A calculator that does not compute again what the frames of an interrupted run hold.

    The frames have results and stand in the order of the run. After every ``interval`` structures the
    calculator is reset: it forgets its neighbour list, whose age changes the last bits of sums. A run that is
    continued after a whole number of intervals thus gets the same bits as one without a break.
    """

    def __init__(self, calculator: Calculator, frames: Sequence[ase.Atoms], interval: int):
        super().__init__()
        self.implemented_properties = calculator.implemented_properties
        self._calculator, self._frames, self._interval = calculator, frames, interval
        self._count = 0

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        assert atoms is not None  # ASE asks for those of a structure
        if system_changes:
            self._count += 1
            for frame in self._frames[self._count - 1 : self._count]:
                same_cell = np.array_equal(frame.cell, atoms.cell)
                if same_cell and np.array_equal(frame.positions, atoms.positions):
                    self.results = dict(frame.calc.results)
                    return
            if (self._count - 1) % self._interval == 0:
                self._calculator.reset()
        for name in properties:
            self._calculator.get_property(name, atoms)
        self.results = dict(self._calculator.results)


def same_run(
    archive: Archive,
    atoms: ase.Atoms,
    calculator: Calculator,
    settings: BaseModel,
    may_grow: tuple[str, ...] = (),
) -> None:
    """Store what identifies a run, or check that this run continues the stored one.

    Raises:
        ConfigError: the structure, the calculator or a setting has changed, and not by growth of a setting in
            ``may_grow``.
    """
    model = {"class": type(calculator).__name__, **description_of(calculator)}
    model.pop("source", None)  # the file of the same model may be another one
    now = {
        "numbers": atoms.numbers,
        "positions": atoms.positions,
        "cell": atoms.cell.array,
        "pbc": atoms.pbc,
        "masses": atoms.get_masses(),
        "momenta": atoms.get_momenta(),
        "constraints": np.array(json.dumps([c.todict() for c in atoms.constraints], default=_plain)),
        "calculator": np.array(json.dumps(model, sort_keys=True)),
        "settings": np.array(settings.model_dump_json()),
    }
    before = archive.load("run")
    if before is not None:
        _compare(before, now, may_grow)
    archive.save("run", now)


def description_of(calculator: Calculator) -> dict[str, Any]:
    """The description that a calculator gives by ``todict``, in types that JSON has."""
    model = calculator.todict() if hasattr(calculator, "todict") else {}
    return json.loads(json.dumps(model, default=_plain))


def _compare(before: Record, now: Record, may_grow: tuple[str, ...]) -> None:
    advice = "give what the run began with, or start again with --overwrite"
    for name in ("numbers", "positions", "cell", "pbc", "masses", "momenta", "constraints"):
        if not np.array_equal(before[name], now[name]):
            raise ConfigError(f"structure: its {name} are not those of the run to resume; {advice}")
    for kind in ("calculator", "settings"):
        old, new = json.loads(str(before[kind])), json.loads(str(now[kind]))
        for key in sorted({*old, *new}):
            was, is_now = old.get(key), new.get(key)
            if was != is_now and not (key in may_grow and is_now >= was):
                what = f"--{key.replace('_', '-')}" if kind == "settings" else f"calculator's {key}"
                raise ConfigError(f"{what}: is {is_now}, the run to resume had {was}; {advice}")


def _plain(value: object) -> Any:  # in types that JSON has
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def _digest(record: Record) -> str:
    digest = hashlib.sha256()
    for name in sorted(record):
        array = np.ascontiguousarray(record[name])
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _damaged(path: Path) -> ResourceError:
    return ResourceError(f"{path}: damaged, cannot be resumed from; start again with --overwrite")
