"""Thermal expansion in the quasi-harmonic approximation."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

import ase
import matplotlib.figure
import numpy as np
from ase.calculators.calculator import Calculator
from ase.units import kB
from matplotlib.axes import Axes
from phonopy import Phonopy, QHAResult, run_qha
from phonopy.qha.core import BulkModulus
from pydantic import Field, model_validator

from ..errors import NumericsError
from ..units import GPA, Unit
from .archive import Archive
from .attributes import follow_rule
from .base import Array, Progress, Result, silent
from .lattice.figures import WIDTH, curves
from .lattice.harmonic import displaced, rest, set_force_constants
from .lattice.settings import ThermalSettings, Three
from .lattice.stability import lowest_mode
from .lattice.supercell import supercell_matrix
from .lattice.volumes import at_volumes, energies_of

TOPIC = "Vibrations and heat"
PLACE = 2
EXAMPLES = ("nff qha si.cif --supercell 2 2 2 --pressure 1",)

NO_FIT = "no equation of state fits the free energies"
ADVICE = "use more volumes, or a narrower range of volumes or temperatures"


class QhaSettings(ThermalSettings):
    """Options of a quasi-harmonic calculation."""

    mesh: Three | None = Field(
        None, description="q-points along each axis, even ones shifted off Γ; default: from --mesh-length"
    )
    volumes: int = Field(9, ge=5, description="number of volumes")
    volume_min: float = Field(0.97, gt=0, description="smallest volume, relative to that at rest")
    volume_max: float = Field(1.06, gt=0, description="largest volume, relative to that at rest")
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
    """Thermodynamics at constant pressure, per primitive cell. Shapes: V volumes, T temperatures."""

    stable: bool
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


@follow_rule
def qha(
    atoms: ase.Atoms,
    calculator: Calculator,
    settings: QhaSettings = QhaSettings(),
    progress: Progress = silent,
    archive: Archive = Archive(),
) -> QhaResult:
    """Helmholtz energies of harmonic phonons at several volumes, minimised over the volume (phonopy).

    The cell is scaled evenly: its shape stays that of the structure at rest, which is exact for cubic
    crystals. Positions are relaxed at every volume unless ``relax`` is ``"none"``. Electrons contribute
    nothing. See Togo, Chaput, Tanaka and Hug, Phys. Rev. B 81, 174301 (2010).

    Args:
        atoms: periodic along three axes.
        calculator: any ASE calculator with energy and forces, and stress if the cell is relaxed.
        settings: see ``QhaSettings``.
        progress: called with steps of relaxations, then with finished displacements of all volumes.
        archive: keeps relaxed structures and finished displacements.

    Raises:
        StructureError: not periodic along three axes.
        NumericsError: a relaxation did not converge, forces are not finite, or no equation of state fits.
    """
    start = rest(atoms, calculator, settings, progress, archive)
    ratios = np.linspace(settings.volume_min, settings.volume_max, settings.volumes)
    cells = at_volumes(start, ratios, calculator, settings, progress, archive)
    energies = energies_of(cells, calculator, archive)
    matrix = supercell_matrix(start, settings)
    phonons = [displaced(cell, matrix, settings) for cell in cells]
    set_force_constants(phonons, calculator, settings, progress, archive)
    share = len(phonons[0].primitive) / len(start)
    return quasi_harmonic(phonons, energies * share, settings)


def quasi_harmonic(phonons: Sequence[Phonopy], energies: np.ndarray, settings: QhaSettings) -> QhaResult:
    """The thermodynamics of phonopy objects with force constants, one per volume.

    Args:
        phonons: in the order of their volumes.
        energies: (V,) eV per primitive cell, of the atoms at rest.
        settings: temperatures, mesh, equation of state and pressure are used.

    Raises:
        NumericsError: the equation of state cannot be fitted.
    """
    mesh = settings.mesh or _same_mesh(phonons, settings.mesh_length)
    temperatures = settings.temperatures(beyond=1)  # phonopy differentiates and needs one more
    try:
        with warnings.catch_warnings():
            # About lattice parameters, which the result does not hold.
            warnings.filterwarnings("ignore", message="Lattice parameter")
            found = run_qha(
                phonons,
                temperatures,
                internal_energies=energies,
                mesh=mesh,
                pressure=settings.pressure,
                eos=settings.eos,
                exclude_gamma_acoustic=True,
            )
        static = BulkModulus(
            found.volumes, energies + found.volumes * settings.pressure * GPA, eos=settings.eos
        )
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise NumericsError(f"structure: {NO_FIT} ({error}); {ADVICE}") from error
    if len(found.temperatures) != len(temperatures) - 1 or not np.isfinite(found.eos_parameters).all():
        raise NumericsError(f"structure: {NO_FIT} at every temperature; {ADVICE}")
    lowest = np.array([_lowest_frequency(phonon, settings.tolerance) for phonon in phonons])
    return _result(found, static, energies, lowest, settings, len(phonons[0].primitive))


def _lowest_frequency(phonon: Phonopy, tolerance: float) -> float:
    assert phonon.mesh is not None  # from the thermal properties
    return lowest_mode(phonon, phonon.mesh.qpoints, tolerance).frequency


def _same_mesh(phonons: Sequence[Phonopy], length: float) -> list[int]:
    """Odd numbers, so that Γ is among the points, for the middle volume and used for all of them: numbers
    that change with the volume would put steps into the free energy."""
    phonon = phonons[len(phonons) // 2]
    phonon.init_mesh(length)
    assert phonon.mesh_numbers is not None
    return [int(n) | 1 for n in phonon.mesh_numbers]


def _result(
    found: QHAResult,
    static: BulkModulus,
    energies: np.ndarray,
    lowest: np.ndarray,
    settings: QhaSettings,
    atoms: int,
) -> QhaResult:
    volume = found.equilibrium_volumes
    inside = (volume > found.volumes.min()) & (volume < found.volumes.max())
    stable = bool((lowest >= -settings.tolerance).all())
    problems = []
    if not inside.all():
        first = found.temperatures[np.argmin(inside)]
        problems.append(
            f"at {first:g} K the equilibrium volume leaves the volumes that were computed; "
            "widen --volume-min and --volume-max, or lower --t-max"
        )
    if not stable:
        ratio = found.volumes[np.argmin(lowest)] / volume[0]
        problems.append(
            f"imaginary modes at {ratio:.3f} of the volume at {found.temperatures[0]:g} K are left out"
        )
    return QhaResult(
        converged=bool(inside.all()),
        message="; ".join(problems) or "every volume is stable and every equilibrium lies among them",
        stable=stable,
        static_volume=float(static.equilibrium_volume),
        static_bulk_modulus=float(static.bulk_modulus) / GPA,
        volumes=found.volumes,
        energies=energies,
        lowest_frequencies=lowest,
        temperatures=found.temperatures,
        helmholtz=found.helmholtz_volume,
        volume=volume,
        thermal_expansion=found.thermal_expansion,
        gibbs=found.gibbs_free_energies,
        entropy=found.entropy_temperature,
        heat_capacity=found.heat_capacity_P.heat_capacities,
        bulk_modulus=found.bulk_moduli / GPA,
        gruneisen=found.gruneisen_parameters,
        atoms_per_cell=atoms,
    )


def plot(
    result: QhaResult, others: Mapping[str, QhaResult] = {}, label: str = ""
) -> matplotlib.figure.Figure:
    """Free energy against volume with its minima, and what follows from them; others in colour."""
    figure = matplotlib.figure.Figure(figsize=(11, 6), layout="constrained")
    panels = figure.subplots(2, 3)
    _draw_free_energy(panels[0, 0], result)
    for name, one, colour in reversed(curves(result, others, label)):
        for axes, (values, quantity) in zip(panels.ravel()[1:], _per_atom(one), strict=True):
            axes.plot(one.temperatures, values, color=colour, lw=WIDTH, label=name)
            axes.set(xlabel="temperature (K)", ylabel=quantity)
            axes.set_xlim(result.temperatures[0], result.temperatures[-1])
    if others:
        panels[0, 1].legend(fontsize="small")
    return figure


def _per_atom(result: QhaResult) -> list[tuple[np.ndarray, str]]:
    """What is drawn against temperature, with its name and unit."""
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
