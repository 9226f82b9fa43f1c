"""One compiled graph of energies, forces and stress for structures of any size."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch
from ase.data import covalent_radii

from ..atoms import Atoms
from ..data.graph import Graph
from ..models.assemble import Inputs, assemble
from ..models.base import Potential
from ..models.evaluator import Compiled, Input
from .artefacts import Artefacts, compiler

SETTINGS = {
    "cpp.dynamic_threads": True,  # as many as torch has when it runs, not when it was built
    "cpp.vec_isa_ok": True,  # the processor says what it can; no trial programs
    "cpp.enable_tiling_heuristics": False,  # a third of the compiler's time; its choice was slower here
}

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
SIZES = (((1, 2, 2), (1, 2, 3), (2, 2, 2), (1, 1, 5), (3, 2, 1)), ((3, 2, 2),), ((2, 1, 2), (4, 3, 2)))
FLOOR = 0.1  # eV, eV/Å: against values smaller than this, differences are not relative


class NotCompiled(Exception):
    """Why a model has no compiled form; the message is a reason, in one line."""


class CompiledGraph(Compiled):
    """A potential whose ``forward`` is one compiled graph; see ``load_graph``.

    Nothing is compiled when sizes change. What has no interactions (fewer than two bonds, or angles, for a
    potential that has them) is left to the model itself.
    """

    kind = "graph"
    model: Potential

    def __init__(self, model: Potential, path: Path, origin: str = ""):
        super().__init__(model)
        self.origin = origin
        index = model.device.index if model.device.index is not None else -1
        # The loader is taken from torch's core: importing all of the compiler would cost a second.
        self._loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, index)

    def __call__(self, x: Input, stress: bool = True, virials: bool = False) -> dict[str, torch.Tensor]:
        """As ``Potential.forward``."""
        graph = self.model.graph(x)
        inputs = arguments(self.model, graph)
        if graph.n_local is not None or min(tensor.shape[0] for tensor in inputs) < 2:
            return self.model(graph, stress, virials)
        return results(self.model, graph, self._loader.boxed_run(inputs), stress, virials)


def results(
    model: Potential, graph: Graph, outputs: Sequence[torch.Tensor], stress: bool, virials: bool
) -> dict[str, torch.Tensor]:
    """The outputs of ``function`` as ``Potential.forward`` has them: what ``arguments`` added is left out."""
    n, b = len(graph.atoms), graph.atoms.n_structures
    first = slice(b) if graph.atoms.is_batch else 0
    per_atom = {q.name: q.per_atom for q in model.outputs} | {"virials": True}
    unwanted = {"stress": not stress, "virials": not virials}
    return {
        name: output[:n] if per_atom[name] else output[first]
        for name, output in zip(names(model), outputs, strict=True)
        if not unwanted.get(name)
    }


def names(model: Potential) -> list[str]:
    """Names of the outputs of ``function``, in order."""
    return [*(quantity.name for quantity in model.outputs), "virials"]


def load_graph(model: Potential) -> CompiledGraph:
    """The compiled graph of a model, from the user's cache or built now; checked against the model.

    Energies and their gradient with respect to bond vectors are traced into one graph with symbolic sizes
    (``make_fx``) and compiled ahead of time (AOTInductor).

    Raises:
        NotCompiled: no compiler, an architecture that cannot be traced, or results that differ.
    """
    if not model.compute_forces:
        raise NotCompiled("the model gives no forces, and energies alone gain nothing")
    started = time.perf_counter()
    example, *others = example_graphs(model)
    with Artefacts(model) as artefacts:
        path = artefacts.find()
        if path is not None:
            compiled = _checked(model, path, others[:1])
            if compiled is not None:
                compiled.origin = "from the cache"
                return compiled
            artefacts.discard()  # whole, but not what this model gives: its code must have changed
        if compiler() is None:
            raise NotCompiled("no C++ compiler here; install g++, or set CXX")
        with artefacts.new() as path:
            _compile(model, example, path)
            compiled = _checked(model, path, others)
            if compiled is None:
                raise NotCompiled("the compiled graph disagrees with the model itself")
            where = artefacts.keep()
        compiled.origin = f"built in {time.perf_counter() - started:.3g} s"
        if where != str(artefacts.folder):
            compiled.origin += f", {where}"
    return compiled


def _checked(model: Potential, path: Path, graphs: list[Graph]) -> CompiledGraph | None:
    """The compiled graph if it gives what the model gives, else None."""
    try:
        compiled = CompiledGraph(model, path)
        worst = max(max(deviations(compiled(graph), model(graph)).values()) for graph in graphs)
    except (RuntimeError, ValueError):  # a package that does not load or run, whatever torch has to say
        return None
    return compiled if worst <= tolerance(model.dtype) else None


def arguments(model: Potential, graph: Graph) -> list[torch.Tensor]:
    """Inputs of the compiled graph: species, structures, cells, bonds, then the model's tables.

    There is one more structure than given, since a size of one would be taken for a constant; it gets an
    atom if there is only one.

    Raises:
        StructureError: naming the elements that the model does not cover.
    """
    atoms = graph.atoms
    structure, cells = atoms.structure_index(), atoms.cell.reshape(-1, 3, 3)
    if len(atoms) == 1:
        structure = torch.arange(2, device=structure.device)
        positions, numbers = atoms.positions.expand(2, 3), atoms.numbers.expand(2)
        graph = replace(graph, atoms=Atoms(positions, numbers, cells, atoms.pbc))
    inputs = model.inputs(graph)
    cells = torch.cat([cells, cells.new_zeros(1, 3, 3)])
    columns = [inputs.species, structure, cells, inputs.src, inputs.dst, inputs.vectors, *inputs.tables]
    return [tensor.detach().contiguous() for tensor in columns]


def function(model: Potential) -> Callable[..., tuple[torch.Tensor, ...]]:
    """What is compiled: ``arguments`` → the outputs of ``names``, of B structures.

    Of a model in training mode the outputs can be differentiated with respect to its weights.
    """

    def evaluate(species, structure, cells, src, dst, vectors, *tables):
        numbers = model.numbers.index_select(0, species)
        inputs = Inputs(species, numbers, src, dst, vectors.detach().requires_grad_(), tables)
        outputs = assemble(model, inputs, cells, structure, virials=True)
        return tuple(outputs[name] for name in names(model))

    return evaluate


def _compile(model: Potential, example: Graph, path: Path) -> None:
    """Write the compiled package to ``path``.

    Raises:
        NotCompiled: with the first line of what went wrong.
    """
    from torch._inductor import aot_compile
    from torch._inductor.package import package_aoti
    from torch._inductor.utils import fresh_cache

    settings = {
        **SETTINGS,
        "aot_inductor.package": True,
        "aot_inductor.precompile_headers": False,  # compiled once each, so that costs more than it saves
    }
    model(example)  # constants that are kept once made must not be made while tracing
    failure = None  # raised outside: the temporary cache would be left behind, and said so
    with warnings.catch_warnings(), torch.inference_mode(False), fresh_cache(dir=str(path.parent)):
        warnings.simplefilter("ignore")
        try:
            inputs = arguments(model, example)
            traced = trace(copy.deepcopy(model).requires_grad_(False), inputs)
            files = aot_compile(traced, tuple(inputs), options=settings)
            assert isinstance(files, list)  # which aot_inductor.package asks for
            package_aoti(str(path), files)
        except Exception as error:  # tracing runs the model's code, compiling runs a compiler
            failure = error
    if failure is not None:
        raise not_compiled(model, failure) from failure


def not_compiled(model: Potential, error: Exception) -> NotCompiled:
    """What went wrong, in one line."""
    if isinstance(error, NotCompiled):
        return error
    lines = str(error).strip().splitlines() or [""]
    return NotCompiled(
        f"{type(model).__name__} cannot be compiled ({type(error).__name__}: {lines[0][:200]})"
    )


def trace(
    model: Potential, inputs: list[torch.Tensor], evaluate: Callable[..., Any] | None = None
) -> torch.fx.GraphModule:
    """``evaluate`` as elementary operations, sizes as symbols; the weights are the model's own.

    Args:
        model: whose weights there are in it.
        inputs: examples.
        evaluate: default: ``function(model)``.

    Raises:
        NotCompiled: a number of atoms, bonds, … became a constant.
    """
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import is_concrete_int

    with torch.enable_grad():
        traced = make_fx(evaluate or function(model), tracing_mode="symbolic", _allow_non_fake_inputs=True)(
            *inputs
        )
    sizes = [node.meta["val"].shape[0] for node in traced.graph.find_nodes(op="placeholder")]
    if any(is_concrete_int(size) for size in sizes):
        raise NotCompiled(
            f"{type(model).__name__} cannot be compiled (a size became a constant; "
            "use x.shape[0] in place of len(x))"
        )
    return traced


def example_graphs(model: Potential) -> list[Graph]:
    """Batches of different sizes; the first is for tracing, the others for comparisons.

    Numbers of atoms, bonds, … that coincide by chance would become one symbol, so the first has none that
    the next does not have too.
    """
    others = [_batch(model, sizes, seed) for seed, sizes in enumerate(SIZES[1:])]
    pattern = _pattern(arguments(model, others[0]))
    for seed in count(100):
        first = _batch(model, SIZES[0], seed)
        if _pattern(arguments(model, first)) == pattern or seed == 120:
            return [first, *others]
    raise AssertionError


def _batch(model: Potential, sizes, seed: int) -> Graph:
    return model.graph([_structure(model, repeat, seed) for repeat in sizes])


def _pattern(tensors: list[torch.Tensor]) -> list[int]:
    """Which sizes are equal: for each, the position of the first that is the same."""
    sizes = [len(tensor) for tensor in tensors]
    return [sizes.index(size) for size in sizes]


def _structure(model: Potential, repeat: tuple[int, int, int], seed: int) -> ase.Atoms:
    """A rattled simple cubic lattice, bonds as long as atoms are thick, elements drawn from the model's."""
    rng = np.random.default_rng(seed)
    drawn = rng.choice(model.numbers.cpu().numpy(), int(np.prod(repeat)))
    bond = min(2.1 * covalent_radii[drawn].mean(), 0.6 * model.cutoff)  # second neighbours too
    if model.shortest_distances is not None:  # nearer, a network's energies may be beyond all bounds
        bond = min(max(bond, 1.1 * float(model.shortest_distances.max())), 0.9 * model.cutoff)
    atoms = ase.Atoms("H", cell=[bond] * 3, pbc=True).repeat(repeat)
    atoms.numbers = drawn
    atoms.positions += 0.04 * bond * rng.normal(size=(len(atoms), 3))
    return atoms


def deviations(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float]:
    """Largest difference of each quantity, relative to its largest value."""
    worst = {}
    for name, values in expected.items():
        scale = max(FLOOR, float(values.abs().max())) if values.numel() else 1.0
        gap = (actual[name] - values).abs().max() if values.numel() else torch.zeros(())
        worst[name] = float(gap) / scale if torch.isfinite(gap) else np.inf
    return worst


def tolerance(dtype: torch.dtype) -> float:
    """What ``deviations`` may be at most."""
    return TOLERANCE[dtype]
