"""``ForeignCalculator``: another package's ASE calculator under the contract of NFFLr's own."""

from __future__ import annotations

import copy
import io
import logging
import os
import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.calculators.calculator import (
    Calculator,
    PropertyNotImplementedError,
    all_changes,
    all_properties,
)
from ase.geometry import complete_cell
from ase.stress import full_3x3_to_voigt_6_stress

from ..errors import NFFLrError, NumericsError, StructureError, is_lack_of_resources
from ..structures.checks import check_structure
from ..workflows.framework.interface import has_stress, require_stress


@dataclass(frozen=True)
class Peer:
    """The calculator that an adapter makes, and what is known about it.

    Attributes:
        calculator: the package's own ASE calculator.
        dtype: ``"float32"`` or ``"float64"``, in which it computes.
        elements: symbols that it covers; empty if not known.
        cutoff: Å within which it sees neighbours; None if not known.
        properties: its properties in ASE's names; None: its ``implemented_properties``.
        weights: files that its numbers come from.
        closed: whether it takes only structures that are periodic along all three axes.
        ambient: torch's default dtype that a call needs; None if it needs none.
    """

    calculator: Any
    dtype: str
    elements: tuple[str, ...] = ()
    cutoff: float | None = None
    properties: tuple[str, ...] | None = None
    weights: tuple[Path, ...] = ()
    closed: bool = False
    ambient: str | None = None


class ForeignCalculator(Calculator):
    """ASE calculator around another package's calculator; made by ``open_calculator``.

    Results: ``energy`` and ``free_energy`` (eV), ``forces`` (N, 3) eV/Å, where the cell has a volume and an
    axis is periodic ``stress`` (6,) eV/Å³, and further properties of ASE that the package gives.

    Args:
        peer: the package's calculator and what is known about it.
        description: for ``todict``.
        reopen: a function and its arguments that make this calculator again, for pickles.

    Raises:
        StructureError: on attaching to a structure with an element that is not covered.
    """

    compiled = None  # NFFLr compiles only its own models

    def __init__(self, peer: Peer, description: dict, reopen: tuple):
        super().__init__()
        self.peer, self.dtype, self.elements, self.cutoff = peer, peer.dtype, peer.elements, peer.cutoff
        offered = peer.calculator.implemented_properties if peer.properties is None else peer.properties
        self.implemented_properties = [n for n in all_properties if n in offered or n == "free_energy"]
        self._description, self._reopen = description, reopen

    @property
    def name(self) -> str:
        """The prefix: ``"chgnet"``, ``"mace"``, …"""
        return self._description["name"]

    def kernel_is_ready(self) -> None:
        """None: NFFLr has no kernel for it."""

    def __reduce__(self) -> tuple:
        return self._reopen

    def __deepcopy__(self, memo: dict) -> ForeignCalculator:
        """An independent calculator; opened anew where the package cannot copy its own (compiled code)."""
        try:
            with undisturbed():
                peer = copy.deepcopy(self.peer)  # a memo of its own: a copy that fails leaves halves in it
        except Exception:
            function, arguments = self._reopen
            twin = function(*arguments)
        else:
            twin = type(self)(peer, self._description, self._reopen)
        memo[id(self)] = twin
        twin.atoms, twin.results = copy.deepcopy((self.atoms, self.results), memo)
        return twin

    def set_atoms(self, atoms: ase.Atoms) -> None:
        """Called by ASE when the calculator is attached: refuse elements that are not covered."""
        missing = sorted(set(atoms.symbols) - set(self.elements)) if self.elements else []
        if missing:
            raise StructureError(
                f"structure: {self.name} does not cover {', '.join(missing)}; it covers {self.covered}"
            )

    @property
    def covered(self) -> str:
        """The elements, or how many there are."""
        return ", ".join(self.elements) if len(self.elements) < 13 else f"{len(self.elements)} elements"

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """One evaluation by the package; all its results are kept.

        Raises:
            StructureError: the structure cannot be treated.
            NumericsError: a value is not finite, or the package failed.
        """
        self.results = {}  # a call that fails must not leave those of another structure
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None  # ASE keeps a copy
        check_structure(self.atoms)
        self.set_atoms(self.atoms)
        atoms, package = self.atoms.copy(), self.peer.calculator  # a copy, which the package may change
        if self.peer.closed and not atoms.pbc.all():
            close(atoms, self.cutoff or 10.0)
        # Some calculators return free_energy, but refuse to be asked for it.
        names = dict.fromkeys(["energy", *(name for name in properties if name != "free_energy")])
        try:
            with undisturbed(self.peer.ambient):
                values = {name: package.get_property(name, atoms) for name in names}
                values = {**getattr(package, "results", {}), **values}
        except (NFFLrError, PropertyNotImplementedError):
            raise
        except Exception as error:
            if is_lack_of_resources(error):
                raise
            raise NumericsError(
                f"structure: {self.name} failed ({type(error).__name__}: {error}); check the structure"
            ) from error
        if "stress" in values and has_stress(self.atoms):
            # The box may have been closed: its virial is that of the user's cell, its volume is not.
            values["stress"] = as_voigt(values["stress"]) * (atoms.cell.volume / self.atoms.cell.volume)
        else:
            values.pop("stress", None)
        values.setdefault("free_energy", values["energy"])
        self.results = {n: self._plain(n, values[n]) for n in self.implemented_properties if n in values}

    def _plain(self, name: str, value: Any) -> float | np.ndarray:
        array = np.array(value, dtype=np.float64, order="C")  # a copy: the package may write into its own
        if not np.isfinite(array).all():
            raise NumericsError(f"structure: the {name} of {self.name} is not finite; check the geometry")
        return float(array.item()) if name in ("energy", "free_energy", "magmom") else array

    def check_state(self, atoms: ase.Atoms, tol: float = 0.0) -> list[str]:
        """Changes to the last bit, also of what only the package reads, such as charges in ``info``."""
        changes, package = super().check_state(atoms, tol=tol), self.peer.calculator
        if changes or self.peer.closed or not hasattr(package, "check_state") or package.atoms is None:
            return changes
        return package.check_state(atoms)

    def reset(self) -> None:
        """Forget results and structure, here and in the package."""
        super().reset()
        if hasattr(self.peer.calculator, "reset"):
            self.peer.calculator.reset()

    def get_property(
        self, name: str, atoms: ase.Atoms | None = None, allow_calculation: bool = True
    ) -> Any:  # a float or an array, by its name
        """As ASE's; a stress that does not exist is refused before anything is computed."""
        target = self.atoms if atoms is None else atoms
        if name == "stress" and target is not None:
            require_stress(target)
        return super().get_property(name, atoms, allow_calculation)

    def todict(self, skip_default: bool = True) -> dict:
        """JSON description: source, package and version, SHA-256 of the weights, precision, device."""
        return dict(self._description)


def close(atoms: ase.Atoms, gap: float) -> None:
    """Make all axes of a structure periodic, with ``gap`` Å of vacuum along the open ones.

    No atom has new neighbours within ``gap`` then.
    """
    cell = atoms.cell.array.copy()
    cell[~atoms.pbc] = 0
    cell = complete_cell(cell)
    for axis in np.flatnonzero(~atoms.pbc):  # orthogonal to the others, whatever the caller's was
        normal = cell[axis] / np.linalg.norm(cell[axis])
        heights = atoms.positions @ normal
        cell[axis] = normal * (np.ptp(heights) + gap + 1.0)
    atoms.cell, atoms.pbc = cell, True


def as_voigt(stress: Any) -> np.ndarray:
    """(6,) of ASE's order, from that or from (3, 3)."""
    array = np.asarray(stress, dtype=np.float64)
    return array if array.shape == (6,) else full_3x3_to_voigt_6_stress(array.reshape(3, 3))


@contextmanager
def undisturbed(ambient: str | None = None) -> Iterator[None]:
    """Restore the state of the process after code of another package.

    That is torch's default dtype and device, gradient mode, threads and matmul precision, the generators of
    torch, numpy and Python, warning filters, the environment, the root logger, and the list of properties of
    ASE's base class, which MACE extends. Inside, gradients are on, ``ambient`` is the default dtype if it is
    given, and warnings and prints are dropped.
    """
    import torch  # here, so that names of packages are listed without it

    dtype, device, threads = torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads()
    precision, generators = torch.get_float32_matmul_precision(), torch.random.get_rng_state()
    numpy_state = np.random.get_state()  # noqa: NPY002 - the generator that others may use
    python_state, floats = random.getstate(), np.geterr()
    environment, properties = dict(os.environ), list(Calculator.implemented_properties)
    handlers, level = list(logging.root.handlers), logging.root.level
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            warnings.catch_warnings(action="ignore"),
            redirect_stdout(io.StringIO()),
        ):
            if ambient is not None:
                torch.set_default_dtype(getattr(torch, ambient))
            yield
    finally:
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(device)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if torch.get_float32_matmul_precision() != precision:
            torch.set_float32_matmul_precision(precision)
        torch.random.set_rng_state(generators)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
        np.seterr(**floats)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        Calculator.implemented_properties[:] = properties
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
