"""Thermal expansion in the quasi-harmonic approximation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import ase
import numpy as np
from ase.calculators.calculator import Calculator
from ase.units import kB
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.polynomial import Polynomial
from phonopy import Phonopy, QHAResult, run_qha
from phonopy.qha.core import BulkModulus
from phonopy.qha.eos import EosFunc, get_eos
from pydantic import Field, model_validator

from ..errors import NumericsError
from ..storage.archives import Archive
from ..units import GPA, Unit
from .framework.contract import workflow
from .framework.evaluations import evaluate
from .framework.interface import Array, Progress, Repeats
from .framework.results import Result, overlay
from .lattice.harmonic import (
    at_rest,
    at_volumes,
    displaced,
    lowest_mode,
    set_force_constants,
    thermal,
)
from .lattice.spectra import SUBJECT, WIDTH
from .lattice.supercells import ThermalSettings, supercell_matrix

TOPIC = "Vibrations and heat"
PLACE = 2
EXAMPLES = ("nff qha si.cif --supercell 2 2 2 --pressure 1",)

NO_FIT = "no equation of state fits the free energies"
ADVICE = "use more volumes, or a narrower range of volumes or temperatures"
DEGREE = 4  # of polynomials in the volume, as phonopy takes for heat capacities
WIDEST = 1.25  # of the volume at rest; harmonic phonons of a metal are unstable far before
ADDED = 2  # volumes at a time
ROOM = 300.0  # K


class QhaSettings(ThermalSettings):
    """Options of a quasi-harmonic calculation."""

    mesh: Repeats | None = Field(
        None, description="q-points along each axis, even ones shifted off Γ; default: from --mesh-length"
    )
    volumes: int = Field(9, ge=5, description="number of volumes")
    volume_min: float = Field(0.97, gt=0, description="smallest volume, relative to that at rest")
    volume_max: float = Field(1.06, gt=0, description="largest volume, relative to that at rest")
    widen: bool = Field(
        True, description="add volumes, equally spaced, where the equilibrium leaves those of this range"
    )
    eos: Literal["vinet", "birch_murnaghan", "murnaghan"] = Field("vinet", description="equation of state")
    pressure: Annotated[float, Unit("GPa")] = Field(0.0, description="pressure")
    tolerance: Annotated[float, Unit("THz")] = Field(
        0.05, ge=0, description="imaginary frequencies beyond this make a volume unstable"
    )

    @model_validator(mode="after")
    def _a_range_of_volumes(self) -> Self:
        if not self.volume_min < 1 < self.volume_max:
            raise ValueError("--volume-min must lie below 1 and --volume-max above")
        return self


class QhaResult(Result):
    """Thermodynamics at constant pressure, per primitive cell. Shapes: V volumes, T temperatures.

    Temperatures end at ``highest_temperature``, up to which the equilibrium volume lies among the volumes
    that were computed. Values at 300 K are interpolated, and None where 300 K is not among the temperatures.
    """

    stable: bool
    highest_temperature: Annotated[float, Unit("K")]
    volume_at_300_K: Annotated[float | None, Unit("Å^3/cell")]
    thermal_expansion_at_300_K: Annotated[float | None, Unit("1/K")]
    bulk_modulus_at_300_K: Annotated[float | None, Unit("GPa")]
    static_volume: Annotated[float, Unit("Å^3/cell")]
    static_bulk_modulus: Annotated[float, Unit("GPa")]
    volumes: Annotated[Array, Unit("Å^3/cell")]  # (V,)
    energies: Annotated[Array, Unit("eV/cell")]  # (V,)
    lowest_frequencies: Annotated[Array, Unit("THz")]  # (V,)
    temperatures: Annotated[Array, Unit("K")]  # (T,)
    helmholtz: Annotated[Array, Unit("eV/cell")]  # (T, V), with the pressure's p V
    volume: Annotated[Array, Unit("Å^3/cell")]  # (T,)
    thermal_expansion: Annotated[Array, Unit("1/K")]  # (T,), of the volume
    gibbs: Annotated[Array, Unit("eV/cell")]  # (T,)
    entropy: Annotated[Array, Unit("eV/(K cell)")]  # (T,)
    heat_capacity: Annotated[Array, Unit("eV/(K cell)")]  # (T,), at constant pressure
    bulk_modulus: Annotated[Array, Unit("GPa")]  # (T,), isothermal
    gruneisen: Array  # (T,)
    atoms_per_cell: int


@workflow
def qha(
    atoms: ase.Atoms,
    calculator: Calculator,
    settings: QhaSettings,
    progress: Progress,
    archive: Archive = Archive(),
) -> QhaResult:
    """Helmholtz energies of harmonic phonons at several volumes, minimised over the volume (phonopy).

    The cell is scaled evenly: its shape stays that of the structure at rest, which is exact for cubic
    crystals. Positions are relaxed at every volume unless ``relax`` is ``"none"``. Electrons contribute
    nothing. See Togo, Chaput, Tanaka and Hug, Phys. Rev. B 81, 174301 (2010).

    Args:
        atoms: periodic along three axes.
        calculator: any ASE calculator with energy and forces, and stress if the cell is relaxed.
        archive: keeps relaxed structures and finished displacements.

    Raises:
        StructureError: not periodic along three axes.
        NumericsError: a relaxation did not converge, forces are not finite, or no equation of state fits.
    """
    start = at_rest(atoms, calculator, settings, progress, archive)
    matrix = supercell_matrix(start, settings)
    ratios = np.linspace(settings.volume_min, settings.volume_max, settings.volumes)

    def at(ratios: np.ndarray) -> tuple[list[Phonopy], np.ndarray]:
        """Phonons and energies (eV per primitive cell) at these volumes."""
        cells = at_volumes(start, ratios, calculator, settings, progress, archive)
        results = evaluate(calculator, cells, ("energy",), archive=archive)
        energies = np.array([values["energy"] for values in results])
        phonons = [displaced(cell, matrix, settings) for cell in cells]
        set_force_constants(phonons, calculator, settings, progress, archive)
        return phonons, energies * len(phonons[0].primitive) / len(start)

    phonons, energies = at(ratios)
    fit = _fit(phonons, energies, settings)
    while settings.widen and fit.side and _stable(phonons, settings.tolerance):
        steps = np.arange(1, ADDED + 1) * (ratios[1] - ratios[0])
        new_ratios = ratios[-1] + steps if fit.side == "larger" else ratios[0] - steps[::-1]
        if new_ratios[-1] > WIDEST or new_ratios[0] < 1 / WIDEST:
            break
        new_phonons, new_energies = at(new_ratios)
        if not _stable(new_phonons, settings.tolerance, fit.mesh):
            break
        pairs = [(phonons, energies, ratios), (new_phonons, new_energies, new_ratios)]
        lower, upper = pairs if fit.side == "larger" else pairs[::-1]
        phonons = [*lower[0], *upper[0]]
        energies, ratios = (np.concatenate([lower[k], upper[k]]) for k in (1, 2))
        fit = _fit(phonons, energies, settings)
    return _result(fit, phonons, energies, settings)


def quasi_harmonic(phonons: Sequence[Phonopy], energies: np.ndarray, settings: QhaSettings) -> QhaResult:
    """The thermodynamics of phonopy objects with force constants, in the order of their volumes.

    The thermal expansion is the derivative of the fitted volume by temperature, from the entropies −∂F/∂T by
    the implicit function theorem: no differences between temperatures enter, which at low ones would be off
    by the square of step over temperature. γ = α B_T V / C_V and C_P = C_V + T V B_T α² follow from it.
    ``energies`` (V,) are those of the atoms at rest, eV per primitive cell.

    Raises:
        NumericsError: the equation of state cannot be fitted.
    """
    return _result(_fit(phonons, energies, settings), phonons, energies, settings)


@dataclass(frozen=True)
class _Fit:
    """Equations of state at the first temperatures, those at which the equilibrium lies among the volumes.

    Attributes:
        phonopy: of temperatures that may go on beyond the first ``count``.
        side: where the equilibrium goes after them, ``"larger"`` or ``"smaller"`` volumes; empty at the end.
        entropies, heats: (T, V) eV/K at constant volume.
    """

    phonopy: QHAResult
    static: BulkModulus
    count: int
    side: Literal["", "larger", "smaller"]
    entropies: np.ndarray
    heats: np.ndarray
    mesh: Sequence[int]


def _fit(phonons: Sequence[Phonopy], energies: np.ndarray, settings: QhaSettings) -> _Fit:
    mesh = settings.mesh or _same_mesh(phonons, settings.mesh_length)
    temperatures = settings.temperatures()
    try:
        with warnings.catch_warnings():
            # About lattice parameters, which the result does not hold, and temperatures without a fit.
            warnings.filterwarnings("ignore", message="Lattice parameter")
            warnings.filterwarnings("ignore", message="EOS fitting failed")
            fitted = run_qha(
                phonons,
                settings.temperatures(beyond=1),  # phonopy takes differences and drops the last
                internal_energies=energies,
                mesh=mesh,
                pressure=settings.pressure,
                eos=settings.eos,
                exclude_gamma_acoustic=True,
            )
        static = BulkModulus(
            fitted.volumes, energies + fitted.volumes * settings.pressure * GPA, eos=settings.eos
        )
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise NumericsError(f"structure: {NO_FIT} ({error}); {ADVICE}") from error
    volume, volumes = fitted.equilibrium_volumes, fitted.volumes
    length = min(len(temperatures), len(volume))
    same = np.isclose(fitted.temperatures[:length], temperatures[:length])
    sound = same & np.isfinite(fitted.eos_parameters[:length]).all(axis=1)
    sound &= (volume[:length] > volumes.min()) & (volume[:length] < volumes.max())
    count = length if sound.all() else int(np.argmin(sound))
    if count == 0:
        raise NumericsError(f"structure: {NO_FIT} at {temperatures[0]:g} K; {ADVICE}")
    side: Literal["", "larger", "smaller"] = ""
    if count < len(temperatures):
        middle = (volumes.min() + volumes.max()) / 2
        side = "larger" if volume[count - 1] > middle else "smaller"
    tables = [thermal(phonon, temperatures[:count]) for phonon in phonons]
    entropies = np.array([table.entropy for table in tables]).T
    heats = np.array([table.heat_capacity for table in tables]).T
    return _Fit(fitted, static, count, side, entropies, heats, mesh)


def _stable(phonons: Sequence[Phonopy], tolerance: float, mesh: Sequence[int] | None = None) -> bool:
    """Whether no volume has imaginary modes on the mesh, which is run where it is given."""
    for phonon in phonons:
        if mesh is not None:
            phonon.run_mesh(mesh)
    return all(_lowest_frequency(phonon, tolerance) >= -tolerance for phonon in phonons)


def _lowest_frequency(phonon: Phonopy, tolerance: float) -> float:
    assert phonon.mesh is not None  # from the thermal properties
    return lowest_mode(phonon, phonon.mesh.qpoints, tolerance).frequency


def _same_mesh(phonons: Sequence[Phonopy], length: float) -> list[int]:
    """Odd numbers, so that Γ is among the points; one mesh for all, so that the free energy has no steps."""
    phonon = phonons[len(phonons) // 2]
    phonon.init_mesh(length)
    assert phonon.mesh_numbers is not None
    return [int(n) | 1 for n in phonon.mesh_numbers]


def _result(fit: _Fit, phonons: Sequence[Phonopy], energies: np.ndarray, settings: QhaSettings) -> QhaResult:
    fitted, n = fit.phonopy, fit.count
    temperatures, volume = fitted.temperatures[:n], fitted.equilibrium_volumes[:n]
    bulk = fitted.bulk_moduli[:n]  # eV/Å^3
    rows = zip(fitted.eos_parameters[:n], fitted.helmholtz_volume[:n], -fit.entropies, strict=True)
    expansion = np.array([_slope(get_eos(settings.eos), fitted.volumes, *row) for row in rows]) / volume
    heat = np.array(  # at constant volume
        [Polynomial.fit(fitted.volumes, c, DEGREE)(v) for c, v in zip(fit.heats, volume, strict=True)]
    )
    lowest = np.array([_lowest_frequency(phonon, settings.tolerance) for phonon in phonons])
    return QhaResult(
        converged=not fit.side,
        message=_message(fit, lowest, settings),
        stable=bool((lowest >= -settings.tolerance).all()),
        highest_temperature=float(temperatures[-1]),
        volume_at_300_K=_at_room(temperatures, volume),
        thermal_expansion_at_300_K=_at_room(temperatures, expansion),
        bulk_modulus_at_300_K=_at_room(temperatures, bulk / GPA),
        static_volume=float(fit.static.equilibrium_volume),
        static_bulk_modulus=float(fit.static.bulk_modulus) / GPA,
        volumes=fitted.volumes,
        energies=energies,
        lowest_frequencies=lowest,
        temperatures=temperatures,
        helmholtz=fitted.helmholtz_volume[:n],
        volume=volume,
        thermal_expansion=expansion,
        gibbs=fitted.gibbs_free_energies[:n],
        entropy=fitted.entropy_temperature[:n],
        heat_capacity=heat + temperatures * volume * bulk * expansion**2,
        bulk_modulus=bulk / GPA,
        gruneisen=np.divide(expansion * bulk * volume, heat, out=np.zeros_like(heat), where=heat > 0),
        atoms_per_cell=len(phonons[0].primitive),
    )


def _slope(
    eos: EosFunc, volumes: np.ndarray, parameters: np.ndarray, free: np.ndarray, change: np.ndarray
) -> float:
    """dV₀/dT (Å^3/K) of an equation of state that least squares fitted to free energies F (V,) eV.

    At the minimum of |f(V; p) − F|² its gradient g(p) is zero, so dp/dT = H⁻¹ Jᵀ dF/dT with H = dg/dp and
    J = df/dp. The parameters p (4,) are energy, bulk modulus, its derivative, volume; ``change`` is dF/dT.
    """
    scale = np.array([parameters[1] * parameters[3], *parameters[1:]])  # so that all steps are relative

    def jacobian(q: np.ndarray) -> np.ndarray:  # (V, 4)
        return _differences(lambda x: eos(volumes, parameters + scale * x), q, 1e-5)

    def gradient(q: np.ndarray) -> np.ndarray:  # (4,)
        residuals: np.ndarray = eos(volumes, parameters + scale * q) - free
        return np.asarray(jacobian(q).T @ residuals)

    zeros = np.zeros(4)
    response = np.linalg.solve(_differences(gradient, zeros, 1e-4), jacobian(zeros).T @ change)
    return float(scale[3] * response[3])


def _differences(function: Callable[[np.ndarray], np.ndarray], x: np.ndarray, step: float) -> np.ndarray:
    """Central differences of a function of x (P,): (…, P)."""
    return np.stack(
        [(function(x + d) - function(x - d)) / (2 * step) for d in step * np.eye(len(x))], axis=-1
    )


def _at_room(temperatures: np.ndarray, values: np.ndarray) -> float | None:
    """At 300 K, if that is among the temperatures."""
    if not temperatures[0] <= ROOM <= temperatures[-1]:
        return None
    return float(np.interp(ROOM, temperatures, values))


def _message(fit: _Fit, lowest: np.ndarray, settings: QhaSettings) -> str:
    fitted, problems = fit.phonopy, []
    volumes, static_volume = fitted.volumes, float(fit.static.equilibrium_volume)
    span = f"{volumes.min() / static_volume:.3g} to {volumes.max() / static_volume:.3g} of the static one"
    if fit.side:
        problems.append(
            f"holds up to {fitted.temperatures[fit.count - 1]:g} K: above it the equilibrium volume leaves "
            f"those that were computed ({span}); widen --volume-min and --volume-max, or lower --t-max"
        )
    if (lowest < -settings.tolerance).any():
        ratio = volumes[np.argmin(lowest)] / fitted.equilibrium_volumes[0]
        problems.append(
            f"imaginary modes at {ratio:.3f} of the volume at {fitted.temperatures[0]:g} K are left out"
        )
    sound = f"every volume is stable and every equilibrium lies among the {len(volumes)} volumes ({span})"
    return "; ".join(problems) or sound


def plot(result: QhaResult, others: Mapping[str, QhaResult] = {}, label: str = "") -> Figure:
    """Free energy against volume with its minima, and what follows from them; others in colour."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    panels = figure.subplots(2, 3)
    _draw_free_energy(panels[0, 0], result)
    for name, item, colour in reversed(overlay(result, others, label, SUBJECT)):
        for axes, (values, quantity) in zip(panels.ravel()[1:], _per_atom(item), strict=True):
            axes.plot(item.temperatures, values, color=colour, lw=WIDTH, label=name)
            axes.set(xlabel="temperature (K)", ylabel=quantity)
            axes.set_xlim(result.temperatures[0], result.temperatures[-1])
    if others:
        panels[0, 1].legend(fontsize="small")
    return figure


def _per_atom(result: QhaResult) -> list[tuple[np.ndarray, str]]:
    """Values to draw against temperature, with name and unit."""
    atoms = result.atoms_per_cell
    return [
        (result.volume / atoms, "volume (Å³/atom)"),
        (result.thermal_expansion * 1e6, "volume expansion (10⁻⁶/K)"),
        (result.bulk_modulus, "bulk modulus (GPa)"),
        (result.heat_capacity / atoms / kB, r"$C_P$ ($k_\mathrm{B}$/atom)"),
        (result.gibbs / atoms, "Gibbs energy (eV/atom)"),
    ]


def _draw_free_energy(axes: Axes, result: QhaResult) -> None:
    """About ten isotherms; points are computed, the line joins the minima."""
    atoms = result.atoms_per_cell
    for k in range(0, len(result.temperatures), max(1, len(result.temperatures) // 9)):
        axes.plot(result.volumes / atoms, result.helmholtz[k] / atoms, "o-", ms=3, lw=0.8, color="0.6")
    axes.plot(result.volume / atoms, result.gibbs / atoms, color="tab:red", lw=1.5)
    axes.set(xlabel="volume (Å³/atom)", ylabel="F + pV (eV/atom)")
    axes.set_title(f"{result.temperatures[0]:g} K (top) to {result.temperatures[-1]:g} K", fontsize="medium")
