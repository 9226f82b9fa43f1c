"""The input of a model from elsewhere, by its signature, and the names, units and signs of its results."""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import UnionType
from typing import Any

import ase
import torch
from torch import nn

from ..atoms import Atoms
from ..data.graph import Graph
from ..data.inputs import GhostAtoms, with_ghosts
from ..errors import ConfigError, NumericsError, did_you_mean
from ..models.assemble import stress_from_virial
from ..units import KINDS as UNIT_KINDS
from ..units import factor

# Kinds of input: by class, by package, and by the name of a type that only type checkers can resolve.
CLASSES = {
    "ase": ase.Atoms,
    "atoms": Atoms,
    "graph": Graph,
    "ghosts": GhostAtoms,
    "dict": Mapping,
    "tensors": torch.Tensor,
}
PACKAGES = {"dgl": "dgl", "torch_geometric": "pyg"}
TYPE_NAMES = {
    "ase.Atoms": "ase",
    "nfflr.Atoms": "atoms",
    "Graph": "graph",
    "GhostAtoms": "ghosts",
    **dict.fromkeys(("dgl.DGLGraph", "DGLGraph"), "dgl"),
    **dict.fromkeys(("Data", "Batch"), "pyg"),
}
KINDS = ("ase", "atoms", "graph", "ghosts", "dgl", "pyg", "dict", "tensors")
NEED_CUTOFF = ("graph", "ghosts", "dgl")
# Tensors, and other names that parameters of a model may have for them.
TENSORS = {
    "positions": ("pos", "coordinates", "R"),  # (N, 3)
    "numbers": ("z", "Z", "atomic_numbers"),  # (N,) int64
    "cell": ("lattice", "box"),  # (3, 3), rows are lattice vectors
    "pbc": (),  # (3,) bool
    "edge_index": (),  # (2, E) int64, neighbour and centre
    "shifts": ("edge_shift",),  # (E, 3) length added to the neighbour's position
    "vectors": ("edge_vectors",),  # (E, 3) = x[neighbour] + shift − x[centre]
}
NAMES = {alias: name for name, aliases in TENSORS.items() for alias in (name, *aliases)}
EDGES = {"edge_index", "shifts", "vectors"}
PERIODIC = {"cell", "shifts", "vectors"}


@dataclass(frozen=True)
class Door:
    """The input of a model.

    Attributes:
        kind: one of ``KINDS``.
        positional, named: of ``"tensors"``: names in ``TENSORS``; ``named`` maps a parameter to one.
    """

    kind: str
    positional: tuple[str, ...] = ()
    named: tuple[tuple[str, str], ...] = ()

    @property
    def tensors(self) -> set[str]:
        return {*self.positional, *(name for _, name in self.named)}

    @property
    def needs_cutoff(self) -> bool:
        return self.kind in NEED_CUTOFF or bool(self.tensors & EDGES)

    @property
    def knows_cell(self) -> bool:
        """Whether the input tells that a structure is periodic."""
        return self.kind != "tensors" or bool(self.tensors & PERIODIC)


def find_door(model: Any, name: str, choice: str | type | Sequence[str] | None) -> Door:
    """The input of ``model``: the user's choice, or by the annotation or the names of its parameters.

    A module whose ``forward(self, x)`` has no annotation, nor a name of a tensor for ``x``, is given
    ``nfflr.Atoms``. A function needs annotations, names or a choice.

    Raises:
        ConfigError: the signature does not say it, or the choice is no kind of input.
    """
    if isinstance(choice, type):
        kind = _kind(choice)
        if kind is None:
            raise ConfigError(f"input: a {choice.__qualname__} cannot be made; expected one of {KINDS}")
        return Door(kind)
    if choice is not None and not isinstance(choice, str):
        for unknown in (tensor for tensor in choice if tensor not in NAMES):
            raise ConfigError(
                f"input: no tensor {unknown!r}; expected some of {', '.join(TENSORS)}"
                f"{did_you_mean(unknown, NAMES)}"
            )
        return Door("tensors", positional=tuple(NAMES[tensor] for tensor in choice))
    if choice is not None and choice not in KINDS:
        raise ConfigError(
            f"input: got {choice!r}; expected one of {', '.join(KINDS)}{did_you_mean(choice, KINDS)}"
        )
    parameters = _parameters(model)
    kind = choice or (_kind(parameters[0].annotation) if parameters else None)
    if kind not in (None, "tensors"):
        return Door(kind)
    if (door := _tensor_door(parameters)) is not None:
        return door
    if kind is None and isinstance(model, nn.Module) and _takes_one(parameters):
        return Door("atoms")
    signature = ", ".join(p.name for p in parameters)
    raise ConfigError(
        f"{name}({signature}): the signature does not say what the model takes; give input=, one of "
        f"{', '.join(KINDS[:-1])}, or names of tensors in order, as ('positions', 'numbers', 'cell')"
    )


def _takes_one(parameters: list[inspect.Parameter]) -> bool:
    """Whether the call has one argument, of which the signature says nothing: ``forward(self, x)``."""
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    required = [p for p in named if p.default is p.empty]
    if len(required) != 1 or required != named[:1]:
        return False
    (p,) = required
    return p.annotation is p.empty and p.kind != p.KEYWORD_ONLY and p.name not in NAMES


def _parameters(model: Any) -> list[inspect.Parameter]:
    """Parameters of the call, without ``self``, with annotations that are types where that is possible."""
    if isinstance(model, torch.jit.ScriptModule):
        schema: Any = model.forward.schema  # type: ignore[attr-defined]  # of a ScriptMethod
        names = [(a.name, str(a.type), a.has_default_value()) for a in schema.arguments[1:]]
        kinds = {"Tensor": torch.Tensor, "Dict[str, Tensor]": dict}
        return [
            inspect.Parameter(
                n,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                annotation=kinds.get(kind, kind),
                default=None if default else inspect.Parameter.empty,
            )
            for n, kind, default in names
        ]
    function = model.forward if isinstance(model, nn.Module) else model
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # built in
        return []
    hinted = function if inspect.isroutine(function) else type(function).__call__
    try:
        hints = typing.get_type_hints(hinted)
    except (NameError, TypeError, AttributeError):  # a name that is there for type checkers alone
        hints = {}
    return [p.replace(annotation=hints.get(p.name, p.annotation)) for p in parameters]


def _kind(hint: Any) -> str | None:
    if isinstance(hint, str):
        return TYPE_NAMES.get(hint)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, UnionType):
        return next((kind for kind in map(_kind, typing.get_args(hint)) if kind), None)
    cls = origin or hint
    if not isinstance(cls, type):
        return None
    package = PACKAGES.get(cls.__module__.partition(".")[0])
    return package or next((kind for kind, base in CLASSES.items() if issubclass(cls, base)), None)


def _tensor_door(parameters: list[inspect.Parameter]) -> Door | None:
    """All required parameters by their names; None if one is unknown."""
    positional: list[str] = []
    named: list[tuple[str, str]] = []
    in_order = True
    for p in parameters:
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            continue
        if p.name not in NAMES:
            if p.default is p.empty:
                return None
            in_order = False
        elif in_order and p.kind != p.KEYWORD_ONLY:
            positional.append(NAMES[p.name])
        else:
            named.append((p.name, NAMES[p.name]))
    door = Door("tensors", tuple(positional), tuple(named))
    return door if door.tensors & {"positions", "vectors"} else None


def call(model: Callable, door: Door, graph: Graph, cutoff: float | None, dtype: torch.dtype) -> Any:
    """The model's output for a graph in its own unit of length, passed as the input that it takes.

    Our own classes are in float64; plain tensors, DGL and PyG are in ``dtype``.
    """
    atoms = graph.atoms
    if door.kind == "ase":
        return model(atoms.to_ase())
    if door.kind in ("atoms", "graph"):
        return model({"atoms": atoms, "graph": graph}[door.kind])
    if door.kind == "ghosts":
        return model(_ghosts(graph))
    if door.kind == "tensors":
        tensors = _tensors(graph, dtype)
        return model(*(tensors[n] for n in door.positional), **{p: tensors[n] for p, n in door.named})
    if door.kind == "dict":
        tensors = _tensors(graph, dtype)
        return model({n: t for n, t in tensors.items() if cutoff is not None or n not in EDGES})
    atoms = replace(atoms, positions=atoms.positions.to(dtype), cell=atoms.cell.to(dtype))
    graph = replace(graph, atoms=atoms, shift=graph.shift.to(dtype))
    if door.kind == "dgl":
        from ..data.inputs import to_dgl

        return model(to_dgl(graph))
    from ..data.inputs import to_pyg

    data = to_pyg(graph)
    if cutoff is None:
        del data.edge_index, data.edge_shift
    return model(data)


def _ghosts(graph: Graph) -> GhostAtoms:
    """Images that move with positions and cell, so that there are derivatives."""
    atoms, cutoff = graph.atoms, graph.cutoff
    still = replace(atoms, positions=atoms.positions.detach(), cell=atoms.cell.detach())
    ghosts = with_ghosts(still, cutoff)
    real = ghosts.owner >= 0
    owner = ghosts.owner[real]
    away = ghosts.positions[real] - still.positions[owner]  # (G, 3)
    image = (away @ torch.linalg.pinv(still.cell)).round()  # cells between image and owner
    moved = atoms.positions[owner] + image @ atoms.cell
    return replace(ghosts, atoms=atoms, positions=torch.cat([moved, ghosts.positions[~real]]))


def _tensors(graph: Graph, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {
        "positions": graph.atoms.positions.to(dtype),
        "numbers": graph.atoms.numbers,
        "cell": graph.atoms.cell.to(dtype),
        "pbc": graph.atoms.pbc,
        "edge_index": torch.stack([graph.src, graph.dst]),
        "shifts": graph.shift.to(dtype),
        "vectors": graph.vectors().to(dtype),
    }


KEYS = {
    "energy": ("total_energy", "energy"),
    "energies": ("energies",),
    "forces": ("forces",),
    "stress": ("stress",),
    "virial": ("virial",),
}


class Convention:
    """Names, units and signs of a model's results; see ``Wrapped``.

    Raises:
        ConfigError: a name, unit or sign is unknown.
    """

    def __init__(
        self,
        name: str,
        keys: Mapping[str, str | int | None],
        units: Mapping[str, str],
        signs: Mapping[str, int],
    ):
        self.name = name
        self.keys = _checked("keys", keys, KEYS)
        self.signs = _checked("signs", signs, ("stress", "virial"))
        if any(sign not in (1, -1) for sign in self.signs.values()):
            raise ConfigError(f"signs: got {self.signs}; expected 1 or -1")
        units = {kind: str(unit) for kind, unit in _checked("units", units, UNIT_KINDS).items()}
        energy_unit = units.pop("energy", "eV")
        self.per_atom = energy_unit.endswith("/atom")
        energy = factor(energy_unit.removesuffix("/atom"), "energy")
        self.length = factor(units.pop("length", "Å"), "length")
        self.factors = {"energy": energy, "energies": energy, "virial": energy}
        self.factors |= {"forces": energy / self.length, "stress": energy / self.length**3}
        self.factors |= {kind: factor(unit, kind) for kind, unit in units.items()}

    def read(self, output: Any, atoms: Atoms, stress: bool) -> dict[str, torch.Tensor]:
        """``total_energy`` () and, if the model gives them, ``energies`` (N,), ``forces`` (N, 3), ``stress``
        (3, 3).

        Args:
            output: of the model.
            atoms: the structure, in Å.
            stress: whether to look for stress or virial.

        Raises:
            ConfigError: there is no energy, a key is missing, or a virial has no sign.
            NumericsError: a shape is wrong.
        """
        if isinstance(output, torch.Tensor) and self.keys:
            output = (output,)
        if isinstance(output, tuple | list) and self.keys:
            output = dict(enumerate(output))
        if not isinstance(output, Mapping):
            raise ConfigError(
                f"{self.name}: returned a {type(output).__name__}; expected a dict with 'energy', or give "
                "keys= with the index of each result, as {'energy': 0}"
            )
        n, values = len(atoms), {}
        shapes = {"energy": (), "energies": (n,), "forces": (n, 3), "stress": (3, 3), "virial": (3, 3)}
        for name, shape in shapes.items():
            key = self._key(name, output)
            if key is not None and (stress or name not in ("stress", "virial")):
                tensor = torch.as_tensor(output[key], device=atoms.positions.device).double()
                values[name] = self._shaped(tensor, key, shape) * self.factors[name]
        if "energy" not in values:
            raise ConfigError(
                f"{self.name}: returned {sorted(map(str, output))}, no energy; give keys={{'energy': …}}"
            )
        result = {"total_energy": values["energy"] * (n if self.per_atom else 1)}
        result |= {name: values[name] for name in ("energies", "forces") if name in values}
        if "stress" in values:
            sigma = self.signs.get("stress", 1) * values["stress"]
            result["stress"] = (sigma + sigma.T) / 2
        elif "virial" in values:
            if "virial" not in self.signs:
                raise ConfigError(
                    f"{self.name}: returns a virial, of which there are two signs; give "
                    "signs={'virial': -1} if it is −V σ, 1 if V σ, or leave it out: keys={'virial': None}"
                )
            result["stress"] = self.signs["virial"] * stress_from_virial(values["virial"], atoms.cell)
        return result

    def _key(self, name: str, output: Mapping) -> str | int | None:
        if name not in self.keys:
            return next((key for key in KEYS[name] if key in output), None)
        key = self.keys[name]
        if key is not None and key not in output:
            raise ConfigError(
                f"{self.name}: returned no {key!r} for the {name}; it returned "
                f"{', '.join(sorted(map(str, output)))}"
            )
        return key

    def _shaped(self, tensor: torch.Tensor, key: str | int, shape: tuple[int, ...]) -> torch.Tensor:
        exact = tuple(tensor.shape) in (shape, (1, *shape))
        if not exact and not (len(shape) < 2 and tensor.numel() == math.prod(shape)):
            raise NumericsError(f"{self.name}: {key!r} has the shape {tuple(tensor.shape)}; expected {shape}")
        return tensor.reshape(shape)


def _checked(option: str, entries: Mapping, names: Sequence[str] | Mapping) -> dict:
    for name in entries:
        if name not in names:
            raise ConfigError(
                f"{option}: no {name!r}; expected some of {', '.join(names)}{did_you_mean(str(name), names)}"
            )
    return dict(entries)
