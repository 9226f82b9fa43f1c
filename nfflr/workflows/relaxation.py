"""Relax a structure: its atoms, and the cell if asked."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal, Self

import ase
import numpy as np
from ase.calculators.calculator import Calculator
from ase.cell import Cell
from ase.constraints import FixSymmetry
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE, LBFGS
from ase.optimize.optimize import Optimizer
from matplotlib.figure import Figure
from pydantic import Field, model_validator

from ..errors import NumericsError, StructureError
from ..storage.archives import Archive, Remembered, same_run
from ..structures.constraints import repeated
from ..units import GPA, Unit
from .framework.contract import workflow
from .framework.interface import (
    Array,
    Labelled,
    Progress,
    Repeats,
    Settings,
    check_atoms,
    check_crystal,
    has_stress,
    snapshot,
)
from .framework.results import Result, overlay
from .framework.scores import Score, field_score, relative_score
from .framework.spread_limits import Excess, check_spread, describe_spread, find_excess, labelled

TOPIC = "Relax and move"
PLACE = 2
EXAMPLES = (
    "nff relax si.cif --cell --fmax 0.001",
    "nff relax *.cif --model mlearn-si --jobs 4 --out relaxed",
    "nff relax slab.cif --cell --cell-axes ab",
)

OPTIMIZERS = {"fire": FIRE, "bfgs": BFGS, "lbfgs": LBFGS}
CHECKPOINT = 20  # steps between states from which a relaxation can be continued
EXPLODED = 1e4  # eV/Å; no force that an optimiser can recover from


class RelaxSettings(Settings):
    """Options of a relaxation."""

    fmax: Annotated[float, Unit("eV/Å")] = Field(0.01, gt=0, description="stop when no force exceeds this")
    steps: int = Field(500, ge=0, description="give up after this many steps")
    optimizer: Literal["fire", "bfgs", "lbfgs"] = Field("fire", description="how to step downhill")
    cell: bool = Field(False, description="relax the cell too")
    cell_axes: Literal["a", "b", "c", "ab", "ac", "bc", "abc"] = Field(
        "abc", description="with --cell, axes along which, or in whose plane, it strains: ab for a slab"
    )
    pressure: Annotated[float, Unit("GPa")] = Field(0.0, description="target pressure, with --cell")
    supercell: Repeats | None = Field(
        None, description="repeats along each axis before relaxing; default: the cell as it is"
    )
    symmetry: bool = Field(False, description="keep the space group the structure starts with")
    max_forces_std: Annotated[float | None, Unit("eV/Å")] = Field(
        None, gt=0, description="stop where an ensemble's forces on an atom spread by more; default: no limit"
    )
    max_energy_std: Annotated[float | None, Unit("eV/atom")] = Field(
        None, gt=0, description="stop where an ensemble's energies spread by more; default: no limit"
    )

    @model_validator(mode="after")
    def _pressure_acts_on_a_cell(self) -> Self:
        if self.pressure and not self.cell:
            raise ValueError("pressure needs the cell to move: give --cell")
        if self.cell_axes != "abc" and not self.cell:
            raise ValueError("cell_axes needs the cell to move: give --cell")
        if self.cell_axes != "abc" and self.symmetry:
            raise ValueError("cell_axes and symmetry exclude each other: leave --symmetry out")
        return self


class RelaxResult(Result):
    """Outcome of a relaxation; per-step arrays include the start.

    ``uncertain`` is the last structure if the spread of a committee made the relaxation stop there; then
    ``forces_std`` is the largest of any atom, ``uncertain_atom``. None otherwise.
    """

    steps: int
    energy: Annotated[float, Unit("eV")]
    energy_change: Annotated[float, Unit("eV")]
    enthalpy: Annotated[float | None, Unit("eV")]  # energy + target pressure · volume, where there is one
    fmax: Annotated[float, Unit("eV/Å")]
    pressure: Annotated[float | None, Unit("GPa")]
    volume: Annotated[float | None, Unit("Å^3")]
    cell: Annotated[Array, Unit("Å")]
    positions: Annotated[Array, Unit("Å")]
    symbols: list[str]
    energy_trace: Annotated[Array, Unit("eV")]
    fmax_trace: Annotated[Array, Unit("eV/Å")]
    uncertain_atom: int | None = None
    forces_std: Annotated[float | None, Unit("eV/Å")] = None
    energy_std: Annotated[float | None, Unit("eV/atom")] = None
    relaxed: ase.Atoms
    trajectory: list[ase.Atoms]
    uncertain: Annotated[ase.Atoms | None, Labelled()] = None


@workflow
def relax(
    atoms: ase.Atoms,
    calculator: Calculator,
    settings: RelaxSettings,
    progress: Progress,
    archive: Archive | None = None,
) -> RelaxResult:
    """Minimise the energy, or with a cell and pressure the enthalpy, of a structure.

    The cell moves through the Frechet derivative of the matrix exponential (``ase.filters``); fixed atoms and
    other constraints of ``atoms`` are kept, and ``atoms`` itself is left as it is. With ``cell_axes`` the
    strain is confined to the line or plane that these cell vectors span; lengths perpendicular to it stay. A
    slab that is periodic in this plane alone needs no cell vector along the third axis. A pressure belongs to
    the whole cell all the same: it acts on the volume of a vacuum too.

    Args:
        atoms: (N atoms), any mixture of periodic axes; a cell relaxation needs those of ``cell_axes``.
        calculator: any ASE calculator with forces (and stress for a cell relaxation).
        archive: keeps the steps. One that holds a run continues it, bit for bit like a run without a break.

    Raises:
        ConfigError: the archive holds another run, or the calculator gives no spread to limit.
        StructureError: there are no atoms; the cell should relax along an axis that is not periodic, or
            symmetry be kept where one is not; a supercell cannot be made.
        NumericsError: the forces of the start are not finite. Later on that is a result, not an error.

    Example:
        >>> from ase.build import bulk
        >>> from ase.calculators.emt import EMT
        >>> result = relax(bulk("Cu", a=3.7, cubic=True), EMT(), RelaxSettings(cell=True))
        >>> result.converged, round(result.volume ** (1 / 3), 2)  # Å
        (True, 3.59)
    """
    check_atoms(atoms)
    archive = Archive() if archive is None else archive
    check_spread(calculator, settings)
    same_run(archive, atoms, calculator, settings, ("steps",))
    atoms = repeated(atoms, settings.supercell or (1, 1, 1))
    constraints, lattice = list(atoms.constraints), atoms.cell.copy()
    if settings.cell:
        check_axes(atoms, settings)
        # A stress needs a volume. Along an axis without a cell vector any length gives the same virial.
        atoms.cell = atoms.cell.complete()
    if settings.symmetry:
        check_crystal(atoms, "symmetry", "use --no-symmetry")
        atoms.set_constraint([*atoms.constraints, FixSymmetry(atoms)])
    record = archive.load("state")
    archive.truncate(0 if record is None else int(record["frames"]))
    atoms.calc = Remembered(calculator, list(archive.frames()), CHECKPOINT)
    moving = cell_filter(atoms, settings) if settings.cell else atoms
    optimizer = OPTIMIZERS[settings.optimizer](moving, logfile=None)

    frames, converged, failure = _descend(atoms, moving, optimizer, settings, progress, archive)
    for frame in frames:
        # Not the symmetry, which belongs to this cell: no supercell could be made.
        frame.set_constraint(constraints)
        if lattice.rank < 3 and settings.cell:
            _open(frame, lattice)
    steps, uncertain = len(frames) - 1, None
    message = describe_end(settings, steps, converged)
    if isinstance(failure, Excess):
        message = f"uncertain, stopped at step {steps}: {failure.text(frames[-1])}"
        uncertain = labelled(frames[-1], atoms.calc.results, steps)
    elif failure:
        message = f"stopped at step {steps + 1}: {failure}"
    return result_of(frames, settings, converged, message, describe_spread(uncertain))


def relax_each(
    structures: Sequence[ase.Atoms],
    names: Sequence[str],
    calculator: Calculator,
    settings: RelaxSettings,
    progress: Progress,
    numbers: Callable[[RelaxResult], dict[str, float]] = lambda result: {"fmax (eV/Å)": result.fmax},
) -> tuple[list[RelaxResult], str]:
    """Relax one structure after another; the results, and why the first failure did not converge.

    That reason gives the structure's name. ``numbers`` are those of each result that ``progress`` gets.
    """
    results: list[RelaxResult] = []
    for structure in structures:
        results.append(result := relax(structure, calculator, settings))
        progress(len(results), len(structures), numbers(result), result.relaxed)
    failures = [f"{n}: {r.message}" for n, r in zip(names, results, strict=True) if not r.converged]
    return results, failures[0] if failures else ""


def check_axes(atoms: ase.Atoms, settings: RelaxSettings) -> None:
    """Refuse a cell relaxation along axes that are not periodic with a ``StructureError``."""
    periodic = "".join(axis for axis, on in zip("abc", atoms.pbc, strict=True) if on)
    if settings.cell_axes == "abc":
        advice = f"use --no-cell, or --cell-axes {periodic}" if periodic else "use --no-cell"
        check_crystal(atoms, "a cell relaxation", advice)
    for axis in settings.cell_axes:
        if axis not in periodic:
            raise StructureError(
                f"structure: axis {axis} is not periodic, so the cell has no stress along it; "
                + (f"use --cell-axes {periodic}" if periodic else "use --no-cell")
            )
    if settings.pressure and len(periodic) < 3:
        raise StructureError("structure: a pressure needs three periodic axes; use --pressure 0")


def _open(frame: ase.Atoms, lattice: Cell) -> None:
    """Take the cell vectors away that only a cell relaxation needed, and the stress of their volume."""
    frame.cell[~lattice.array.any(axis=1)] = 0
    frame.calc.results.pop("stress", None)
    frame.calc.atoms.cell[:] = frame.cell


def cell_filter(atoms: ase.Atoms, settings: RelaxSettings) -> CellFilter:
    """The atoms and the strain that the settings let move."""
    vectors = atoms.cell.array[["abc".index(axis) for axis in settings.cell_axes]]
    return CellFilter(atoms, vectors, scalar_pressure=settings.pressure * GPA)


@contextmanager
def _quiet_logarithm() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "logm result may be inaccurate", RuntimeWarning)
        yield


class CellFilter(FrechetCellFilter):
    """ASE's, with strains in the span of some ``vectors`` (n, 3) alone, which are independent.

    It is also without what scipy's logarithm says of relative errors above 2e-13: forces have larger ones.
    """

    def __init__(self, atoms: ase.Atoms, vectors: np.ndarray, scalar_pressure: float = 0.0):
        super().__init__(atoms, scalar_pressure=scalar_pressure)
        self._projector = np.linalg.pinv(vectors) @ vectors  # (3, 3) onto the span

    @_quiet_logarithm()
    def get_positions(self) -> np.ndarray:
        return super().get_positions()  # type: ignore[no-any-return]

    @_quiet_logarithm()
    def get_forces(self, **kwargs: Any) -> np.ndarray:
        forces: np.ndarray = super().get_forces(**kwargs)  # (N + 3, 3)
        # The last rows are the gradient by the logarithm of the deformation: its projection is the gradient
        # by a logarithm within the span, where steps along it stay.
        forces[-3:] = self._projector @ forces[-3:] @ self._projector
        return forces


def _descend(
    atoms: ase.Atoms,
    moving: ase.Atoms | FrechetCellFilter,
    optimizer: Optimizer,
    settings: RelaxSettings,
    progress: Progress,
    archive: Archive,
) -> tuple[list[ase.Atoms], bool, str | Excess]:
    """Frames from the start to the last sound one, whether it converged, and why it stopped if it had to."""
    frames: list[ase.Atoms] = []
    archived = len(archive.frames())
    converged = False
    try:
        for finished in optimizer.irun(fmax=settings.fmax, steps=settings.steps):
            fmax = float(np.linalg.norm(moving.get_forces(), axis=1).max())
            if not np.isfinite(fmax):
                raise NumericsError("structure: forces are not finite; check the geometry")
            if fmax > EXPLODED and frames:
                return frames, False, f"a force exceeds {EXPLODED:g} eV/Å"
            frames.append(frame_of(atoms, fmax))
            excess = find_excess(atoms.calc.results, len(atoms), settings)
            if excess is not None:  # not archived: a run that is continued finds it again
                return frames, False, excess
            if len(frames) > archived:
                archive.append(frames[-1])
                if len(frames) % CHECKPOINT == 0:
                    archive.save("state", {"frames": np.array(len(frames))})
            progress(len(frames) - 1, settings.steps, {"fmax (eV/Å)": fmax}, atoms)
            converged = bool(finished)
    except (NumericsError, StructureError) as error:
        if not frames:
            raise
        return frames, False, str(error).removeprefix("structure: ")
    return frames, converged, ""


def frame_of(atoms: ase.Atoms, fmax: float) -> ase.Atoms:
    """A step to keep: the structure with what the calculator found, and its largest force (eV/Å)."""
    if has_stress(atoms) and "stress" in atoms.calc.implemented_properties:
        atoms.get_stress()
    frame = snapshot(atoms)
    frame.info["fmax"] = fmax
    return frame


def describe_end(settings: RelaxSettings, steps: int, converged: bool) -> str:
    """Say why a relaxation has ended that nothing stopped."""
    if not converged:
        return f"fmax is still above {settings.fmax:g} eV/Å after {steps} steps; raise --steps"
    return f"converged after {steps} steps"


def result_of(
    frames: list[ase.Atoms], settings: RelaxSettings, converged: bool, message: str, spread: dict
) -> RelaxResult:
    """The result of a relaxation from its steps, the start among them."""
    last = frames[-1]
    work = settings.pressure * GPA * last.get_volume() if settings.pressure else None
    energies = np.array([f.get_potential_energy() for f in frames])
    fmax = np.array([f.info["fmax"] for f in frames])
    stress = last.calc.results.get("stress")
    return RelaxResult(
        converged=converged,
        message=message,
        steps=len(frames) - 1,
        energy=float(energies[-1]),
        energy_change=float(energies[-1] - energies[0]),
        enthalpy=None if work is None else float(energies[-1] + work),
        fmax=float(fmax[-1]),
        pressure=None if stress is None else float(-np.mean(stress[:3]) / GPA),
        volume=float(last.get_volume()) if last.cell.rank == 3 else None,
        cell=last.cell.array,
        positions=last.positions,
        symbols=list(last.symbols),
        energy_trace=energies,
        fmax_trace=fmax,
        relaxed=last,
        trajectory=frames,
        **spread,
    )


def _lengths(result: RelaxResult, reference: RelaxResult, settings: RelaxSettings) -> float:
    """Mean absolute difference of the three cell lengths, Å."""
    return float(np.abs(np.linalg.norm(result.cell, axis=1) - np.linalg.norm(reference.cell, axis=1)).mean())


def _rmsd(result: RelaxResult, reference: RelaxResult, settings: RelaxSettings) -> float:
    """Root mean square distance (Å) of nearest images in the reference's cell, without the mean translation.

    Rotations count: start both relaxations from one structure.
    """
    ours, theirs = result.positions, np.asarray(reference.positions)
    if result.symbols != reference.symbols:
        raise NumericsError("positions: other atoms than the reference's, or in another order")
    shift = ours - theirs
    if Cell(reference.cell).rank == 3:
        fractional = ours @ np.linalg.inv(result.cell) - theirs @ np.linalg.inv(reference.cell)
        fractional -= fractional[0]  # else a translation by half a cell would have two nearest images
        shift = (fractional - np.rint(fractional)) @ reference.cell
    return float(np.sqrt(np.square(shift - shift.mean(axis=0)).sum(axis=1).mean()))


SCORES = {
    "energy_error": field_score("energy", "eV"),
    "volume_error": relative_score("volume"),
    "length_mae": Score("Å", _lengths, ("cell",)),
    "position_rmsd": Score("Å", _rmsd, ("cell", "positions", "symbols")),
}


def plot(result: RelaxResult, others: Mapping[str, RelaxResult] = {}, label: str = "") -> Figure:
    """Energy and largest force against step."""
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for name, item, colour in overlay(result, others, label):
        upper.plot(item.energy_trace - item.energy_trace[-1], color=colour, label=name)
        lower.plot(item.fmax_trace, color=colour)
    upper.set_ylabel("E − E(final) (eV)")
    lower.set_yscale("log" if (result.fmax_trace > 0).any() else "linear")
    lower.set(xlabel="step", ylabel="largest force (eV/Å)")
    if others:
        upper.legend()
    return figure
