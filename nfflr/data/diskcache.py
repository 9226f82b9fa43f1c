"""Graphs on disk: what a transform made of a structure is kept under a digest of both."""

from __future__ import annotations

import hashlib
import inspect
import sysconfig
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any, Literal

import ase
import numpy as np
import torch

from .. import __version__
from ..errors import ConfigError
from ..storage.cache import user_cache, write_entry
from ..storage.sealed import Damaged, Foreign, seal, unseal
from .portable import put_together, take_apart
from .records import hash_structure

KIND = "nfflr-graph"
ADVICE = "use functools.partial of a named function, or leave diskcache out"
INSTALLED = [Path(sysconfig.get_paths()[name]) for name in ("stdlib", "purelib", "platlib")]


class DiskCache:
    """A folder of sealed files, one for each structure and transform; may be deleted at any time.

    The key is made of the bits of the structure, the transform (see ``identity``) and the version of this
    package. Files appear whole under their names, so any number of processes may write at once and may be
    killed; a file that is damaged is made again. Nothing is ever unpickled.

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
        hash_structure(content, atoms)
        key = content.hexdigest()
        return self.folder / key[:2] / f"{key}.safetensors"

    def __call__(self, atoms: ase.Atoms) -> Any:
        """The transform's result, from the disk if it is there.

        Raises:
            ConfigError: a result of this type cannot be stored.
            ResourceError: the folder cannot be written.
        """
        path = self.path(atoms)
        stored = _load(path)
        if stored is not None:
            return stored[0]
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


def identity(transform: Any) -> str:
    """Digest of a function's qualified name, the arguments bound to it, and the files that define it.

    Those are the file of the function, and files of the user's from which its module has taken a function or
    class.

    Raises:
        ConfigError: a lambda, a closure, or something else that has no name or no file.
    """
    return hashlib.sha256(repr(_described(transform)).encode()).hexdigest()


def _described(x: Any) -> Any:
    if isinstance(x, partial):
        bound = sorted((name, _described(value)) for name, value in x.keywords.items())
        return ["partial", _described(x.func), [_described(value) for value in x.args], bound]
    if isinstance(x, type | FunctionType | BuiltinFunctionType):
        return _named(x)
    if isinstance(x, list | tuple):
        return [type(x).__name__, [_described(value) for value in x]]
    if isinstance(x, dict):
        return ["dict", sorted((repr(_described(k)), _described(v)) for k, v in x.items())]
    if isinstance(x, np.ndarray | torch.Tensor):
        array = np.asarray(x.detach().cpu() if isinstance(x, torch.Tensor) else x)
        if array.dtype.kind in "fiubc":
            return [str(array.dtype), array.shape, hashlib.sha256(array.tobytes()).hexdigest()]
    if x is None or isinstance(x, bool | int | float | str | np.generic | Path | torch.dtype | torch.device):
        return [type(x).__name__, repr(x)]
    raise ConfigError(f"transform: a {type(x).__qualname__} cannot be part of a cache's key; {ADVICE}")


def _named(x: Any) -> list:
    name = f"{x.__module__}.{x.__qualname__}"
    if "<" in x.__qualname__:  # <lambda>, <locals>
        raise ConfigError(f"transform: {name} cannot be imported by its name; {ADVICE}")
    if isinstance(x, BuiltinFunctionType) or x.__module__ == "builtins":
        return [name]
    used = [x, *getattr(x, "__globals__", {}).values()]
    files = {f for item in used if isinstance(item, type | FunctionType) and (f := _file(item)) is not None}
    own = _file(x)
    if own is None or not own.is_file():
        raise ConfigError(f"transform: {name} is defined in no file; put it in one, or leave diskcache out")
    local = sorted(f for f in files if f == own or not any(root in f.parents for root in INSTALLED))
    return [name, [hashlib.sha256(f.read_bytes()).hexdigest() for f in local if f.is_file()]]


def _file(x: Any) -> Path | None:
    try:
        return Path(inspect.getfile(x)).resolve()
    except (TypeError, OSError):
        return None
