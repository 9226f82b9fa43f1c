"""Whatever a transform returns as named tensors and a plain outline, and back: nothing is pickled.

Known are tensors, arrays, numbers, text, lists, tuples and dicts of them, ``Graph``, ``Atoms``,
``GhostAtoms``, ``ase.Atoms``, ``DGLGraph`` and PyG's ``Data``.
A dataclass of your own made of such fields is added by::

    @portable
    @dataclass
    class MyStructure: ...
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import ase
import numpy as np
import torch

from ..atoms import Atoms
from ..errors import ConfigError
from .ghosts import GhostAtoms
from .graph import Graph

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
    """Tensors by name, and an outline in JSON that says where they go.

    Raises:
        ConfigError: the type of ``x``, or of something in it, is not known.
    """
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
        "nfflr.data.portable.portable if it is a dataclass of tensors, or leave diskcache out"
    )


def _store(x: torch.Tensor, tensors: Tensors) -> str:
    name = str(len(tensors))
    tensors[name] = x.detach().cpu().clone(memory_format=torch.contiguous_format)
    return name


def put_together(tensors: Tensors, outline: Any) -> Any:
    """The inverse of ``take_apart``.

    Raises:
        KeyError, TypeError, ValueError: the outline is not of this making, or names an unknown class.
    """
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
        made = {key: put_together(tensors, value) for key, value in values.items()}
        return made if kind == "dict" else _classes[content](**made)
    return FOREIGN[kind][2](put_together(tensors, content))


def _dgl_parts(view: Any) -> dict:
    if not view.is_homogeneous:
        raise ConfigError("diskcache: a heterogeneous DGL graph cannot be stored; leave diskcache out")
    src, dst = view.edges()
    batch = [view.batch_num_nodes(), view.batch_num_edges(), view.batch_size > 1]
    ends = {"src": src, "dst": dst, "n": view.num_nodes(), "batch": batch}
    return {**ends, "ndata": dict(view.ndata), "edata": dict(view.edata)}


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
    return {
        "numbers": atoms.numbers,
        "positions": atoms.positions,
        "cell": atoms.cell.array,
        "pbc": atoms.pbc,
    }


# Names of types that are not dataclasses, and how they are taken apart and made again. The packages of graphs
# are not imported before one of their objects appears.
FOREIGN: dict[str, tuple[str, Callable, Callable]] = {
    "ase": ("ase.atoms.Atoms", _ase_parts, lambda parts: ase.Atoms(**parts)),
    "dgl": ("dgl.heterograph.DGLGraph", _dgl_parts, _dgl_graph),
    "pyg": ("torch_geometric.data.data.Data", lambda data: dict(data.to_dict()), _pyg_data),
}
