"""Graphs on disk: what a transform made of a structure is kept under a digest of both."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import ase
import numpy as np

from .. import __version__
from ..storage.cache import user_cache, write_entry
from ..storage.sealed import Damaged, Foreign, seal, unseal
from .identity import identity
from .portable import put_together, take_apart

KIND = "nfflr-graph"


class DiskCache:
    """A folder of sealed files, one for each structure and transform; may be deleted at any time.

    The key is made of the bits of the structure, the transform (see ``nfflr.data.identity``) and the version
    of this package. Files appear whole under their names, so any number of processes may write at once and
    may be killed; a file that is damaged is made again. Nothing is ever unpickled.

    Args:
        folder: where; True for ``graphs`` in the user's cache folder.
        transform: the function whose results are kept.

    Raises:
        ConfigError: the transform has no identity (a lambda, a closure).
    """

    def __init__(self, folder: str | Path | Literal[True], transform: Callable[[ase.Atoms], Any]):
        self.folder = user_cache() / "graphs" if folder is True else Path(folder)
        self.identity = identity(transform)
        self.transform = transform

    def path(self, atoms: ase.Atoms) -> Path:
        """The file for a structure."""
        content = hashlib.sha256(f"{__version__} {self.identity} {len(atoms)}".encode())
        for array in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc):
            content.update(np.ascontiguousarray(array).tobytes())
        key = content.hexdigest()
        return self.folder / key[:2] / f"{key}.safetensors"

    def __call__(self, atoms: ase.Atoms) -> Any:
        """The transform's result, from the disk if it is there.

        Raises:
            ConfigError: a result of this type cannot be stored.
            ResourceError: the folder cannot be written.
        """
        path = self.path(atoms)
        found = _load(path)
        if found is not None:
            return found[0]
        made = self.transform(atoms)
        tensors, outline = take_apart(made)
        write_entry(self.folder, path, seal(tensors, {"outline": outline}, KIND))
        return made


def _load(path: Path) -> tuple | None:
    """What a file holds, in a tuple; None if it is missing or damaged."""
    try:
        tensors, metadata = unseal(path.read_bytes(), KIND)
        return (put_together(tensors, metadata["outline"]),)
    except (OSError, Foreign, Damaged, KeyError, TypeError, ValueError):
        return None
