"""The user's cache: files that can be made again, named by a digest of everything on which they depend.

An entry is whole or absent. Code is kept in folders that belong to the user and that no other user can write.
The cache may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

from ..errors import ResourceError
from .files import write_atomically

MANIFEST = "manifest.json"
STALE = 86400  # seconds after which a folder of an interrupted build is removed


def user_cache() -> Path:
    """The user's cache folder, ``$XDG_CACHE_HOME/nfflr`` or ``~/.cache/nfflr``; not created here."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "")
    # A relative one counts as not set, says the XDG Base Directory Specification: it would follow the user.
    return (folder if folder.is_absolute() else Path.home() / ".cache") / "nfflr"


def is_private(path: Path) -> bool:
    """Whether a file or folder belongs to the user and no other user can write to it."""
    status = path.lstat()
    mine = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return mine and not stat.S_ISLNK(status.st_mode) and not status.st_mode & 0o022


def private_folder(name: str) -> Path:
    """A folder of the user's cache, made if it is not there.

    Raises:
        OSError: it cannot be made, or somebody else owns it or a folder above it in the cache, or may write
            there.
    """
    folder = user_cache() / name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    rooms = [folder, *folder.parents]
    for room in rooms[: rooms.index(user_cache())]:
        if not is_private(room):
            raise PermissionError(f"{room} is not a folder that only you can write")
    return folder


def write_entry(folder: Path, path: Path, content: bytes) -> None:
    """Write a file that carries its own digest, somewhere below a folder that is made with it.

    It is not flushed to disk: the digest shows what a loss of power left empty, and 8 ms a file are too long.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(
            f"{folder}: cannot be written ({error.strerror}); choose another folder"
        ) from error
    write_atomically(path, content, durable=False)


class BuiltEntry:
    """The place of one built file in the cache; a context that removes leftovers at its end.

    The folder must belong to the user and be writable by no other user, and the file must have the digest
    that was stored when it was built. ``room`` is a folder of the cache, ``identity`` everything on which the
    file depends, ``name`` the name of the file.
    """

    def __init__(self, room: str, identity: Mapping[str, str], name: str):
        self.identity, self.name, self.root = dict(identity), name, user_cache() / room
        text = json.dumps(self.identity, sort_keys=True)
        self.folder = self.root / hashlib.sha256(text.encode()).hexdigest()[:32]
        self._leftovers = ExitStack()
        self._new: Path | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._leftovers.close()

    def find(self) -> Path | None:
        """The file if it is there and whole, else None."""
        path = self.folder / self.name
        try:
            if not all(is_private(place) for place in (self.root, self.folder, path)):
                return None
            manifest = json.loads((self.folder / MANIFEST).read_bytes())
            return path if manifest == self._manifest(path) else None
        except (OSError, ValueError):
            return None

    def _manifest(self, path: Path) -> dict:
        return {"identity": self.identity, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}

    def discard(self) -> None:
        """Remove the entry."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def new(self) -> Iterator[Path]:
        """The path to write the file to, in a folder of this process, in the cache if that is writable."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in self.root.glob(".build-*"):
                with suppress(OSError):
                    if time.time() - path.stat().st_mtime > STALE:
                        shutil.rmtree(path, ignore_errors=True)
            self._new = Path(tempfile.mkdtemp(prefix=".build-", dir=self.root))
        except OSError:
            self._new = Path(tempfile.mkdtemp(prefix="nfflr-"))
        self._leftovers.callback(shutil.rmtree, self._new, ignore_errors=True)
        yield self._new / self.name

    def keep(self) -> str:
        """Move the new file to its place, whole or not at all, and say in words where it is.

        An entry of a faster process stays; a damaged entry is replaced.
        """
        assert self._new is not None  # new() was called
        if self._new.parent != self.root or not is_private(self.root):
            return f"for this process alone, as {self.root} is not a folder that only you can write"
        for path in self._new.iterdir():
            if path.name != self.name:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
        manifest = self._manifest(self._new / self.name)
        (self._new / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
        for path in self._new.iterdir():
            path.chmod(0o600)
        for _ in range(2):
            try:
                self._new.rename(self.folder)
                return str(self.folder)
            except OSError:
                if self.find():
                    return str(self.folder)
                with suppress(OSError):  # moved first, so that no process sees half of it
                    aside = tempfile.mkdtemp(prefix=".build-", dir=self.root)
                    self._leftovers.callback(shutil.rmtree, aside, ignore_errors=True)
                    self.folder.rename(Path(aside) / "damaged")
        return "for this process alone"
