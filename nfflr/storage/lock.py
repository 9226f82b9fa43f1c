"""A lock on a folder, so that no two runs write into it."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import ResourceError

FILE = ".lock"
TAKEN = {errno.EACCES, errno.EAGAIN}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the lock goes when the process does, however that ends.

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
            if _is_named(handle, path):  # or the last holder removed it after it was opened here
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
