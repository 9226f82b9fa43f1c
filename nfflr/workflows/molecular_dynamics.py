"""Molecular dynamics, and a verdict: stable, melted, exploded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Annotated, Any

import ase
import numpy as np
from ase.calculators.calculator import Calculator
from ase.constraints import FixAtoms
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import SkipValidation

from ..errors import NumericsError
from ..storage.archives import Archive, same_run
from ..units import Unit
from .dynamics.analysis import (
    Word,
    judge,
    mean_and_error,
    motion,
    radial_distribution,
    slope_and_error,
    trace,
)
from .dynamics.ensembles import check_ensemble
from .dynamics.preparation import MdSettings, note_small_cell, supercell_of
from .dynamics.simulation import Outcome, simulate
from .framework.contract import workflow
from .framework.interface import Array, Labelled, Progress, Table
from .framework.results import Result, with_error
from .framework.scores import Score, field_error, field_score, relative_score
from .framework.spread_limits import check_spread, describe_spread

TOPIC = "Relax and move"
PLACE = 3
EXAMPLES = (
    "nff md si.cif --temperature 1500 --steps 20000 --compile",
    "nff md si.cif --ensemble npt --temperature 300 --pressure 5",
)

EXTENDS = ("steps",)

__all__ = ["SCORES", "MdResult", "MdSettings", "md", "plot"]

FEWEST = 20  # frames of an analysis of motion
MOTION = ("msd_time", "msd", "diffusion", "diffusion_error", "vacf_time", "vacf", "frequency", "vdos")


class MdResult(Result):
    """Outcome of a run. Averages, drift, and all analysis are over the frames after equilibration.

    Errors are standard errors from blocks (of time; for diffusion, of atoms). Keys of ``rdf``, ``msd`` and
    ``diffusion`` are elements, or pairs of them, and ``"all"``. What a run is too short for is None.
    Frequencies above half the rate of frames cannot be seen: with frames 10 fs apart, above 50 THz.
    ``uncertain`` is the last structure if the spread of a committee made the run stop there; then
    ``forces_std`` is the largest of any atom, ``uncertain_atom``. None otherwise. Targets of thermostat and
    barostat are those of the first and the last step.
    """

    verdict: Word
    verdict_step: int | None
    verdict_atom: int | None
    outside_step: int | None = None
    steps: int
    degrees_of_freedom: int
    time: Annotated[float, Unit("ps")]
    equilibration_time: Annotated[float, Unit("ps")]
    temperature: Annotated[float, Unit("K")]
    temperature_error: Annotated[float | None, Unit("K")]
    potential_energy: Annotated[float, Unit("eV")]
    potential_energy_error: Annotated[float | None, Unit("eV")]
    pressure: Annotated[float | None, Unit("GPa")]
    pressure_error: Annotated[float | None, Unit("GPa")]
    volume: Annotated[float | None, Unit("Å^3")]
    volume_error: Annotated[float | None, Unit("Å^3")]
    temperature_target: Annotated[tuple[float, float] | None, Unit("K")] = None
    pressure_target: Annotated[tuple[float, float] | None, Unit("GPa")] = None
    compressibility: Annotated[float | None, Unit("1/GPa")] = None
    drift: Annotated[float | None, Unit("meV/atom/ns")]
    drift_error: Annotated[float | None, Unit("meV/atom/ns")]
    uncertain_atom: int | None = None
    forces_std: Annotated[float | None, Unit("eV/Å")] = None
    energy_std: Annotated[float | None, Unit("eV/atom")] = None
    symbols: list[str]
    cell: Annotated[Array, Unit("Å")]
    positions: Annotated[Array, Unit("Å")]
    rdf_distance: Annotated[Array | None, Unit("Å")]
    rdf: dict[str, Array] | None
    msd_time: Annotated[Array | None, Unit("ps")]
    msd: Annotated[dict[str, Array] | None, Unit("Å^2")]
    diffusion: Annotated[dict[str, float] | None, Unit("Å^2/ps")]
    diffusion_error: Annotated[dict[str, float] | None, Unit("Å^2/ps")]
    vacf_time: Annotated[Array | None, Unit("ps")]
    vacf: Array | None
    frequency: Annotated[Array | None, Unit("THz")]
    vdos: Annotated[Array | None, Unit("1/THz")]
    table: Table
    final: ase.Atoms
    trajectory: SkipValidation[Sequence[ase.Atoms]]
    uncertain: Annotated[ase.Atoms | None, Labelled()] = None


@workflow
def md(
    atoms: ase.Atoms,
    calculator: Calculator,
    settings: MdSettings,
    progress: Progress,
    archive: Archive | None = None,
) -> MdResult:
    """Integrate Newton's equations, with a thermostat and a barostat if asked, by ASE's integrators.

    NVE: velocity Verlet. NVT: stochastic velocity rescaling (G. Bussi et al., J. Chem. Phys. 126, 014101
    (2007)), Langevin BAOAB (B. Leimkuhler and C. Matthews, J. Chem. Phys. 138, 174102 (2013)), Nosé–Hoover
    chains. NPT: Martyna, Tobias and Klein (J. Chem. Phys. 101, 4177 (1994)), full cell or volume only;
    Berendsen's, which finds the right volume but not its fluctuations.

    Velocities are drawn for ``temperature``, with no total momentum and, without periodic axes, no rotation;
    a crystal that starts at rest on its sites gives half of that to its potential energy.
    Positions are not wrapped into the cell; ``atoms`` itself is left as it is. A run that explodes stops at
    once and ends with the last sound structure; that is a result with ``converged=False``, not an error. So
    is one that stops at the first structure on which the members of a committee disagree by too much.

    Args:
        atoms: (N atoms); a barostat needs three periodic axes.
        calculator: any ASE calculator with forces (and stress for a barostat).
        archive: keeps frames and states. One that holds a run continues it to ``settings.steps``, bit for
            bit like a run without a break.

    Raises:
        StructureError: the structure does not suit the ensemble.
        NumericsError: not even the start is sound.
        ConfigError: the archive holds another run, or the calculator gives no spread to limit.

    Example:
        >>> from ase.build import bulk
        >>> from ase.calculators.emt import EMT
        >>> copper = bulk("Cu", a=3.59, cubic=True).repeat(2)
        >>> md(copper, EMT(), MdSettings(temperature=300, timestep=4, steps=50)).verdict
        'stable'
    """
    check_ensemble(atoms, settings)
    check_spread(calculator, settings)
    archive = Archive() if archive is None else archive
    same_run(archive, atoms, calculator, settings, () if settings.has_ramp else ("steps",))
    atoms = supercell_of(atoms, settings.supercell)
    note_small_cell(atoms)
    outcome = simulate(atoms, calculator, settings, progress, archive)
    return _result(outcome, archive.frames(), settings)


def _result(outcome: Outcome, frames: Sequence[ase.Atoms], settings: MdSettings) -> MdResult:
    history = trace(frames)
    begin = min(int(np.ceil(settings.equilibration * len(frames))), len(frames) - 1)
    table = {name: column[begin:] for name, column in history.table.columns.items()}
    start = frames[0]
    drift = _drift(table, len(start))
    averages = {
        **_average(table, "temperature", "temperature (K)"),
        **_average(table, "potential_energy", "potential energy (eV)"),
        **_average(table, "pressure", "pressure (GPa)"),
        **_average(table, "volume", "volume (Å^3)"),
    }
    verdict = judge(outcome, history, start, drift, averages, settings)
    first, last = settings.targets(0), settings.targets(outcome.steps)
    return MdResult(
        converged=verdict.word not in ("exploded", "uncertain"),
        message=verdict.message,
        verdict=verdict.word,
        verdict_step=verdict.step,
        verdict_atom=verdict.atom,
        outside_step=outcome.too_near.step if outcome.too_near else None,
        steps=outcome.steps,
        degrees_of_freedom=outcome.dof,
        time=outcome.steps * settings.timestep / 1000,
        equilibration_time=float(table["time (ps)"][0]),
        **averages,
        temperature_target=(first[0], last[0]) if settings.has_thermostat else None,
        pressure_target=(first[1], last[1]) if settings.has_barostat else None,
        compressibility=outcome.compressibility,
        drift=drift and drift[0],
        drift_error=drift and drift[1],
        symbols=list(start.symbols),
        cell=outcome.last.cell.array,
        positions=outcome.last.positions,
        **_structure(frames, begin, settings),
        **_motion(frames, begin, settings),
        table=history.table,
        final=outcome.last,
        trajectory=frames,
        **describe_spread(outcome.last if outcome.excess else None),
    )


def _average(table: dict[str, np.ndarray], field: str, column: str) -> dict[str, float | None]:
    values = table[column]
    mean, error = (None, None) if np.isnan(values).any() else mean_and_error(values)
    return {field: mean, f"{field}_error": error}


def _drift(table: dict[str, np.ndarray], n_atoms: int) -> tuple[float, float] | None:
    """Drift of the conserved quantity with its error, meV/atom/ns."""
    fit = slope_and_error(table["time (ps)"], table["conserved (eV)"])
    scale = 1e3 * 1e3 / n_atoms  # eV to meV, 1/ps to 1/ns
    return None if fit is None or np.isnan(fit[0]) else (fit[0] * scale, fit[1] * scale)


def _structure(frames: Sequence[ase.Atoms], begin: int, settings: MdSettings) -> dict:
    if not (frames[0].pbc.all() and frames[0].cell.rank == 3):
        return {"rdf_distance": None, "rdf": None}
    distance, rdf = radial_distribution(_Part(frames, begin), settings.rdf_cutoff)
    return {"rdf_distance": distance, "rdf": rdf}


def _motion(frames: Sequence[ase.Atoms], begin: int, settings: MdSettings) -> dict:
    moving = np.ones(len(frames[0]), dtype=bool)
    for constraint in frames[0].constraints:
        if isinstance(constraint, FixAtoms):
            moving[constraint.index] = False
    if len(frames) - begin < FEWEST or not moving.any():
        return dict.fromkeys(MOTION)
    return motion(_Part(frames, begin), settings.interval * settings.timestep / 1000, moving)


class _Part(Sequence[ase.Atoms]):
    """Frames from ``begin`` on, read when they are asked for."""

    def __init__(self, frames: Sequence[ase.Atoms], begin: int):
        self._frames, self._begin = frames, begin

    def __len__(self) -> int:
        return len(self._frames) - self._begin

    def __getitem__(self, index: int) -> ase.Atoms:  # type: ignore[override]  # no slices
        return self._frames[self._begin + range(len(self))[index]]

    def __iter__(self) -> Iterator[ase.Atoms]:
        return islice(self._frames, self._begin, None)  # opens a file once, not for each frame


def _lost(result: MdResult, reference: MdResult | None, settings: MdSettings) -> float:
    """Fraction of the steps that were not survived.

    A run is lost where it explodes, a committee disagrees too much, a crystal leaves its sites, or atoms come
    clearly nearer than any in the training data: there a collapse may hide.
    """
    if result.verdict in ("stable", "drifting", "off target"):
        return 0.0
    sound = result.steps if result.verdict == "exploded" else result.verdict_step
    assert sound is not None  # every verdict but these has its step
    if result.outside_step is not None:  # a crystal that melted may have left the range before
        sound = min(sound, result.outside_step)
    return 1 - sound / settings.steps


def _drift_size(result: MdResult, reference: MdResult | None, settings: MdSettings) -> float:
    if result.drift is None:
        raise NumericsError("drift: the run is too short, or conserves nothing; take other scores")
    return abs(result.drift)


def _rdf(result: MdResult, reference: MdResult, settings: MdSettings) -> float:
    """Mean absolute difference of g(r) over distances, and over pairs of elements."""
    if field_error("rdf_distance", result, reference) > 1e-6:
        raise NumericsError("rdf_distance: not the reference's; use the same --rdf-cutoff")
    return field_error("rdf", result, reference)


SCORES = {
    "lost_fraction": Score("", _lost, of_failure=True),
    "drift": Score("meV/atom/ns", _drift_size),
    "rdf_mae": Score("", _rdf, ("rdf_distance", "rdf")),
    "volume_error": relative_score("volume"),
    "pressure_error": field_score("pressure", "GPa"),
    "diffusion_mae": field_score("diffusion", "Å^2/ps"),
}


GREY: dict[str, Any] = {"color": "0.6", "linewidth": 0.8, "zorder": 0}
LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 8}


def plot(result: MdResult, others: Mapping[str, MdResult] = {}, label: str = "") -> Figure:
    """Temperature, energies, radial distribution, displacements, autocorrelation and spectrum of a run.

    Pressure and volume come below if a barostat holds them. Others lie over the last four as dashed lines.
    """
    rows = 3 if result.pressure_target is None else 4
    figure = Figure(figsize=(7.2, 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, 2)
    _trace(axes[0, 0], result, "temperature (K)", "tab:red", result.temperature_target)
    _energy(axes[0, 1], result)
    _analysis(axes[1:3].ravel(), result)
    if result.pressure_target is not None:
        _trace(axes[3, 0], result, "pressure (GPa)", "tab:cyan", result.pressure_target)
        _trace(axes[3, 1], result, "volume (Å^3)", "tab:brown", None)
    for k, (name, other) in enumerate(others.items()):
        style = {"color": f"C{k}", "linewidth": 1, "linestyle": "--", "label": name}
        for panel, (x, y) in zip(axes[1:3].flat, _curves(other), strict=True):
            if y is not None:
                panel.plot(x, y, **style)
    if others:
        axes[1, 0].plot([], [], color="k", label=label)
        axes[1, 0].legend(**LEGEND)
    for letter, panel in zip("abcdefgh", axes.flat, strict=False):
        panel.set_title(letter, loc="left", fontweight="bold", fontsize=10)
        panel.tick_params(direction="in", top=True, right=True)
    return figure


def _curves(result: MdResult) -> list[tuple]:
    """Abscissa and ordinate of each panel of the analysis, of all atoms; None if it was not computed."""
    return [
        (result.rdf_distance, result.rdf and result.rdf["all"]),
        (result.msd_time, result.msd and result.msd["all"]),
        (result.vacf_time, result.vacf),
        (result.frequency, result.vdos),
    ]


def _trace(panel: Axes, result: MdResult, column: str, color: str, target: tuple | None) -> None:
    """A quantity over time, its mean, and what it was set to."""
    time, values = result.table.columns["time (ps)"], result.table.columns[column]
    name, unit = column.replace("^3", "³").rstrip(")").split(" (")
    mean, error = getattr(result, name), getattr(result, f"{name}_error")
    panel.plot(time, values, color=color, linewidth=0.8)
    text = "" if mean is None else f"mean {with_error(mean, error) if error else f'{mean:.4g}'} {unit}"
    if mean is not None:
        panel.axhline(mean, **GREY, linestyle="--")
    if target is not None:
        panel.plot([0, max(result.time, time[-1])], target, color="k", linewidth=1, linestyle=":")
        text += f", set to {' to '.join(dict.fromkeys(f'{t:g}' for t in target))} {unit}"
    panel.axvspan(time[0], result.equilibration_time, color="0.92", zorder=-1)
    panel.set(xlabel="time (ps)", ylabel=f"{name} ({unit})")
    panel.margins(x=0)
    panel.set_title(text, loc="right", fontsize=8)


def _energy(panel: Axes, result: MdResult) -> None:
    columns, n = result.table.columns, len(result.symbols)
    curves = {"potential energy (eV)": "tab:blue", "total energy (eV)": "tab:orange", "conserved (eV)": "k"}
    if np.array_equal(columns["total energy (eV)"], columns["conserved (eV)"]):
        del curves["total energy (eV)"]
    for name, color in curves.items():
        energy = 1000 * (columns[name] - columns[name][0]) / n
        if np.isfinite(energy).all():
            panel.plot(columns["time (ps)"], energy, color=color, label=name.split()[0], linewidth=0.8)
    panel.set(xlabel="time (ps)", ylabel="energy − start (meV/atom)")
    panel.margins(x=0)
    style = {**LEGEND, "ncol": 3, "handlelength": 1.2, "columnspacing": 1.0}
    panel.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.1, **style)


def _analysis(panels: np.ndarray, result: Any) -> None:
    """Radial distribution, displacements, autocorrelation and spectrum."""
    distances, displacements, correlation, spectrum = panels
    distances.set(xlabel="distance (Å)", ylabel="radial distribution g(r)")
    distances.axhline(1, **GREY, linestyle=":")
    displacements.set(xlabel="lag (ps)", ylabel="mean sq. displacement (Å²)")
    correlation.set(xlabel="lag (ps)", ylabel="velocity autocorrelation")
    correlation.axhline(0, **GREY)
    spectrum.set(xlabel="frequency (THz)", ylabel="density of states (1/THz)")
    _by_name(distances, result.rdf_distance, result.rdf)
    _by_name(displacements, result.msd_time, result.msd)
    if result.diffusion:
        number = with_error(result.diffusion["all"], result.diffusion_error["all"])
        displacements.set_title(f"D = {number} Å²/ps", loc="right", fontsize=8)
    if result.vacf is not None:
        correlation.plot(result.vacf_time, result.vacf, color="tab:green", linewidth=1)
        correlation.set_xlim(0, min(result.vacf_time[-1], 1.0))
        spectrum.fill_between(result.frequency, result.vdos, color="tab:purple", alpha=0.25, linewidth=0)
        spectrum.plot(result.frequency, result.vdos, color="tab:purple", linewidth=1)
        share = np.cumsum(result.vdos) / result.vdos.sum()
        end = result.frequency[min(np.searchsorted(share, 0.995), len(share) - 1)]
        spectrum.set(xlim=(0, 1.15 * end), ylim=(0, None))
    for panel, (_, values) in zip(panels, _curves(result), strict=True):
        if values is None:
            reason = "defined with three periodic axes only" if panel is distances else "too few frames"
            panel.text(0.5, 0.5, reason, ha="center", va="center", transform=panel.transAxes, color="0.4")
            panel.set(xticks=[], yticks=[])


def _by_name(panel: Axes, x: np.ndarray, curves: dict[str, np.ndarray] | None) -> None:
    """A curve for each name, that of all atoms in black; of one element it is the same."""
    if not curves:
        return
    if len(curves) == 2:
        curves = {name: values for name, values in curves.items() if name != "all"}
    for name, values in curves.items():
        is_total = name == "all" or len(curves) == 1
        panel.plot(x, values, label=name, color="k" if is_total else None, linewidth=None if is_total else 1)
    panel.set(xlim=(0, x[-1]), ylim=(0, None))
    if list(curves) != ["all"]:
        panel.legend(**LEGEND)
