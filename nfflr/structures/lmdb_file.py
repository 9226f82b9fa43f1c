"""LMDB files opened for reading, once per process, by any number of processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ConfigError, StructureError

_environments: dict[str, tuple[tuple, Any]] = {}  # LMDB permits a file to be opened once per process


class LmdbFile:
    """A file that is opened when something of it is asked for. Goes to other processes by its path.

    Attributes:
        path: the file, resolved.
    """

    def __init__(self, path: Path):
        self.path = path.resolve()
        self.stamp = _stamp(self.path)

    def get(self, key: bytes) -> bytes | None:
        """What is stored by a key, or None.

        Raises:
            ConfigError: lmdb is not installed.
            StructureError: the file is damaged, truncated, of another kind, or was replaced meanwhile.
        """
        lmdb = import_lmdb(self.path)
        try:
            with self._environment().begin() as transaction:
                content: bytes | None = transaction.get(key)
                return content
        except lmdb.Error as error:
            raise StructureError(
                f"{self.path}: record {key!r} cannot be read ({error}); the file is damaged"
            ) from error

    def entries(self) -> int:
        """How many keys the file holds; raises as ``get``."""
        return int(self._environment().stat()["entries"])

    def _environment(self):
        stamp, environment = _environments.get(str(self.path), (None, None))
        if stamp != self.stamp:
            if environment is not None:
                environment.close()
            if _stamp(self.path) != self.stamp:
                raise StructureError(f"{self.path}: was replaced while in use; start again")
            environment = _environment(self.path)
            _environments[str(self.path)] = (self.stamp, environment)
        return environment


def import_lmdb(path: Path):
    """The package lmdb, or a ConfigError that says how to install it."""
    try:
        import lmdb
    except ImportError as error:
        raise ConfigError(f"{path}: LMDB files need the lmdb package; install nfflr[lmdb]") from error
    return lmdb


def _stamp(path: Path) -> tuple:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def _environment(path: Path):
    lmdb = import_lmdb(path)
    try:
        # Nothing is locked, so that any number of processes, forked ones too, can read at once.
        environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise StructureError(
            f"{path}: record 0 cannot be read: not an LMDB file ({error}); write it again"
        ) from error
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if path.stat().st_size < needed:  # reading beyond the end of a mapped file kills the process
        environment.close()
        raise StructureError(
            f"{path}: has {path.stat().st_size} of {needed} bytes, its last records are missing; "
            "the file is truncated, copy it again"
        )
    return environment
