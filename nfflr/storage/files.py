"""Writing files so that they are whole or absent."""

from __future__ import annotations

import errno
import fcntl
import glob
import io
import json
import os
import socket
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ResourceError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COMPRESSIONS = {".gz", ".bz2", ".xz", ".zst"}


def stem(path: Path) -> str:
    """A file's name without its format and compression: ``si`` of ``runs/si.xyz.xz``."""
    name = Path(path.name)
    while name.suffix.lower() in COMPRESSIONS:
        name = name.with_suffix("")
    return name.stem


def write_atomically(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file under a temporary name, flush it to disk, and rename it into place.

    Args:
        path: the file; its folder must exist.
        content: its bytes.
        durable: wait until the disk has it. Without that a file is still whole or absent after a kill, but
            may be empty after a loss of power: only for what carries a digest and can be made again.

    Raises:
        ResourceError: the file cannot be written; nothing is left behind.
    """
    try:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        raise ResourceError(f"{path}: cannot be written ({error.strerror}); check the folder") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, which is renamed into place at the end and removed after an error."""
    temporary = temporary_name(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)  # there only if something, an interrupt too, came between


@contextmanager
def all_or_none(paths: Collection[Path]) -> Iterator[None]:
    """Files that belong together: if writing one fails, or is interrupted, the others go too."""
    try:
        yield
    except BaseException:
        for path in paths:
            with suppress(OSError):
                path.unlink(missing_ok=True)  # half a result would block the next run
        raise


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that no other process or thread uses."""
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")


def sweep(paths: Iterable[Path]) -> None:
    """Remove temporary files that killed writers of these files left; no process may be writing them."""
    for path in paths:
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            with suppress(OSError):
                leftover.unlink()


def write_json(path: Path, record: dict) -> None:
    """Write JSON with sorted keys: equal results give equal bytes."""
    text = json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, text.encode())


def write_figure(path: Path, figure: Figure) -> None:
    """Write a matplotlib figure as PNG."""
    write_atomically(path, figure_bytes(figure))


def figure_bytes(figure: Figure, dpi: int = 150) -> bytes:
    """A matplotlib figure as PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    return content.getvalue()


def claim_folder(folder: Path) -> None:
    """Make a folder and prove that a file can be created in it, before anything is computed.

    Raises:
        ResourceError: it cannot.
    """
    probe = temporary_name(folder / "probe")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ResourceError(
            f"{folder}: cannot be written ({error.strerror}); choose another folder"
        ) from error


FILE = ".lock"
TAKEN = {errno.EACCES, errno.EAGAIN}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the lock is released when the process ends, in whatever way.

    It is a POSIX record lock: processes forked from this one, which may outlive it, do not inherit it, and
    shared file systems carry it to other machines.

    Raises:
        ResourceError: another process holds the folder (it is named), or the lock cannot be written.
    """
    path = folder / FILE
    try:
        handle = _take(path)
    except OSError as error:
        if isinstance(error, ResourceError):
            raise
        raise ResourceError(f"{path}: cannot be written ({error.strerror}); check the folder") from error
    try:
        yield
    finally:
        if _is_named(handle, path):
            with suppress(OSError):
                path.unlink()  # before the lock goes: whoever opens the name from now on makes a new file
        os.close(handle)


def _take(path: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(handle, path)
            if _is_named(handle, path):  # the last holder may have removed it
                os.ftruncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(handle: int, path: Path) -> None:
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in TAKEN:
            return  # a file system without locks is no reason not to run
        holder = os.read(handle, 300).decode(errors="replace") or "another process"
        raise ResourceError(
            f"{path.parent}: in use by {holder}; wait until it ends, or choose another folder"
        ) from error


def _is_named(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
