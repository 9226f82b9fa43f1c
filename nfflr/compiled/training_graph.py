"""The forward pass of training as one compiled graph, which can be differentiated for the weights."""

from __future__ import annotations

import copy
import logging
import math
import os
import warnings
from collections.abc import Callable
from contextlib import contextmanager, suppress
from typing import Any
from unittest.mock import patch

import torch

from ..data.graph import Graph
from ..models.base import Potential
from ..models.evaluator import Compiled, Input
from ..storage.cache import private_folder
from .aot_graph import (
    SETTINGS,
    NotCompiled,
    arguments,
    deviations,
    example_graphs,
    not_compiled,
    results,
    tolerance,
    trace,
)
from .artefacts import compiler

logger = logging.getLogger("nfflr")
ROUNDING = 10  # times the model's own error from rounding, by which the compiled form may differ from it


class TrainingGraph(Compiled):
    """``Potential.forward`` of a model in training mode, compiled (``make_fx``, then inductor).

    The weights are the model's own, so that an optimiser's steps count at once. Nothing is compiled anew when
    sizes change.

    Raises:
        NotCompiled: no compiler, an architecture that cannot be traced, or results that differ.
    """

    model: Potential

    def __init__(self, model: Potential):
        if compiler() is None:
            raise NotCompiled("no C++ compiler here; install g++, or set CXX")
        super().__init__(model)
        with warnings.catch_warnings(), _kept():
            warnings.simplefilter("ignore")
            try:
                self._prepare(*example_graphs(model))
            except Exception as error:  # tracing runs the model's code, compiling runs a compiler
                raise not_compiled(model, error) from error

    def __call__(self, x: Input, stress: bool = True, virials: bool = False) -> dict[str, torch.Tensor]:
        """As ``Potential.forward``; in evaluation mode, and without bonds, the model itself answers."""
        graph = self.model.graph(x)
        if not self.model.training or virials:
            return self.model(graph, stress, virials)
        return self._evaluate(graph, stress)

    def _evaluate(self, graph: Graph, stress: bool) -> dict[str, torch.Tensor]:
        inputs = arguments(self.model, graph)
        if min(tensor.shape[0] for tensor in inputs) < 2:
            return self.model(graph, stress=stress)
        return results(self.model, graph, self._run(*inputs), stress, False)

    def _trace(self, example: Graph) -> torch.fx.GraphModule:
        return trace(self.model, arguments(self.model, example))

    def _prepare(self, example: Graph, *others: Graph) -> None:
        """Trace, compare values and gradients with the model's, and compile both directions."""
        was = self.model.training
        self.model.train()
        try:
            self.model(example)  # constants that are kept once made must not be made while tracing
            self._run: Callable[..., Any] = differentiable(self._trace(example))
            self._compare(others[0])  # before the long work; sizes that became constants show here
            self._run = torch.compile(self._run, dynamic=True, fullgraph=True, options={**SETTINGS})
            for graph in others:
                self._compare(graph)
        finally:
            self.model.train(was)

    def _compare(self, graph: Graph) -> None:
        """Raise NotCompiled if results or gradients differ from the model's by more than rounding may do."""
        exact = copy.deepcopy(self.model).double()
        compiled, eager, precise = (_results(forward, graph) for forward in (self, self.model, exact))
        rounding = deviations(eager, precise)
        for name, deviation in deviations(compiled, eager).items():
            # Gradients of weights are sums over all atoms, in which rounding adds up.
            most = max(10 * tolerance(self.model.dtype), ROUNDING * rounding[name])
            if not (math.isfinite(deviation) and deviation <= most):
                reason = f"disagrees with the model itself by {deviation:.2g} in {name}"
                raise NotCompiled(f"the compiled graph {reason}")


def _results(forward: TrainingGraph | Potential, graph: Graph) -> dict[str, torch.Tensor]:
    """What a model, or its compiled form, makes of a graph, and the gradient of a loss by all weights."""
    model = forward.model if isinstance(forward, TrainingGraph) else forward
    output = forward(graph)
    loss = sum((value.square().mean() for value in output.values()), torch.zeros(()))
    weights = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
    return {
        **{name: value.detach() for name, value in output.items()},
        "gradient": torch.cat([gradient.flatten() for gradient in gradients]),
    }


def differentiable(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """A traced gradient without its detachments, in place.

    Tracing detaches what the forward pass saves of its own results (tanh, exp, …) for the gradient, which a
    second derivative would then take for constants. What a model itself detaches goes too; where that matters
    the comparison of gradients fails.
    """
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten.detach.default):
        node.replace_all_uses_with(node.args[0])
        graph.graph.erase_node(node)
    graph.recompile()
    return graph


@contextmanager
def _kept():
    """Inductor's own cache in the user's, unless others can write there: a second run need not compile."""
    from torch._inductor.utils import fresh_cache

    folder = None
    with suppress(OSError):
        folder = private_folder("compiled/training")
    with patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=str(folder)) if folder else fresh_cache():
        yield
