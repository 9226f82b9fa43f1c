"""Where a long workflow keeps what is finished, so that a killed run can be continued."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload
from zipfile import BadZipFile

import ase
import numpy as np
from ase.calculators.calculator import Calculator
from ase.io.trajectory import Trajectory, TrajectoryWriter
from ase.io.ulm import InvalidULMFileError
from pydantic import BaseModel

from ..errors import ConfigError, ResourceError
from ..files import claim_folder, write_atomically

Record = dict[str, np.ndarray]


class Archive:
    """The default: nothing outlives the process. Records are forgotten, frames stay in memory."""

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
    ``frames.traj``, in which ASE counts a frame when all of it is written.

    Args:
        folder: made if it is not there.

    Raises:
        ResourceError: the folder cannot be written.
    """

    def __init__(self, folder: str | Path):
        super().__init__()
        self.folder = Path(folder)
        claim_folder(self.folder)
        self._path = self.folder / "frames.traj"
        self._writer: TrajectoryWriter | None = None

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
            os.fsync(self._writer.backend.fd.fileno())
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **record, sha256=np.array(_digest(record)))
        write_atomically(self.folder / f"{name}.npz", content.getvalue())

    def append(self, frame: ase.Atoms) -> None:
        if self._writer is None:
            self._writer = Trajectory(self._path, "a")
        self._writer.write(frame)

    def truncate(self, n_frames: int) -> None:
        """As ``Archive.truncate``; also clears what a killed writer left behind.

        Raises:
            ResourceError: there are fewer frames than that.
        """
        self.close()
        frames = _StoredFrames(self._path)
        if len(frames) < n_frames:
            raise _damaged(self._path)
        copy = self._path.with_suffix(".tmp")
        with Trajectory(copy, "w") as writer:
            for k in range(n_frames):
                writer.write(frames[k])
        os.replace(copy, self._path)

    def frames(self) -> Sequence[ase.Atoms]:
        return _StoredFrames(self._path)

    def is_new(self) -> bool:
        """Whether there is no frame, and no record but that of what the run is."""
        return {path.name for path in self.folder.iterdir()} <= {
            "run.npz",
            self._path.name,
        } and not self.frames()

    def close(self) -> None:
        """Close the trajectory; the next frame opens it again."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def remove(self) -> None:
        """Delete the folder, once the results are written elsewhere."""
        self.close()
        shutil.rmtree(self.folder)


class _StoredFrames(Sequence[ase.Atoms]):
    """Frames of a trajectory file, read one at a time."""

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

    @overload
    def __getitem__(self, index: int) -> ase.Atoms: ...

    @overload
    def __getitem__(self, index: slice) -> list[ase.Atoms]: ...

    def __getitem__(self, index: int | slice) -> ase.Atoms | list[ase.Atoms]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        with Trajectory(self._path) as reader:
            frame: ase.Atoms = reader[index % len(self)]
        return frame

    def __iter__(self) -> Iterator[ase.Atoms]:
        if not len(self):
            return
        with Trajectory(self._path) as reader:
            for k in range(len(self)):
                yield reader[k]


def same_run(
    archive: Archive,
    atoms: ase.Atoms,
    calculator: Calculator,
    settings: BaseModel,
    may_grow: tuple[str, ...] = (),
) -> None:
    """Note what an archive's run is, or see that this one continues it.

    Args:
        may_grow: settings that may be larger than they were.

    Raises:
        ConfigError: the structure, the calculator or a setting is not what it was.
    """
    now = _identity(atoms, calculator, settings)
    before = archive.load("run")
    if before is not None:
        _compare(before, now, may_grow)
    archive.save("run", now)


def _identity(atoms: ase.Atoms, calculator: Calculator, settings: BaseModel) -> Record:
    model = calculator.todict() if hasattr(calculator, "todict") else {}
    # Where a model was read from may change; what it is may not.
    model = {"class": type(calculator).__name__, **{k: v for k, v in model.items() if k != "source"}}
    return {
        "numbers": atoms.numbers,
        "positions": atoms.positions,
        "cell": atoms.cell.array,
        "pbc": atoms.pbc,
        "masses": atoms.get_masses(),
        "momenta": atoms.get_momenta(),
        "constraints": np.array(json.dumps([c.todict() for c in atoms.constraints], default=_plain)),
        "calculator": np.array(json.dumps(model, sort_keys=True, default=_plain)),
        "settings": np.array(settings.model_dump_json()),
    }


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


def _plain(value: object) -> Any:  # what JSON takes
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
