"""Models from elsewhere as evaluators: torch models, callables, and programs in files."""

from __future__ import annotations

import copy
import hashlib
import io
import logging
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch
from ase.data import atomic_numbers, covalent_radii
from torch import nn

from ..data.graph import Graph
from ..errors import (
    CheckpointError,
    ConfigError,
    NFFLrError,
    NumericsError,
    StructureError,
    is_lack_of_resources,
)
from ..models.assemble import stress_from_virial
from ..models.evaluator import Evaluator, Input, within
from ..quantities import QUANTITIES, Quantity
from ..structures.checks import check_structure
from .signature import Convention, call, find_door

logger = logging.getLogger("nfflr")

OPTIONS = ("input", "keys", "units", "signs", "cutoff", "elements", "example")


class Foreign(nn.Module, Evaluator):
    """An evaluator around code from elsewhere, which takes one structure at a time."""

    takes_batches = False
    anchor: torch.Tensor  # empty; carries the device, and the precision of a model without parameters

    def __init__(self, anchor: torch.Tensor):
        super().__init__()
        self.register_buffer("anchor", anchor, persistent=False)

    @property
    def device(self) -> torch.device:
        return self.anchor.device

    def graph(self, x: Input) -> Graph:
        """One structure with its neighbours within ``cutoff``, on the model's device."""
        graph = super().graph(x)
        if graph.atoms.is_batch:
            raise StructureError(f"{self.key}: a batch was given; it takes one structure at a time")
        return within(graph, self)  # a model without a smooth end would take longer bonds for bonds


class Wrapped(Foreign):
    """A model from elsewhere as an evaluator.

    Forces or stress that it does not return are derivatives of its energy, where that depends on positions:
    F = −∂E/∂x, and σ = (1/V) ∂E/∂ε by a symmetric strain ε of positions, cell and bonds. They are tried on a
    small structure. A derivative that is not the slope of the energy (finite differences, 1 %), as of a model
    that detaches some of its input, is left out, and a line is logged.

    Args:
        model: a ``torch.nn.Module``, of which a copy is kept in eval mode, or a callable.
        input: one of ``"ase"``, ``"atoms"``, ``"graph"``, ``"ghosts"``, ``"dgl"``, ``"pyg"``,
            ``"dict"`` (of tensors), a type, or names of tensors in order; default: by its signature, and
            ``"atoms"`` for a module whose ``forward(self, x)`` does not say it. The tensors are
            ``positions``, ``numbers``, ``cell``, ``pbc`` and, within ``cutoff``, ``edge_index`` (2, E) from
            neighbour to centre, ``shifts`` (E, 3) and ``vectors`` (E, 3) = x[neighbour] + shift − x[centre].
        keys: where results have other names: ours (``energy``, ``energies``, ``forces``, ``stress``,
            ``virial``) → the model's, an index where it returns a tuple, or None to leave one out.
        units: of the model: ``energy`` (default eV; ``"…/atom"`` for one per atom), ``length`` (Å), and, if
            not of these, ``forces`` (energy/length), ``stress`` (energy/length³), ``virial`` (energy).
        signs: ``stress``: 1 (default) where tension is positive, −1 where pressure is; ``virial``: 1 where it
            is V σ, −1 where it is −V σ. A virial has no default.
        cutoff: Å, of the neighbours that it is given; default: its attribute ``cutoff``.
        elements: symbols that it knows, others are refused; default: its attribute ``elements``, else any.
        example: a structure to try it on; default: two atoms of its elements, or of silicon.
        origin: digest of the file that it was read from.

    Attributes:
        results_given: which of ``energies``, ``forces`` and ``stress`` there are.

    Raises:
        ConfigError: an option that cannot be, or a model that fails on the example or returns no energy.
    """

    cutoff: float | None
    elements: tuple[str, ...] | None

    def __init__(
        self,
        model: nn.Module | Callable,
        *,
        input: str | type | Sequence[str] | None = None,
        keys: Mapping[str, str | int | None] | None = None,
        units: Mapping[str, str] | None = None,
        signs: Mapping[str, int] | None = None,
        cutoff: float | None = None,
        elements: Sequence[str] | None = None,
        example: ase.Atoms | None = None,
        origin: str = "",
    ):
        if not callable(model):
            raise ConfigError(f"model: a {type(model).__name__} cannot be called; expected a torch module")
        weights = [tensor for tensor in _tensors(model) if tensor.is_floating_point()]
        first = weights[0] if weights else torch.zeros(0, dtype=torch.float64)
        super().__init__(torch.zeros(0, dtype=first.dtype, device=first.device))
        function = type(model) if isinstance(model, nn.Module) else model
        self.origin = origin
        self.name = str(getattr(model, "original_name", getattr(function, "__name__", type(model).__name__)))
        with torch.no_grad():  # a copy of TorchScript would remember that it is one
            self.model = copy.deepcopy(model)  # trying it must not change the caller's
        for tensor in _tensors(self.model):
            tensor.requires_grad_(False)
        self.door = find_door(model, self.name, input)
        self.results = Convention(self.name, keys or {}, units or {}, signs or {})
        self.cutoff = _cutoff(model, cutoff, self.name, self.door.needs_cutoff)
        self.elements = _elements(model, elements)
        self.eval()
        self.results_given: tuple[str, ...] = ()
        self.derived: frozenset[str] = frozenset()
        self._try(example)

    @property
    def dtype(self) -> torch.dtype:
        return self.anchor.dtype

    @property
    def outputs(self) -> tuple[Quantity, ...]:
        return tuple(QUANTITIES[name] for name in ("total_energy", *self.results_given))

    @property
    def key(self) -> str:
        """As ``"wrapped(MyNetwork)"``; not a key of the registry."""
        return f"wrapped({self.name})"

    @property
    def metadata(self) -> dict:  # type: ignore[override]
        """``sha256`` over file, weights and conventions; of a callable, which shows no weights, None."""
        if not isinstance(self.model, nn.Module):
            return {"sha256": None}
        digest = hashlib.sha256(repr((self.origin, self.door, vars(self.results), self.cutoff)).encode())
        for name, value in self.model.state_dict().items():
            if isinstance(value, torch.Tensor):
                raw = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
                digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode() + raw.numpy().tobytes())
        return {"sha256": digest.hexdigest()}

    def train(self, mode: bool = True) -> Wrapped:
        """Always in eval mode; an exported program has no other."""
        self.training = False
        if isinstance(self.model, nn.Module):
            with suppress(NotImplementedError):
                self.model.eval()
        return self

    def forward(self, x: Input, stress: bool = True, virials: bool = False) -> dict[str, torch.Tensor]:
        """``total_energy`` () eV and ``results_given``, of one structure; nothing carries a gradient.

        Raises:
            StructureError: it is periodic, and nothing that the model is given could tell.
            NumericsError: a result has another shape than it should have.
        """
        graph = self.graph(x)
        if not self.door.knows_cell and bool(graph.atoms.pbc.any()):
            raise StructureError(
                f"structure: it is periodic, and {self.name} takes neither a cell nor bonds; "
                "switch off pbc, or give a model that does"
            )
        self.species(graph.atoms.numbers)
        values, slopes = self._evaluate(graph, self.derived - (set() if stress else {"stress"}), stress)
        values |= slopes
        names = ["total_energy", *(n for n in self.results_given if n != "stress" or stress)]
        for name in names:
            if name not in values:
                raise NumericsError(f"{self.name}: gave no {name}, as it did when it was tried")
        return {name: values[name].detach() for name in names}

    def _evaluate(self, graph: Graph, names: frozenset[str] | set[str], stress: bool) -> tuple[dict, dict]:
        """The model's results, and the named derivatives that exist."""
        atoms = graph.atoms
        with torch.enable_grad():
            positions = atoms.positions.detach().clone().requires_grad_("forces" in names)
            strain = positions.new_zeros(3, 3).requires_grad_("stress" in names)
            values = self._values(graph, positions, strain, stress)
            energy, leaves = values["total_energy"], {"forces": positions, "stress": strain}
            leaves = {name: leaf for name, leaf in leaves.items() if name in names}
            slopes = {}
            if leaves and energy.requires_grad:
                gradients = torch.autograd.grad(energy, list(leaves.values()), allow_unused=True)
                slopes = {n: g for n, g in zip(leaves, gradients, strict=True) if g is not None}
        if "forces" in slopes:
            slopes["forces"] = -slopes["forces"]
        if "stress" in slopes:
            slopes["stress"] = stress_from_virial(slopes["stress"], atoms.cell)
        return values, slopes

    def _values(
        self, graph: Graph, positions: torch.Tensor, strain: torch.Tensor, stress: bool
    ) -> dict[str, torch.Tensor]:
        """Results, in our units, at these positions under a strain, of which the symmetric part counts."""
        length = self.results.length
        deform = (torch.eye(3).to(strain) + (strain + strain.T) / 2) / length
        atoms = replace(graph.atoms, positions=positions @ deform, cell=graph.atoms.cell @ deform)
        moved = Graph(atoms, graph.src, graph.dst, graph.shift @ deform, graph.cutoff / length)
        output = call(self.model, self.door, moved, self.cutoff, self.dtype)
        return self.results.read(output, graph.atoms, stress)

    def _try(self, example: ase.Atoms | None) -> None:
        """Find out which results there are, and check those that are derived."""
        atoms = _example(self.elements, self.cutoff, self.door.knows_cell) if example is None else example
        check_structure(atoms, "example")
        volume = bool(atoms.pbc.any()) and atoms.cell.rank == 3 and self.door.knows_cell
        try:
            graph = self.graph(atoms)
            values, _ = self._evaluate(graph, set(), volume)
            derived = self._derived(graph, ({"forces", "stress"} if volume else {"forces"}) - values.keys())
        except NFFLrError:
            raise
        except Exception as error:
            if is_lack_of_resources(error):
                raise
            reason = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:200]}"
            raise ConfigError(
                f"{self.name}: failed when it was tried on {atoms.symbols} ({reason}); give elements= "
                "that it knows, example= that it takes, or input="
            ) from error
        self.derived = frozenset(derived)
        names = ("energies", "forces", "stress")
        self.results_given = tuple(n for n in names if n in values.keys() | derived)

    def _derived(self, graph: Graph, names: set[str]) -> set[str]:
        """The derivatives that the energy has, checked against its differences."""
        if not names:
            return set()
        try:
            slopes = self._evaluate(graph, names, False)[1]
        except RuntimeError as error:  # it differentiates, and keeps nothing for a second derivative
            if is_lack_of_resources(error):
                raise
            reason = str(error).strip().splitlines()[0]
            logger.warning(f"{self.name}: gives no {' and '.join(sorted(names))}: {reason}")
            return set()
        volume = float(graph.atoms.volumes()[0])
        draw = np.random.default_rng(0)
        still = graph.atoms.positions, torch.zeros(3, 3, dtype=torch.float64, device=self.device)
        sound = set()
        for name, slope in slopes.items():
            k, scale = (0, -1.0) if name == "forces" else (1, volume)
            way = torch.from_numpy(draw.normal(size=tuple(still[k].shape))).to(self.device)
            way = (way + way.T) / 2 if k else way
            h, at = 1e-2 / float(way.norm()), []
            for step in (-2, -1, 1, 2):
                place = [still[0], still[1]]
                place[k] = place[k] + step * h * way
                at.append(float(self._values(graph, place[0], place[1], False)["total_energy"].detach()))
            expected = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * h)
            derivative = scale * float((slope * way).sum())
            noise = 20 * torch.finfo(self.dtype).eps * max(map(abs, at)) / h
            if abs(derivative - expected) <= 0.01 * abs(expected) + noise:
                sound.add(name)
            else:
                logger.warning(
                    f"{self.name}: its energy has no derivative that could be its {name} "
                    f"({derivative:.4g}, not {expected:.4g} eV); give input= that it depends on throughout"
                )
        return sound


def _cutoff(model: Any, option: float | None, name: str, needed: bool) -> float | None:
    cutoff = getattr(model, "cutoff", None) if option is None else option
    try:
        cutoff = None if cutoff is None else float(cutoff)
    except (TypeError, ValueError):
        cutoff = None
    if option is not None and (cutoff is None or not 0 < cutoff < np.inf):
        raise ConfigError(f"cutoff: got {option}; expected a length in Å, positive")
    if needed and cutoff is None:
        raise ConfigError(f"{name}: takes neighbours, and has no attribute cutoff; give cutoff= in Å")
    return cutoff


def _elements(model: Any, option: Sequence[str] | None) -> tuple[str, ...] | None:
    elements = getattr(model, "elements", None) if option is None else option
    if isinstance(elements, list | tuple) and elements and all(str(e) in atomic_numbers for e in elements):
        return tuple(map(str, elements))
    if option is not None:
        raise ConfigError(f"elements: got {option!r}; expected chemical symbols")
    return None


def _tensors(model: Any) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []


def _example(elements: Sequence[str] | None, cutoff: float | None, periodic: bool) -> ase.Atoms:
    """Two atoms a bond apart, in a skewed cell that brings their images near, or alone."""
    pair = [(elements or ("Si",))[0], (elements or ("Si",))[-1]]
    bond = sum(covalent_radii[atomic_numbers[e]] for e in pair)
    bond = min(bond, 0.6 * cutoff) if cutoff else bond
    positions = bond * np.array([[0.0, 0.0, 0.0], [0.62, 0.55, 0.56]])
    if not periodic:
        return ase.Atoms(pair, positions=positions)
    cell = 1.15 * bond * np.array([[0.05, 1.0, 1.02], [0.98, -0.03, 1.0], [1.0, 1.03, 0.02]])
    return ase.Atoms(pair, positions=positions, cell=cell, pbc=True)


def is_program(source: str | Path) -> bool:
    """Whether a file is such an archive, by its contents; pickled weights alone are none."""
    return _archive_kind(Path(source)) is not None


def load_program(path: str | Path, trust: bool) -> tuple[nn.Module, str]:
    """The module of an archive, on the CPU, and the SHA-256 of the file.

    A TorchScript archive is unpickled by torch's restricted reader, but it is a program, and its operators
    read and write files; ``torch.export.load`` unpickles parts of the file, which may run any Python.

    Raises:
        CheckpointError: it is not trusted, or is damaged.
    """
    path = Path(path)
    kind = _archive_kind(path)
    if not trust:
        raise CheckpointError(
            f"{path}: holds a program ({kind}), which could do anything on this machine; "
            "if you know who made it, give trust=True, or --trust"
        )
    try:
        content = path.read_bytes()
        if kind == "TorchScript":
            module = torch.jit.load(io.BytesIO(content), map_location="cpu")
        else:
            module = torch.export.load(io.BytesIO(content)).module()
    except Exception as error:  # of whatever an archive may hold
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise CheckpointError(f"{path}: {kind} that torch cannot load ({reason}); save it anew") from error
    return module, hashlib.sha256(content).hexdigest()


def _archive_kind(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            parts = {name.partition("/")[2] for name in archive.namelist()}
    except (OSError, ValueError, zipfile.BadZipFile):
        return None
    if "archive_format" in parts and any(part.startswith("models/") for part in parts):
        return "torch.export"
    if "constants.pkl" in parts and any(part.startswith("code/") for part in parts):
        return "TorchScript"
    return None
