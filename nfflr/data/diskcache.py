"""Graphs on disk: the results of a transform, stored under a digest of structure and transform."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import sysconfig
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any, Literal, TypeVar

import ase
import numpy as np
import torch

from .. import __version__
from ..atoms import Atoms
from ..errors import ConfigError
from ..storage.cache import user_cache, write_entry
from ..storage.sealed import Damaged, Foreign, seal, unseal
from .graph import Graph
from .inputs import GhostAtoms
from .records import hash_structure

KIND = "nfflr-graph"
ADVICE = "use functools.partial of a named function, or leave diskcache out"
INSTALLED = [Path(sysconfig.get_paths()[name]) for name in ("stdlib", "purelib", "platlib")]


class DiskCache:
    """A folder of sealed files, one for each structure and transform; may be deleted at any time.

    Files appear whole under their names, so any number of processes may write at once and may be killed; a
    damaged file is made again. Nothing is ever unpickled.

    Args:
        folder: the folder; True for ``graphs`` in the user's cache folder.
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
        """The transform's result, from the disk if it is there; ConfigError if its type cannot be stored."""
        path = self.path(atoms)
        stored = _load(path)
        if stored is not None:
            return stored[0]
        result = self.transform(atoms)
        tensors, outline = take_apart(result)
        write_entry(self.folder, path, seal(tensors, {"outline": outline}, KIND))
        return result


def _load(path: Path) -> tuple | None:
    """The content of a file, in a tuple; None if it is missing or damaged."""
    try:
        tensors, metadata = unseal(path.read_bytes(), KIND)
        return (put_together(tensors, metadata["outline"]),)
    except (OSError, Foreign, Damaged, KeyError, TypeError, ValueError):
        return None


def identity(transform: Any) -> str:
    """Digest of a function's qualified name, bound arguments, and the files that define it and its imports.

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


Tensors = dict[str, torch.Tensor]
T = TypeVar("T", bound=type)

_classes: dict[str, type] = {
    f"{cls.__module__}.{cls.__qualname__}": cls for cls in (Atoms, Graph, GhostAtoms)
}


def portable(cls: T) -> T:
    """Let a dataclass be taken apart into its fields and be made again from them."""
    _classes[f"{cls.__module__}.{cls.__qualname__}"] = cls
    return cls


def take_apart(x: Any) -> tuple[Tensors, Any]:
    """Tensors by name, and an outline in JSON that says where they go; ConfigError for an unknown type."""
    tensors: Tensors = {}
    return tensors, _outline(x, tensors)


def _outline(x: Any, tensors: Tensors) -> Any:
    name = f"{type(x).__module__}.{type(x).__qualname__}"
    if x is None or isinstance(x, bool | int | str):
        return {"value": x}
    if isinstance(x, float):
        return {"float": x.hex()}
    if isinstance(x, torch.Tensor) and x.layout == torch.strided:
        return {"tensor": _store(x, tensors)}
    if isinstance(x, np.ndarray) and x.dtype.kind in "fiub":
        return {"array": _store(torch.from_numpy(np.array(x)), tensors)}
    if type(x) in (list, tuple):
        return {type(x).__name__: [_outline(item, tensors) for item in x]}
    if type(x) is dict and all(isinstance(key, str) for key in x):
        return {"dict": {key: _outline(value, tensors) for key, value in x.items()}}
    if _classes.get(name) is type(x) and dataclasses.is_dataclass(x):
        fields = {f.name: _outline(getattr(x, f.name), tensors) for f in dataclasses.fields(x) if f.init}
        return {"class": name, "fields": fields}
    for kind, (type_name, parts, _) in FOREIGN.items():
        if name == type_name:
            return {kind: _outline(parts(x), tensors)}
    raise ConfigError(
        f"diskcache: the transform returns a {type(x).__qualname__}, which cannot be stored; mark it with "
        "nfflr.data.diskcache.portable if it is a dataclass of tensors, or leave diskcache out"
    )


def _store(x: torch.Tensor, tensors: Tensors) -> str:
    name = str(len(tensors))
    tensors[name] = x.detach().cpu().clone(memory_format=torch.contiguous_format)
    return name


def put_together(tensors: Tensors, outline: Any) -> Any:
    """The inverse of ``take_apart``; KeyError, TypeError or ValueError for another outline."""
    ((kind, content),) = ((k, v) for k, v in outline.items() if k != "fields")
    if kind == "value":
        return content
    if kind == "float":
        return float.fromhex(content)
    if kind in ("tensor", "array"):
        return tensors[content] if kind == "tensor" else tensors[content].numpy()
    if kind in ("list", "tuple"):
        items = [put_together(tensors, item) for item in content]
        return items if kind == "list" else tuple(items)
    if kind in ("dict", "class"):
        values = content if kind == "dict" else outline["fields"]
        parts = {key: put_together(tensors, value) for key, value in values.items()}
        return parts if kind == "dict" else _classes[content](**parts)
    return FOREIGN[kind][2](put_together(tensors, content))


def _dgl_parts(view: Any) -> dict:
    if not view.is_homogeneous:
        raise ConfigError("diskcache: a heterogeneous DGL graph cannot be stored; leave diskcache out")
    src, dst = view.edges()
    batch = [view.batch_num_nodes(), view.batch_num_edges(), view.batch_size > 1]
    sizes = {"n": view.num_nodes(), "batch": batch}
    return {"src": src, "dst": dst, **sizes, "ndata": dict(view.ndata), "edata": dict(view.edata)}


def _dgl_graph(parts: dict) -> Any:
    import dgl

    view = dgl.graph((parts["src"], parts["dst"]), num_nodes=parts["n"])
    view.ndata.update(parts["ndata"])
    view.edata.update(parts["edata"])
    nodes, edges, is_batch = parts["batch"]
    if is_batch:
        view.set_batch_num_nodes(nodes)
        view.set_batch_num_edges(edges)
    return view


def _pyg_data(parts: dict) -> Any:
    from torch_geometric.data import Data

    return Data.from_dict(parts)


def _ase_parts(atoms: ase.Atoms) -> dict:
    arrays = {"numbers": atoms.numbers, "positions": atoms.positions}
    return {**arrays, "cell": atoms.cell.array, "pbc": atoms.pbc}


# Names of types that are not dataclasses, and how they are taken apart and made again. The packages of graphs
# are not imported before one of their objects appears.
FOREIGN: dict[str, tuple[str, Callable, Callable]] = {
    "ase": ("ase.atoms.Atoms", _ase_parts, lambda parts: ase.Atoms(**parts)),
    "dgl": ("dgl.heterograph.DGLGraph", _dgl_parts, _dgl_graph),
    "pyg": ("torch_geometric.data.data.Data", lambda data: dict(data.to_dict()), _pyg_data),
}
