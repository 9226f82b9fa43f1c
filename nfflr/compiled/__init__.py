"""Potentials compiled for speed: a hand-written kernel where there is one, else a compiled graph."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from types import ModuleType
from typing import Protocol

import torch

from ..data.graph import Graph
from ..models.base import Potential
from ..models.committee import Ensemble
from .aot_graph import NotCompiled, load_graph

logger = logging.getLogger("nfflr")

# Architecture key → module beside this with ``build(model) -> Compiled | None``; None: not for this model.
KERNELS = {"moment": "moment_kernel"}


class Compiled(Protocol):
    """A potential with fixed weights on one device in one precision.

    Attributes:
        kind: ``"kernel"`` (hand-written) or ``"graph"``.
        origin: one line on where it came from and how long that took.
    """

    kind: str
    origin: str

    def __call__(self, graph: Graph, stress: bool = True) -> dict[str, torch.Tensor]:
        """What the model's ``forward`` returns, for a single structure or a batch."""


class CompiledEnsemble:
    """All members of an ensemble compiled; results as ``Ensemble.forward`` has them."""

    def __init__(self, model: Ensemble, members: list[Compiled]):
        self.model, self.members = model, members
        self.kind = members[0].kind if len({m.kind for m in members}) == 1 else "graph"
        self.origin = "; ".join(f"member {k}: {m.origin}" for k, m in enumerate(members))

    def __call__(self, graph: Graph, stress: bool = True) -> dict[str, torch.Tensor]:
        graph = self.model.widest.graph(graph)
        return self.model.combine([member(graph, stress) for member in self.members])


def build(model: Potential | Ensemble) -> Compiled:
    """A compiled potential from the user's cache, or built now and kept there.

    Raises:
        NotCompiled: the reason why there is none.
    """
    if isinstance(model, Ensemble):
        return CompiledEnsemble(model, [build(member) for member in model.members])
    if not isinstance(model, Potential):
        raise NotCompiled("a model from elsewhere, of which only the results are known")
    return kernel(model) or load_graph(model)


def compile_potential(
    model: Potential | Ensemble, tell: Callable[[str], None] = logger.warning
) -> Compiled | None:
    """As ``build``; None, and one line told, where the model has to be evaluated as it is.

    Args:
        model: its weights are taken as they are now; later changes do not count.
        tell: is given the line.
    """
    try:
        return build(model)
    except NotCompiled as reason:
        tell(f"not compiled, evaluated as before: {reason}")
        return None


def kernel(model: Potential) -> Compiled | None:
    """The hand-written form of a model, None where there is none; graphs may have ``n_local``."""
    module = _kernel_module(model)
    return None if module is None else module.build(model)


def kernels(model: Potential | Ensemble) -> Compiled | None:
    """As ``kernel``, and for an ensemble if there is one for every member."""
    if not isinstance(model, Ensemble):
        return kernel(model)
    members = [kernel(member) for member in model.members]
    return CompiledEnsemble(model, [m for m in members if m is not None]) if all(members) else None


def kernels_are_ready(model: object) -> bool | None:
    """Whether ``kernels`` need not compile; None if it would give nothing. Nothing is built by this."""
    if isinstance(model, Ensemble):
        states = [kernels_are_ready(member) for member in model.members]
        return None if None in states else all(states)
    module = _kernel_module(model) if isinstance(model, Potential) else None
    return None if module is None else module.is_ready(model)


def _kernel_module(model: Potential) -> ModuleType | None:
    key = getattr(model, "key", "")
    name = KERNELS.get(key)
    if name is None or type(model).__module__ != f"{Potential.__module__.rpartition('.')[0]}.{key}":
        return None
    try:
        return importlib.import_module(f".{name}", __package__)
    except ModuleNotFoundError as error:
        if error.name != f"{__package__}.{name}":
            raise
        return None
