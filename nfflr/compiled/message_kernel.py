"""The moment-tensor network with several layers as one fused C++ kernel for processors."""

from __future__ import annotations

import copy
import ctypes
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeGuard, cast

import torch

from ..models.evaluator import Input
from ..models.moment import MomentNetwork
from ..models.moment_layers import MessageLayer, MomentLayer, Sender
from ..nn.tensors import N_INVARIANTS, RANK
from . import moment_kernel as one_layer
from .aot_graph import deviations, example_graphs, tolerance
from .artefacts import is_built

logger = logging.getLogger("nfflr")

SOURCE = Path(__file__).with_name("moment_layers.cpp")
ONE_WAY = 4
STRETCHES = (1.0, 1.15, 1.3, 1.5, 1.7)
LAYER = (
    *("mix", "mix_t", "mix_gain", "mix_shift", "keep", "keep_t", "keep_gain", "before", "before_t"),
    *("feature_shift", "feature_scale", "hidden", "hidden_t", "bias", "readout", "linear", "constant"),
)
SENDER = (
    *("scalars", "scalars_t", "scalar_gain", "bias", "vectors", "vectors_t", "vector_gain"),
    *("matrices", "matrices_t", "matrix_gain", "gate", "gate_t", "gate_gain", "radial"),
    "damping",
)


class _Layer(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in LAYER]


class _Sender(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in SENDER]


class _Network(ctypes.Structure):
    _fields_ = [
        ("model", ctypes.c_void_p),
        ("n_layers", ctypes.c_int64),
        ("layers", ctypes.c_void_p),
        ("senders", ctypes.c_void_p),
    ]


def build(model: MomentNetwork) -> MessageKernel | None:
    """A kernel with the weights that ``model`` has now, checked against the model itself.

    Returns:
        None if the model has one layer or is not on the CPU, without a C++ compiler, or, with a line
        logged, where kernel and model disagree.
    """
    if not takes(model):
        return None
    return cast("MessageKernel | None", one_layer.built(MessageKernel, model, SOURCE, _defines(model)))


def is_ready(model: MomentNetwork) -> bool | None:
    """Whether ``build`` need not compile; None if there is no kernel for this model here."""
    return is_built(SOURCE, _defines(model)) if takes(model) else None


def takes(model: torch.nn.Module) -> TypeGuard[MomentNetwork]:
    """Whether the kernel is for this model: several layers, on a processor."""
    return one_layer.suits(model) and model.config.layers > 1


def _defines(model: MomentNetwork) -> dict[str, object]:
    messages = one_layer.padded(model.config.message_channels)
    return {**one_layer.defines(model), "MESSAGES": messages}


class MessageKernel(one_layer.MomentKernel):
    """``Potential.forward`` of a moment-tensor network with several layers whose weights stay as they are.

    As with one layer, a graph may hold all candidates of a neighbour list, and ghosts: of these, all that
    send to an atom that counts need their own neighbours.
    """

    def __init__(self, model: MomentNetwork, library: ctypes.CDLL):
        super().__init__(model, library)
        # All are kept, because the kernel reads their memory.
        self._layers = [_fold_layer(model, cast(MomentLayer, layer)) for layer in model.layers]
        self._senders = [_fold_sender(model, sender) for sender in model.senders]
        self._first = self._model
        self._structs = _structs(_Layer, self._layers), _structs(_Sender, self._senders)
        layers, senders = map(ctypes.addressof, self._structs)
        self._model = _Network(ctypes.addressof(self._first), len(self._layers), layers, senders)

    @staticmethod
    def function(library: ctypes.CDLL):
        return library.nfflr_moment_layers

    def __call__(self, x: Input, stress: bool = True, virials: bool = False) -> dict[str, torch.Tensor]:
        """As ``Potential.forward``; the model itself takes lists that have a bond in one direction alone.

        Raises:
            StructureError: an element that the model does not cover, or two atoms that coincide.
        """
        graph = self.model.graph(x)
        try:
            return super().__call__(graph, stress, virials)
        except _OneWay:
            return self.model(graph, stress, virials)

    def deviation(self) -> float:
        """Largest relative difference from the model in float64, so that only rounding counts.

        With two layers, features are of high order, and a dense structure that the model does not know has
        huge energies that cancel. The structure is stretched until the model itself is right in float32; the
        result is infinite if it never is.
        """
        exact, single = copy.deepcopy(self.model).double().eval(), copy.deepcopy(self.model).float().eval()
        atoms = example_graphs(self.model)[-1].atoms
        for factor in STRETCHES:
            graph = self.model.graph(
                replace(atoms, positions=atoms.positions * factor, cell=atoms.cell * factor)
            )
            expected = exact(graph)
            if max(deviations(single(graph), expected).values()) <= tolerance(torch.float32) / 2:
                return max(deviations(self(graph), expected).values())
        return math.inf

    def __reduce__(self):
        return build, (self.model,)

    def _refuse(self, status, graph, culprits) -> None:
        if status == ONE_WAY:
            raise _OneWay
        super()._refuse(status, graph, culprits)


class _OneWay(Exception):
    """A neighbour list has a bond in one direction alone."""


def _structs(kind: type[ctypes.Structure], arrays: Sequence[Mapping[str, torch.Tensor]]) -> ctypes.Array:
    return (kind * len(arrays))(
        *(kind(**{name: tensor.data_ptr() for name, tensor in weights.items()}) for weights in arrays)
    )


class _Widths:
    """Pads channels to what the kernel is built for."""

    def __init__(self, model: MomentNetwork):
        config = model.config
        self.n, self.own = len(model.elements), cast(MomentLayer, model.layers[0]).n_own
        self.channels, self.messages = config.channels, config.message_channels
        self.hidden = config.hidden
        self.dtype = model.dtype

    def last(self, x: torch.Tensor) -> torch.Tensor:
        """Channels (..., C), in float64, with zeros up to a multiple of 16."""
        return one_layer.pad(x.double(), (*x.shape[:-1], one_layer.padded(x.shape[-1])))

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        """Vectors (n, K, C), or (K, C) for all elements → (n, K·C)."""
        x = x.expand(self.n, *x.shape[-2:])
        return self.last(x).flatten(1)

    def matrix(self, x: torch.Tensor) -> torch.Tensor:
        """(..., K, C, out) → (..., K·C, out)."""
        return self.last(self.last(x.transpose(-1, -2)).transpose(-1, -2)).flatten(-3, -2)

    def finish(self, arrays: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Copies without gaps: the model may be trained on. Constants stay float64."""
        dtypes = {"constant": torch.float64}
        return {name: x.to(dtypes.get(name, self.dtype)).contiguous().clone() for name, x in arrays.items()}


@torch.no_grad()
def _fold_layer(model: MomentNetwork, layer: MomentLayer | MessageLayer) -> dict[str, torch.Tensor]:
    """Arrays of ``Layer`` in ``message_block.h``."""
    w = _Widths(model)
    parts = _first_layer(layer, w) if isinstance(layer, MomentLayer) else _later_layer(layer, w)
    shape = N_INVARIANTS, w.channels
    features = {
        name: w.rows(layer.get_buffer(name).view(-1, *shape)) for name in ("feature_shift", "feature_scale")
    }
    return w.finish({**features, **parts})


def _first_layer(layer: MomentLayer, w: _Widths) -> dict[str, torch.Tensor]:
    shape = N_INVARIANTS, w.channels
    hidden = layer.hidden.weight.view(w.own, w.hidden, *shape).permute(0, 2, 3, 1)  # (n_own, F, C, H)
    bias = layer.hidden.bias.view(w.own, w.hidden).expand(w.n, -1)
    if layer.species_bias is not None:
        bias = bias + layer.species_bias.weight
    return {
        "hidden": w.matrix(hidden),
        "hidden_t": w.matrix(hidden).mT,
        "bias": w.last(bias),
        "readout": w.last(layer.readout.weight.view(w.own, -1)),
        "linear": w.last(layer.linear.weight.view(w.own, *shape)).flatten(1),
        "constant": layer.readout.bias.expand(w.n),
    }


def _later_layer(layer: MessageLayer, w: _Widths) -> dict[str, torch.Tensor]:
    shape, ranks = (N_INVARIANTS, w.channels), RANK + 1
    mix, keep = w.matrix(layer.mix.weight[:, None]), w.matrix(layer.keep.weight[:, None])  # (4, K, C)
    mix_gain = layer.get_buffer("message_scale").double().expand(w.n, ranks, w.messages)
    if layer.mix.gain is not None:
        mix_gain = mix_gain * layer.mix.gain.view(w.n, ranks, w.messages)
    keep_gain = mix_gain.new_ones(w.n, ranks, w.channels)
    if layer.keep.gain is not None:
        keep_gain = layer.keep.gain.view(w.n, ranks, w.channels)
    hidden = layer.hidden.unflatten(-1, (w.own, w.hidden)).permute(2, 0, 1, 3)  # (n_own, F, C, H)
    before = w.matrix(layer.before[None])
    return {
        "mix": mix,
        "mix_t": mix.mT,
        "mix_gain": w.last(mix_gain),
        "mix_shift": w.last(layer.get_buffer("message_shift").expand(w.n, w.messages)),
        "keep": keep,
        "keep_t": keep.mT,
        "keep_gain": w.last(keep_gain),
        "before": before,
        "before_t": before.mT,
        "hidden": w.matrix(hidden),
        "hidden_t": w.matrix(hidden).mT,
        "bias": w.last(layer.bias.view(w.n, w.hidden)),
        "readout": w.last(layer.readout.view(w.own, w.hidden)),
        "linear": w.last(layer.linear.view(w.own, *shape)).flatten(1),
        "constant": torch.zeros(w.n),
    }


@torch.no_grad()
def _fold_sender(model: MomentNetwork, sender: Sender) -> dict[str, torch.Tensor]:
    """Arrays of ``Sender`` in ``message_block.h``."""
    w = _Widths(model)
    assert sender.scalars.bias is not None
    scales = {
        "scalar": (sender.scalars, torch.ones(N_INVARIANTS, w.channels)),
        "vector": (sender.vectors, sender.get_buffer("vector_scale")),
        "matrix": (sender.matrices, sender.get_buffer("matrix_scale")),
        "gate": (sender.gate, torch.ones(1, w.hidden)),
    }
    gains = {}
    for name, (linear, scale) in scales.items():
        gain = scale.double().expand(w.n, *scale.shape[-2:])
        gains[f"{name}_gain"] = w.rows(gain if linear.gain is None else gain * linear.gain.view(gain.shape))
    gate = w.last(sender.gate.weight.unflatten(-1, (3, w.messages)))  # (1, H, 3, M)
    weights = {
        "scalars": w.matrix(sender.scalars.weight),
        "vectors": w.matrix(sender.vectors.weight),
        "matrices": w.matrix(sender.matrices.weight),
        "gate": w.matrix(gate.flatten(-2)),
    }
    return w.finish(
        {
            **gains,
            **weights,
            **{f"{name}_t": weight.mT for name, weight in weights.items()},
            "bias": w.last(sender.scalars.bias.view(w.n, w.messages)),
            "radial": w.last(sender.radial_weights),
            "damping": torch.tensor([sender.damping], dtype=torch.float64),
        }
    )
