"""``NFFLrCalculator``: a trained model as an ASE calculator."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch
from ase.calculators.calculator import Calculator, all_changes
from ase.data import chemical_symbols
from ase.outputs import Properties, all_outputs

from .adapters.wrapped import OPTIONS, Wrapped, is_program
from .cards import domains_in
from .compiled import compile_potential, kernel, kernels_are_ready
from .data.graph import Graph, batch_graphs
from .data.verlet import VerletList, same_array
from .errors import ConfigError, NumericsError, StructureError, did_you_mean
from .models.evaluator import NO_CUTOFF, Compiled, Evaluator
from .notes import note
from .structures.checks import check_structure
from .terms import open_evaluator
from .workflows.framework.interface import has_stress, require_stress

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class NFFLrCalculator(Calculator):
    """ASE calculator for a model that maps structures to energy, forces and stress.

    Results: ``energy`` = ``free_energy`` (eV), ``energies`` (N,) eV, ``forces`` (N, 3) eV/Å and, where the
    cell has a volume and an axis is periodic, ``stress`` (6,) eV/Å³ in ASE's order and sign. Of a committee
    these are means, with the sample standard deviations ``energy_std`` (eV) and ``forces_std`` (N,) eV/Å.

    Args:
        model: an ``Evaluator`` (a potential, a sum, a committee), or any module or callable as ``Wrapped``
            takes it.
        device: ``"cpu"``, ``"cuda"``, …; default: where the model is.
        dtype: ``"float32"`` or ``"float64"``; default: the model's.
        skin: Å by which the neighbour list reaches beyond the cutoff, so that it can be kept.
        compile: evaluate a compiled form of the model, which is built at once unless the user's cache has
            it; where that cannot be, the model itself, and a line is logged.
        metadata: what ``todict`` reports, as read from the checkpoint.
        wrapping: ``input``, ``keys``, ``units``, ``signs``, … of a model from elsewhere, see ``Wrapped``.

    Raises:
        ConfigError: unknown dtype, a device that is not there, a model that predicts no energy, or
            one from elsewhere that cannot be used (see ``Wrapped``).
        StructureError: on attaching to a structure with an element that the model does not cover.

    Example:
        >>> from ase.build import bulk
        >>> atoms = bulk("Si", a=5.469)
        >>> atoms.calc = NFFLrCalculator.load("mlearn-si")
        >>> round(atoms.get_potential_energy() / len(atoms), 2)  # eV/atom
        -5.42
    """

    name = "nfflr"

    def __init__(
        self,
        model: Evaluator | Callable,
        *,
        device: str | None = None,
        dtype: str | None = None,
        skin: float = 0.5,
        compile: bool = False,
        metadata: dict | None = None,
        **wrapping: Any,
    ):
        super().__init__()
        ours = isinstance(model, Evaluator)
        _check_options(wrapping, () if ours else OPTIONS)
        evaluator: Any = model if isinstance(model, Evaluator) else Wrapped(model, **wrapping)
        if not evaluator.is_potential:
            raise ConfigError(
                f"{type(model).__name__}: it predicts a property, not an energy; call the model itself, "
                "model(atoms), or give a potential"
            )
        if dtype is not None and dtype not in DTYPES:
            raise ConfigError(f"dtype: got {dtype!r}; expected one of {sorted(DTYPES)}")
        if not 0 <= skin < np.inf:
            raise ConfigError(f"skin: got {skin}; expected a length in Å, not negative")
        where = find_device(evaluator.device if device is None else device)
        precision = DTYPES[dtype] if dtype else evaluator.dtype
        # A copy: what the caller does to the model later must not change numbers that ASE has cached.
        self.model: Any = copy.deepcopy(evaluator).to(device=where, dtype=precision).eval()
        self.metadata = {**evaluator.metadata, **(metadata or {})}
        self._domains, self._noted = domains_in(self.metadata), False
        offered = [quantity.ase_name or quantity.name for quantity in evaluator.outputs]
        offered += ["magmom"] if "magmoms" in offered else []  # the sum, which ASE knows too
        self.implemented_properties = ["energy", "free_energy", *(n for n in offered if n != "energy")]
        self._neighbours = VerletList(evaluator.cutoff or NO_CUTOFF, skin, self.model.device)
        self._copied: ase.Atoms | None = None  # the last structure
        self._compile = compile
        self._compiled: Compiled | None = None
        if compile:
            _ = self.compiled

    @property
    def compiled(self) -> Compiled | None:
        """The compiled form of the model in use, if any. A pickled calculator looks for it at first use."""
        if self._compile and self._compiled is None:
            self._compiled = compile_potential(self.model)
            self._compile = self._compiled is not None
        return self._compiled

    @property
    def _form(self) -> Evaluator:
        """What is evaluated: the compiled form, or the model itself."""
        return self.compiled or self.model

    def kernel_is_ready(self) -> bool | None:
        """Whether ``use_kernel`` need not compile; None if there is no kernel for the model."""
        return kernels_are_ready(self.model)

    def use_kernel(self) -> bool:
        """Evaluate the hand-written compiled kernel of the model from now on; False if it has none here."""
        self._compiled = kernel(self.model) if self._compiled is None else self._compiled
        self._compile = self._compiled is not None
        return self._compile

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_compiled": None}  # machine code stays where it is

    def __deepcopy__(self, memo: dict) -> NFFLrCalculator:
        twin = memo[id(self)] = type(self).__new__(type(self))
        twin.__dict__.update(copy.deepcopy(self.__getstate__(), memo), _compiled=self._compiled)
        return twin

    @classmethod
    def load(
        cls,
        source: str | Path | Sequence[str | Path],
        *,
        device: str | None = None,
        dtype: str | None = None,
        skin: float = 0.5,
        compile: bool = False,
        trust: bool = False,
        **wrapping: Any,
    ) -> NFFLrCalculator:
        """Calculator from a bundled name, a run folder, or a checkpoint file.

        Several of them, also as ``"a,b,c"``, or a folder with files ``member-<k>.safetensors``, make a
        committee; ``"a + b"`` is a sum (see ``nfflr.terms.open_evaluator``). Members count more than the
        ``model.safetensors`` that may lie beside them. A file of TorchScript or ``torch.export`` is a
        program, which runs if ``trust`` says so; ``wrapping`` is as for ``NFFLrCalculator``.

        Raises:
            ConfigError: there is no such checkpoint, or a committee has one member.
            CheckpointError: it is damaged, does not fit this version, or has to be trusted.
        """
        program = isinstance(source, str | Path) and is_program(source)
        _check_options(wrapping, OPTIONS if program else ())
        model, metadata = open_evaluator(source, device=device or "cpu", dtype=dtype, trust=trust, **wrapping)
        return cls(model, device=device, dtype=dtype, skin=skin, compile=compile, metadata=metadata)

    def set_atoms(self, atoms: ase.Atoms) -> None:
        """Called by ASE when the calculator is attached: refuse elements the model does not cover.

        A composition that the training data say nothing about gets a note, once in a calculator's life.
        """
        self.model.species(torch.tensor(atoms.numbers, dtype=torch.int64, device=self.model.device))
        for domain in self._domains:
            domain.check(atoms)
        warnings = () if self._noted else (domain.warning(atoms) for domain in self._domains)
        if warning := next(filter(None, warnings), ""):
            source = self.metadata.get("source", "model")
            note(f"{source if isinstance(source, str) else ','.join(source)}: {warning}")
            self._noted = True

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """One evaluation gives all properties.

        Raises:
            StructureError: the structure cannot be treated (see ``check_structure``).
            NumericsError: the model returned something that is not finite.
        """
        self.results = {}  # a call that fails must not leave those of another structure
        if atoms is not None:  # all of what ASE's class does here, but for a folder of files
            self.atoms = self._copied = _copy(atoms, self._copied)
        assert self.atoms is not None
        reusable = self._neighbours.reusable(self.atoms)
        if not reusable:  # a structure that was searched had been checked
            check_structure(self.atoms)
            self.set_atoms(self.atoms)  # what is evaluated need not be attached
        with_stress = has_stress(self.atoms)
        with torch.inference_mode(False):  # the list is kept, and may meet gradients later
            graph = self._graph(self._neighbours, self.atoms, reusable)
            output = self._form(graph, stress=with_stress)
        self.results = self._results(output, graph, with_stress)

    def check_state(self, atoms: ase.Atoms, tol: float = 0.0) -> list[str]:
        """What has changed of what the model sees, to the last bit (ASE's costs more than a small cell)."""
        previous = self.atoms
        if previous is None or len(previous) != len(atoms):
            return list(all_changes)
        pairs = {
            "positions": (previous.positions, atoms.positions),
            "numbers": (previous.numbers, atoms.numbers),
            "cell": (previous.cell.array, atoms.cell.array),
            "pbc": (previous.pbc, atoms.pbc),
        }
        return [name for name, (old, new) in pairs.items() if not same_array(old, new)]

    @property
    def shortest_distances(self) -> np.ndarray | None:
        """(Z, Z) Å by atomic numbers, below which the training data held no pair; None if not known."""
        distances = self.model.shortest_distances  # (n, n) Å
        if distances is None:
            return None
        numbers = [chemical_symbols.index(element) for element in self.model.elements]
        table = np.zeros((len(chemical_symbols), len(chemical_symbols)))
        table[np.ix_(numbers, numbers)] = distances.cpu().numpy()
        return table

    def reset(self) -> None:
        """Forget results, structure and neighbour list: what follows depends on nothing that came before."""
        super().reset()
        self._copied = None
        self._neighbours.forget()

    def get_property(
        self, name: str, atoms: ase.Atoms | None = None, allow_calculation: bool = True
    ) -> Any:  # a float or an array, by its name
        """As ASE's; a stress that does not exist is refused before anything is computed."""
        target = self.atoms if atoms is None else atoms
        if name == "stress" and target is not None:
            require_stress(target)
        return super().get_property(name, atoms, allow_calculation)

    def export_properties(self) -> Properties:
        """As ASE's, whose ``Properties`` takes only names that it knows: those of the spread are left out."""
        return Properties({name: value for name, value in self.results.items() if name in all_outputs})

    def evaluate(self, structures: Iterable[ase.Atoms], max_edges: int = 100_000) -> list[dict]:
        """Results of many structures, evaluated as batches of about ``max_edges`` neighbours at most.

        Returns:
            one dict per structure, as ``calculate`` leaves in ``results``.

        Raises:
            StructureError, NumericsError: naming the structure by its position.
        """
        results: list[dict] = []
        form = self._form
        if form.takes_candidates or not form.takes_batches:
            # One by one: a kernel takes atoms in blocks of its own, and a batch is only copies to it.
            max_edges = -1
        with torch.inference_mode(False):
            for chunk in self._chunks(structures, max_edges):
                for (atoms, graph), output in zip(chunk, self._outputs(chunk, len(results)), strict=True):
                    item = f"structure {len(results)}"
                    results.append(self._results(output, graph, has_stress(atoms), item))
        return results

    def _outputs(self, chunk: list[tuple[ase.Atoms, Graph]], first: int) -> list[dict[str, torch.Tensor]]:
        """The model's dict for each structure of a chunk, of which ``first`` is the first one's number."""
        if len(chunk) == 1:
            with _naming(f"structure {first}"):
                return [self._form(chunk[0][1])]
        output = self._form(batch_graphs([graph for _, graph in chunk]))
        output = {name: value.cpu() for name, value in output.items()}
        sizes = [len(atoms) for atoms, _ in chunk]
        per_atom = {q.name for q in self.model.outputs if q.per_atom} & output.keys()
        parts = output | {name: output[name].split(sizes) for name in per_atom}
        return [{name: values[k] for name, values in parts.items()} for k in range(len(chunk))]

    def _chunks(
        self, structures: Iterable[ase.Atoms], max_edges: int
    ) -> Iterator[list[tuple[ase.Atoms, Graph]]]:
        """Runs of structures and their graphs with at most ``max_edges`` bonds, or a single structure."""
        # Displaced copies of one supercell share a list. It begins here and not with what the calculator met
        # before, so that the same structures give the same bits.
        neighbours = VerletList(self._neighbours.cutoff, self._neighbours.skin, self.model.device)
        chunk: list[tuple[ase.Atoms, Graph]] = []
        edges = 0
        for k, atoms in enumerate(structures):
            reusable = neighbours.reusable(atoms)  # then so are its elements
            if not reusable:
                check_structure(atoms, f"structure {k}")
            with _naming(f"structure {k}"):
                if not reusable:
                    self.set_atoms(atoms)
                graph = self._graph(neighbours, atoms, reusable)
            if chunk and edges + len(graph.dst) > max_edges:
                yield chunk
                chunk, edges = [], 0
            chunk.append((atoms, graph))
            edges += len(graph.dst)
        if chunk:
            yield chunk

    def _graph(self, neighbours: VerletList, atoms: ase.Atoms, reusable: bool) -> Graph:
        """What the model is given: all candidates where it leaves out itself what is beyond the cutoff."""
        make = neighbours.candidates if self._form.takes_candidates else neighbours.graph
        return make(atoms, reusable)

    def _results(
        self, output: dict[str, torch.Tensor], graph: Graph, with_stress: bool, item: str = "structure"
    ) -> dict[str, float | np.ndarray]:
        """The model's dict as ASE wants it: Python floats and contiguous float64 arrays.

        Raises:
            NumericsError: a value is not finite.
        """
        results: dict[str, float | np.ndarray] = {}
        for quantity in self.model.outputs:
            if quantity.name not in output or (quantity.name == "stress" and not with_stress):
                continue
            value = output[quantity.name].numpy(force=True)
            # A finite sum of squares costs less than a look at each number, but it may overflow.
            if not (math.isfinite(np.vdot(value, value)) or np.isfinite(value).all()):
                raise NumericsError(
                    f"{item}: the model's {quantity.ase_name or quantity.name} is not finite"
                    f"{_nearest_pair(graph)}; check the geometry"
                )
            if quantity.name == "stress":
                value = value[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]  # xx yy zz yz xz xy
            name = quantity.ase_name or quantity.name
            results[name] = np.ascontiguousarray(value, dtype=np.float64) if value.ndim else float(value)
        results["free_energy"] = results["energy"]
        if np.ndim(results.get("magmoms", 0.0)) == 1:
            results["magmom"] = float(np.sum(results["magmoms"]))
        return results

    @property
    def elements(self) -> tuple[str, ...]:
        """Symbols that it covers; empty if not known."""
        return tuple(self.model.elements or ())

    @property
    def cutoff(self) -> float | None:
        """Å within which it sees neighbours; None if not known."""
        return None if self.model.cutoff is None else float(self.model.cutoff)

    @property
    def quantity_units(self) -> dict[str, str]:
        """Units of the results by ASE's names; empty for a pure number."""
        return {output.ase_name or output.name: output.unit for output in self.model.outputs}

    @property
    def dtype(self) -> str:
        """``"float32"`` or ``"float64"``, in which it computes."""
        return str(self.model.dtype).removeprefix("torch.")

    def todict(self, skip_default: bool = True) -> dict:
        """JSON description: enough to know which numbers these are; of a committee, all digests."""
        return {
            "name": self.name,
            "source": self.metadata.get("source"),
            "architecture": self.model.key or type(self.model).__name__,
            "digest": self.metadata.get("sha256"),
            "dtype": self.dtype,
            "device": str(self.model.device),
            "skin": self._neighbours.skin,
            "compiled": self.compiled.kind if self.compiled else False,
        }


def _check_options(options: dict, names: Sequence[str]) -> None:
    for name in options:
        if name not in names:
            raise TypeError(f"NFFLrCalculator: no option {name!r} here{did_you_mean(name, OPTIONS)}")


def _copy(atoms: ase.Atoms, previous: ase.Atoms | None) -> ase.Atoms:
    """``atoms.copy()`` without its cost where cell and periodic axes are those of the previous copy."""
    if (
        previous is None
        or type(previous) is not type(atoms)
        or not same_array(previous.cell.array, atoms.cell.array)
        or not same_array(previous.pbc, atoms.pbc)
    ):
        fresh: ase.Atoms = atoms.copy()
        return fresh
    twin = copy.copy(previous)
    twin.arrays = {name: values.copy() for name, values in atoms.arrays.items()}
    twin.info = dict(atoms.info)
    twin.constraints = copy.deepcopy(atoms.constraints) if atoms.constraints else []
    return twin


def find_device(name: str | torch.device) -> torch.device:
    """The device of this name.

    Raises:
        ConfigError: it is none, or not there.
    """
    expected = f"device: got {str(name)!r}; expected cpu, cuda or cuda:N"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(expected) from error
    if device.type not in ("cpu", "cuda"):  # others lack float64, or numbers
        raise ConfigError(expected)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device: {name} asked for, but torch finds no GPU; use --device cpu")
    try:
        torch.zeros(1, device=device).item()  # a device that keeps no numbers, as meta, is none
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        raise ConfigError(f"device: {name} is not there; use --device cpu") from error
    return device


@contextmanager
def _naming(item: str) -> Iterator[None]:
    """Errors about a structure say which of many it is."""
    try:
        yield
    except StructureError as error:
        raise error.named(item) from error


def _nearest_pair(graph: Graph) -> str:
    """Where to look first when a model gave no number."""
    if not len(graph.dst):
        return ""
    lengths = graph.vectors().norm(dim=1)  # (E,)
    edge = int(lengths.argmin())
    pair = f"{int(graph.dst[edge])} and {int(graph.src[edge])}"
    return f" (nearest are atoms {pair}, {float(lengths[edge]):.3g} Å apart)"
