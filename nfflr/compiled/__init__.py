"""Potentials compiled for speed: a hand-written kernel where there is one, else a compiled graph."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, cast

import torch

from ..models.base import Potential
from ..models.evaluator import Combination, Compiled, Evaluator, Input
from .aot_graph import NotCompiled, load_graph

if TYPE_CHECKING:  # imported when a step is compiled
    from .training_graph import TrainingGraph

__all__ = [
    "KERNELS",
    "Compiled",
    "NotCompiled",
    "build",
    "compile_potential",
    "compile_training",
    "kernel",
    "kernels_are_ready",
]

logger = logging.getLogger("nfflr")

# Architecture key → modules beside this with ``build(model) -> Compiled | None``; None: not for this model.
KERNELS = {"moment": ("moment_kernel", "message_kernel")}


class CompiledCombination(Compiled):
    """All parts of a sum or a committee compiled; results as the model itself combines them."""

    model: Combination

    def __init__(self, model: Combination, forms: Sequence[Evaluator]):
        super().__init__(model)
        self.forms = forms
        self.kind = forms[0].kind if len({form.kind for form in forms}) == 1 else "mixed"
        self.origin = "; ".join(f"member {k}: {form.origin}" for k, form in enumerate(forms))
        self.takes_candidates = all(form.takes_candidates for form in forms)
        self.takes_parts = all(form.takes_parts for form in forms)

    def __call__(self, x: Input, stress: bool = True, virials: bool = False) -> dict[str, torch.Tensor]:
        """As the model's ``forward``."""
        return self.model.evaluate(self.forms, self.model.graph(x), stress, virials)


def build(model: Evaluator) -> Compiled:
    """A compiled potential from the user's cache, or built now and kept there.

    Raises:
        NotCompiled: the reason why there is none.
    """
    if model.parts:
        return CompiledCombination(cast(Combination, model), [build(part) for part in model.parts])
    if not model.compilable:
        raise NotCompiled("a model from elsewhere, of which only the results are known")
    return kernel(model) or load_graph(cast(Potential, model))


def compile_potential(model: Evaluator, tell: Callable[[str], None] = logger.warning) -> Compiled | None:
    """As ``build``; None if the model cannot be compiled, and the reason is logged.

    Args:
        model: its weights are taken as they are now; later changes do not count.
        tell: logs the reason, one line.
    """
    try:
        return build(model)
    except NotCompiled as reason:
        tell(f"not compiled, evaluated as before: {reason}")
        return None


def kernel(model: Evaluator) -> Compiled | None:
    """The hand-written form of a model, or of those parts of one that have it; None where there is none.

    Graphs may have ``n_local``.
    """
    if model.parts:
        forms = [kernel(part) for part in model.parts]
        mixed = [form or part for form, part in zip(forms, model.parts, strict=True)]
        return CompiledCombination(cast(Combination, model), mixed) if any(forms) else None
    return next(filter(None, (module.build(model) for module in _kernel_modules(model))), None)


def kernels_are_ready(model: Evaluator) -> bool | None:
    """Whether ``kernel`` need not compile; None if it would give nothing. Nothing is built by this."""
    if model.parts:
        states = [state for part in model.parts if (state := kernels_are_ready(part)) is not None]
        return all(states) if states else None
    of_modules = (module.is_ready(model) for module in _kernel_modules(model))
    return next((state for state in of_modules if state is not None), None)


def _kernel_modules(model: Evaluator) -> list[ModuleType]:
    names = KERNELS.get(model.key, ()) if model.compilable else ()
    if type(model).__module__ != f"{Potential.__module__.rpartition('.')[0]}.{model.key}":
        return []
    return [importlib.import_module(f".{name}", __package__) for name in names]


def compile_training(model: Potential, tell: Callable[[str], None] = logger.warning) -> TrainingGraph | None:
    """The fastest form of a training step that there is for the model, a kernel or a compiled graph.

    Returns:
        None if the model cannot be compiled; the reason is logged by ``tell``.
    """
    from .moment_kernel import suits
    from .moment_training import MomentTraining
    from .training_graph import TrainingGraph

    if suits(model):
        try:
            return MomentTraining(model)
        except NotCompiled as reason:
            tell(f"no kernel, the whole step is compiled as a graph: {reason}")
    try:
        return TrainingGraph(model)
    except NotCompiled as reason:
        tell(f"not compiled, trained as before: {reason}")
        return None
