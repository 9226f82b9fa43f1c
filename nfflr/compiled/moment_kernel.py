"""The one-layer moment-tensor network as one fused C++ kernel for processors."""

from __future__ import annotations

import copy
import ctypes
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import torch

from ..data.graph import Graph, coincident
from ..models.classical.core_repulsion import COULOMB
from ..models.evaluator import Compiled, Input
from ..models.moment import MomentNetwork
from ..nn.tensors import N_INVARIANTS, RANK
from .aot_graph import deviations, example_graphs, tolerance
from .artefacts import is_built, load_library

logger = logging.getLogger("nfflr")

SOURCE = Path(__file__).with_name("moment.cpp")
REAL = {torch.float32: "float", torch.float64: "double"}
UNKNOWN_ELEMENT, COINCIDENT, NO_MEMORY = 1, 2, 3


class _Model(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("n_elements", "n_own", "n_embedding", "envelope", "repulsion", "n_numbers")
    ]
    _fields_ += [(name, ctypes.c_double) for name in ("cutoff", "scale")]
    _fields_ += [
        (name, ctypes.c_void_p)
        for name in (
            *("element_index", "pairs", "reference"),
            *("embedding", "mix", "mix_t", "joint", "joint_t", "shift", "gain", "feature_shift"),
            *("hidden", "hidden_t", "bias", "readout", "linear", "constant"),
        )
    ]


class _Structures(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("n_atoms", "n_local", "n_edges", "n_structures")]
    _fields_ += [
        (name, ctypes.c_void_p)
        for name in ("positions", "numbers", "structure", "src", "dst", "translation", "cell")
    ]


class _Results(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("total", "energies", "forces", "stress", "culprits")]


def suits(model: torch.nn.Module) -> TypeGuard[MomentNetwork]:
    """Whether there are kernels for this model: on a processor, with tensors as messages if with any."""
    return (
        isinstance(model, MomentNetwork)
        and (model.config.tensor_messages or model.config.layers == 1)
        and model.compute_forces
        and model.device.type == "cpu"
        and model.dtype in REAL
    )


def takes(model: torch.nn.Module) -> TypeGuard[MomentNetwork]:
    """Whether the kernel of one layer is for this model."""
    return suits(model) and model.config.layers == 1


def build(model: MomentNetwork) -> MomentKernel | None:
    """A kernel with the weights that ``model`` has now, checked against the model itself.

    Returns:
        None if the model has several layers or is not on the CPU, without a C++ compiler, or, with a line
        logged, where kernel and model disagree.
    """
    return built(MomentKernel, model, SOURCE, defines(model)) if takes(model) else None


def built(
    kind: type[MomentKernel], model: MomentNetwork, source: Path, macros: dict[str, object]
) -> MomentKernel | None:
    """As ``build``, a kernel of this kind from this source."""
    started = time.perf_counter()
    cached = is_built(source, macros)
    library = load_library(source, macros)
    if library is None:
        return None
    kernel = kind(model, library)
    worst = kernel.deviation()
    if not worst <= tolerance(model.dtype):
        logger.warning("%s: differs from the model by %.1e, so it is not used", source.stem, worst)
        return None
    kernel.origin = "from the cache" if cached else f"built in {time.perf_counter() - started:.2g} s"
    return kernel


def is_ready(model: MomentNetwork) -> bool | None:
    """Whether ``build`` need not compile; None if there is no kernel for this model here."""
    return is_built(SOURCE, defines(model)) if takes(model) else None


def defines(model: MomentNetwork) -> dict[str, object]:
    config = model.config
    return {
        "REAL": REAL[model.dtype],
        "RADIAL": config.n_radial,
        "CHANNELS": padded(config.channels),
        "HIDDEN": padded(config.hidden),
    }


class MomentKernel(Compiled):
    """``Potential.forward`` of a one-layer moment-tensor network whose weights stay as they are.

    Bonds longer than the cutoff cost little and count nothing: a graph may hold all candidates of a
    neighbour list. Forces and stress are float64, since they are summed in it.
    """

    kind = "kernel"
    takes_candidates = takes_parts = True
    model: MomentNetwork

    def __init__(self, model: MomentNetwork, library: ctypes.CDLL):
        super().__init__(model)
        self.origin = ""
        self._evaluate = self.function(library)
        self._evaluate.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64]
        self._weights = _fold(model)  # kept: the kernel reads their memory
        self._model = struct(model, vars(self._weights).values())

    @staticmethod
    def function(library: ctypes.CDLL):
        """What evaluates in the library."""
        return library.nfflr_moment

    def __call__(self, x: Input, stress: bool = True, virials: bool = False) -> dict[str, torch.Tensor]:
        """As ``Potential.forward``; atomic virials are computed by the model itself.

        Raises:
            StructureError: an element that the model does not cover, or two atoms that coincide.
        """
        graph = self.model.graph(x)
        if virials:
            return self.model(graph, stress, virials)
        atoms = graph.atoms
        n, several = len(atoms), atoms.cell.shape[:-2]  # () or (B,)
        local = n if graph.n_local is None else graph.n_local
        result = {
            "total_energy": torch.empty(several, dtype=torch.float64),
            "energies": torch.empty(local, dtype=torch.float64),
            "forces": torch.empty(n, 3, dtype=torch.float64),
        }
        if stress:
            result["stress"] = torch.empty(*several, 3, 3, dtype=torch.float64)
        inputs = (
            atoms.positions,
            atoms.numbers,
            atoms.structure,
            graph.src,
            graph.dst,
            graph.shift,
            atoms.cell,
        )
        arrays = [None if t is None else t.contiguous() for t in inputs]  # kept until the kernel is done
        culprits = (ctypes.c_int64 * 2)()
        structures = _Structures(n, local, len(graph.src), atoms.n_structures, *map(_address, arrays))
        outputs = [_address(result.get(name)) for name in ("total_energy", "energies", "forces", "stress")]
        results = _Results(*outputs, ctypes.addressof(culprits))
        status = self._evaluate(
            ctypes.byref(self._model),
            ctypes.byref(structures),
            ctypes.byref(results),
            torch.get_num_threads(),
        )
        if status:
            self._refuse(status, graph, culprits)
        return result

    def deviation(self) -> float:
        """Largest relative difference from the model in float64, so that only rounding counts."""
        exact = copy.deepcopy(self.model).double().eval()
        graph = example_graphs(self.model)[-1]
        return max(deviations(self(graph), exact(graph)).values())

    def __deepcopy__(self, memo) -> MomentKernel:
        return self  # nothing in it ever changes

    def __reduce__(self):
        return build, (self.model,)

    def _refuse(self, status: int, graph: Graph, culprits: ctypes.Array) -> None:
        if status == UNKNOWN_ELEMENT:
            self.model.species(graph.atoms.numbers)  # names it
        if status == COINCIDENT:
            raise coincident(*culprits)
        raise MemoryError(f"{len(graph.atoms)} atoms: no memory for forces")


def constants(model: MomentNetwork) -> dict[str, torch.Tensor]:
    """What the kernels read that no training changes, in the order of their struct."""
    z, scale = model.numbers.double(), model.scale.double()
    strength = COULOMB * z[:, None] * z / (2 * scale)
    screening = (z[:, None] ** 0.23 + z**0.23) / 0.46850  # see zbl_energy
    inner, outer = model.zbl_inner.double(), model.zbl_outer.double()
    pairs = torch.stack([strength, screening, inner, 1 / (outer - inner)], dim=-1)
    return {
        "element_index": model.element_index,
        "pairs": pairs.to(model.dtype),  # (n, n, 4)
        "reference": model.reference_energies.double(),  # (n,) eV
    }


def struct(model: MomentNetwork, arrays: Iterable[torch.Tensor]) -> ctypes.Structure:
    """A model as kernels read it, as long as ``arrays`` live; those that are left out are null."""
    embedding = 1 if model.bond_embedding is None else model.config.species_channels
    sizes = len(model.elements), model.layers[0].n_own, embedding
    integers = (*sizes, model.config.envelope, model.config.zbl, len(model.element_index))
    return _Model(*integers, model.cutoff, float(model.scale), *(t.data_ptr() for t in arrays))


@dataclass
class _Weights:
    """``constants``, then arrays in the order of the kernel's struct; factors in a row are multiplied out."""

    element_index: torch.Tensor
    pairs: torch.Tensor
    reference: torch.Tensor
    embedding: torch.Tensor  # (n, S), the last axis filled up to a multiple of 16
    mix: torch.Tensor  # (n_own, n, 4, B, C), n_own is n where elements have weights of their own, else 1
    mix_t: torch.Tensor  # (n_own, n, 4, C, B), filled up as well
    joint: torch.Tensor  # (n_own, 4, S·B, C), of which an element's embedding makes its mix
    joint_t: torch.Tensor  # (n_own, 4, C, S·B), filled up as well
    shift: torch.Tensor  # (n_own, C)
    gain: torch.Tensor  # (n, 4, C)
    feature_shift: torch.Tensor  # (F·C,)
    hidden: torch.Tensor  # (n_own, H/16, F·C, 16)
    hidden_t: torch.Tensor  # (n_own, F·C/16, H, 16)
    bias: torch.Tensor  # (n, H)
    readout: torch.Tensor  # (n_own, H)
    linear: torch.Tensor  # (n_own, F·C)
    constant: torch.Tensor  # (n_own,) float64


@torch.no_grad()
def _fold(model: MomentNetwork) -> _Weights:
    layer, config, n = model.layers[0], model.config, len(model.elements)
    channels, hidden, radial = padded(config.channels), padded(config.hidden), config.n_radial
    own = layer.n_own

    scaled = (layer.mix * layer.moment_scale[:, :, None]).double()  # (4, S·B, n_own·C)
    shift = (layer.moment_shift.double() @ scaled[0]).view(own, -1)  # (n_own, C)
    scaled = scaled.view(RANK + 1, -1, config.n_radial, own, config.channels)  # (4, S, B, n_own, C)
    embedding = torch.ones(1, 1) if model.bond_embedding is None else model.bond_embedding.weight
    mix = torch.einsum("zs,lsboc->ozlbc", embedding.double(), scaled)
    mix = pad(mix, (own, n, RANK + 1, radial, channels))
    joint = scaled.permute(3, 0, 1, 2, 4).flatten(2, 3)  # (n_own, 4, S·B, C)
    joint = pad(joint, (*joint.shape[:3], channels))
    gain = torch.ones(n, RANK + 1, config.channels) if layer.gain is None else layer.gain
    bias = layer.hidden.bias.double().view(own, -1).expand(n, -1)
    if layer.species_bias is not None:
        bias = bias + layer.species_bias.weight.double()

    def features(x: torch.Tensor) -> torch.Tensor:  # (..., F·C), each channel block padded
        blocks = x.double().unflatten(-1, (N_INVARIANTS, config.channels))
        return pad(blocks, (*blocks.shape[:-1], channels)).flatten(-2)

    weight = features((layer.hidden.weight.double() * layer.feature_scale).view(own, config.hidden, -1))
    weight = pad(weight, (own, hidden, N_INVARIANTS * channels))
    weights = _Weights(
        **constants(model),
        embedding=_wide(embedding),
        mix=mix,
        mix_t=_wide(mix.transpose(3, 4)),
        joint=joint,
        joint_t=_wide(joint.transpose(2, 3)),
        shift=pad(shift, (own, channels)),
        gain=pad(gain.double(), (n, RANK + 1, channels)),
        feature_shift=features(layer.feature_shift),
        hidden=weight.transpose(1, 2).unflatten(2, (-1, 16)).transpose(1, 2),
        hidden_t=weight.unflatten(2, (-1, 16)).transpose(1, 2),
        bias=pad(bias, (n, hidden)),
        readout=pad(layer.readout.weight.double(), (own, hidden)),
        linear=features(layer.linear.weight.double() * layer.feature_scale),
        constant=layer.readout.bias.double(),
    )
    exact = {*constants(model), "constant"}
    for name, value in vars(weights).items():
        # A copy: the model may be trained on, and the kernel wants rows without gaps.
        dtype = value.dtype if name in exact else model.dtype
        setattr(weights, name, value.to(dtype).contiguous().clone())
    return weights


def _address(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def padded(width: int) -> int:
    """Widths are filled up with zeros to multiples of the widest register."""
    return -(-width // 16) * 16


def _wide(x: torch.Tensor) -> torch.Tensor:
    """The last axis filled up with zeros, see ``padded``."""
    return pad(x, (*x.shape[:-1], padded(x.shape[-1])))


def pad(x: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    padded = x.new_zeros(shape)
    padded[tuple(slice(k) for k in x.shape)] = x
    return padded
