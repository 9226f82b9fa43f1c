"""Settings of molecular dynamics, and what is done before the first step."""

from __future__ import annotations

from typing import Annotated, Literal

import ase
import numpy as np
from ase.calculators.calculator import Calculator
from ase.constraints import FixAtoms, FixCartesian
from ase.units import kB
from pydantic import Field, model_validator

from ...errors import NFFLrError, StructureError
from ...notes import note
from ...storage.archives import Archive
from ...structures.cells import heights
from ...structures.constraints import repeated
from ...units import GPA, Unit
from ..framework.interface import Repeats, Settings
from ..relaxation import RelaxSettings, relax

EnsembleName = Literal[
    "nve", "nvt", "nvt-langevin", "nvt-bussi", "nvt-nose-hoover", "npt", "npt-isotropic", "npt-berendsen"
]


class MdSettings(Settings):
    """Options of molecular dynamics; ``nvt`` is ``nvt-bussi``, ``npt`` moves the full cell."""

    ensemble: EnsembleName = Field("nvt", description="what is held; nvt is nvt-bussi, npt has a full cell")
    temperature: Annotated[float, Unit("K")] = Field(
        300.0, ge=0, description="temperature of the start and the thermostat"
    )
    temperature_end: Annotated[float | None, Unit("K")] = Field(
        None, gt=0, description="temperature at the last step, for a linear ramp; default: that of the start"
    )
    pressure: Annotated[float, Unit("GPa")] = Field(0.0, description="pressure of the barostat")
    pressure_end: Annotated[float | None, Unit("GPa")] = Field(
        None, description="pressure at the last step, for a linear ramp; default: that of the start"
    )
    timestep: Annotated[float, Unit("fs")] = Field(1.0, gt=0, description="time of one step")
    steps: int = Field(10_000, ge=0, description="number of steps, those of the run resumed included")
    thermostat_time: Annotated[float, Unit("fs")] = Field(
        100.0, gt=0, description="time constant of the thermostat (Langevin: one over the friction)"
    )
    barostat_time: Annotated[float, Unit("fs")] = Field(
        1000.0, gt=0, description="time constant of the barostat"
    )
    compressibility: Annotated[float | None, Unit("1/GPa")] = Field(
        None,
        gt=0,
        description="rough compressibility of the material, for npt-berendsen; default: from its stress",
    )
    supercell: Repeats | None = Field(
        None, description="repeats of the structure along each axis; default: the structure as it is"
    )
    minimise: bool = Field(
        False, description="relax the positions before the first step, in at most 100 steps, to 0.05 eV/Å"
    )
    seed: int = Field(0, ge=0, description="seed of the first velocities and of the random thermostats")
    keep_velocities: bool = Field(False, description="start with the velocities of the structure")
    interval: int = Field(10, ge=1, description="steps between frames and rows of the table")
    checkpoint: int = Field(100, ge=1, description="steps between states from which a run can be resumed")
    equilibration: float = Field(
        0.2, ge=0, le=0.9, description="fraction of the run, from its start, that averages leave out"
    )
    rdf_cutoff: Annotated[float, Unit("Å")] = Field(
        8.0, gt=0, description="reach of the radial distribution function"
    )
    max_temperature: Annotated[float, Unit("K")] = Field(
        20_000.0, gt=0, description="hotter than this, the run has exploded"
    )
    max_displacement: Annotated[float, Unit("Å")] = Field(
        0.5, gt=0, description="an atom that moves further in a step has exploded"
    )
    min_distance: Annotated[float, Unit("Å")] = Field(
        0.5, gt=0, description="atoms nearer than this have exploded"
    )
    max_drift: Annotated[float, Unit("meV/atom/ns")] = Field(
        1000.0, gt=0, description="a conserved quantity that drifts faster is reported"
    )
    max_forces_std: Annotated[float | None, Unit("eV/Å")] = Field(
        None, gt=0, description="stop where an ensemble's forces on an atom spread by more; default: no limit"
    )
    max_energy_std: Annotated[float | None, Unit("eV/atom")] = Field(
        None, gt=0, description="stop where an ensemble's energies spread by more; default: no limit"
    )
    melting: bool = Field(
        True, description="judge whether a crystal left its sites; not for liquids and molecules"
    )

    @model_validator(mode="after")
    def _every_option_acts(self):
        if not self.has_thermostat and self.temperature_end is not None:
            raise ValueError("temperature_end needs a thermostat: choose another --ensemble than nve")
        if self.has_thermostat and self.temperature == 0:
            raise ValueError("temperature is 0 K, at which no thermostat works; choose --ensemble nve")
        if not self.has_barostat and (self.pressure or self.pressure_end is not None):
            raise ValueError("pressure needs a barostat: give --ensemble npt")
        return self

    @property
    def has_thermostat(self) -> bool:
        return self.ensemble != "nve"

    @property
    def has_barostat(self) -> bool:
        return self.ensemble.startswith("npt")

    @property
    def has_ramp(self) -> bool:
        return self.temperature_end is not None or self.pressure_end is not None

    def targets(self, step: int) -> tuple[float, float]:
        """Temperature (K) and pressure (GPa) that the step which follows ``step`` steps aims at."""
        done = min(1.0, step / max(1, self.steps))
        temperature_end = self.temperature if self.temperature_end is None else self.temperature_end
        pressure_end = self.pressure if self.pressure_end is None else self.pressure_end
        return (
            self.temperature + done * (temperature_end - self.temperature),
            self.pressure + done * (pressure_end - self.pressure),
        )


def random_velocities(atoms: ase.Atoms, temperature: float, rng: np.random.Generator) -> None:
    """Give atoms momenta of the Maxwell–Boltzmann distribution, scaled to the temperature (K) exactly.

    Along axes on which constraints hold nothing, the total momentum is zero; without constraints and periodic
    axes the angular momentum is zero too.
    """
    masses = atoms.get_masses()[:, None]  # (N, 1)
    momenta = rng.standard_normal((len(atoms), 3)) * np.sqrt(masses * kB * temperature)
    momenta -= free_axes(atoms) * masses * momenta.sum(axis=0) / masses.sum()
    if not atoms.constraints and not atoms.pbc.any():
        momenta -= _rotation(atoms, momenta)
    atoms.set_momenta(momenta, apply_constraint=True)
    dof, kinetic = degrees_of_freedom(atoms), atoms.get_kinetic_energy()
    scale = np.sqrt(dof / 2 * kB * temperature / kinetic) if dof and kinetic else 0.0
    atoms.set_momenta(scale * atoms.get_momenta())


def degrees_of_freedom(atoms: ase.Atoms, keeps_momentum: bool = True) -> int:
    """Number of momentum coordinates that no constraint and no conservation law fixes.

    If the dynamics ``keeps_momentum``, one less is free along each axis on which nothing is held and the
    total momentum is zero; without periodic axes and constraints rotation is not free either, if it is
    absent.
    """
    coordinates, others = _held(atoms)  # ASE counts what two constraints fix twice
    free = int(coordinates.sum()) - sum(constraint.get_removed_dof(atoms) for constraint in others)
    if not keeps_momentum:
        return free
    momenta = atoms.get_momenta()
    small = 1e-8 * np.abs(momenta).sum()
    resting = free_axes(atoms) & (np.abs(momenta.sum(axis=0)) <= small)  # (3,)
    free -= int(resting.sum())
    if atoms.constraints or atoms.pbc.any() or not resting.all():
        return free
    if np.abs(_rotation(atoms, momenta)).max() <= small:
        free -= np.linalg.matrix_rank(_inertia(atoms), tol=1e-6) if len(atoms) > 1 else 0
    return int(free)


def free_axes(atoms: ase.Atoms) -> np.ndarray:
    """(3,) bool: axes along which the structure can move as a whole, since no constraint holds a part."""
    free, others = _held(atoms)
    return np.array([not others] * 3) & free.all(axis=0)


def _held(atoms: ase.Atoms) -> tuple[np.ndarray, list]:
    """Coordinates (N, 3) that are not fixed by themselves, and the constraints that say something else."""
    free, others = np.ones((len(atoms), 3), dtype=bool), []
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            free[constraint.index] = False
        elif isinstance(constraint, FixCartesian):
            free[constraint.index] &= ~np.asarray(constraint.mask)
        else:
            others.append(constraint)
    return free, others


def _rotation(atoms: ase.Atoms, momenta: np.ndarray) -> np.ndarray:
    """Momenta (N, 3) of the rigid rotation that carries the angular momentum; linear molecules too."""
    x = atoms.positions - atoms.get_center_of_mass()
    angular = np.cross(x, momenta).sum(axis=0)
    omega = np.linalg.pinv(_inertia(atoms), rcond=1e-8, hermitian=True) @ angular
    return atoms.get_masses()[:, None] * np.cross(omega, x)


def _inertia(atoms: ase.Atoms) -> np.ndarray:
    """Inertia tensor (3, 3), amu·Å²."""
    x, m = atoms.positions - atoms.get_center_of_mass(), atoms.get_masses()
    return (m @ np.square(x).sum(axis=1)) * np.eye(3) - np.einsum("i,ij,ik->jk", m, x, x)


FEW_ATOMS, SHORT = 20, 8.0  # a periodic cell with fewer, or shorter (Å), than this is called small
MINIMISATION = RelaxSettings(fmax=0.05, steps=100)
STRAIN = 0.01  # of the volume, for the bulk modulus
COMPRESSIBILITY = 0.01  # 1/GPa, where the structure does not give one


def supercell_of(atoms: ase.Atoms, repeats: tuple[int, int, int] | None) -> ase.Atoms:
    """A copy, or the supercell, in which copies of an atom have its mass, velocity and constraints."""
    for axis, count, periodic in zip("abc", repeats or (), atoms.pbc, strict=False):
        if count > 1 and not periodic:
            raise StructureError(
                f"structure: axis {axis} is not periodic, --supercell repeats it {count} times; give 1 there"
            )
    return repeated(atoms, repeats or (1, 1, 1))


def note_small_cell(atoms: ase.Atoms) -> None:
    """Say that a periodic cell is so small that its size shows in what is averaged."""
    if not atoms.pbc.any() or atoms.cell.rank < 3:
        return
    widths = heights(atoms.cell.array)  # (3,) Å
    shortest = widths[atoms.pbc].min()
    if len(atoms) >= FEW_ATOMS and shortest >= SHORT:
        return
    counts = np.where(atoms.pbc, np.ceil(SHORT / widths - 1e-6), 1).astype(int)
    while len(atoms) * counts.prod() < FEW_ATOMS:
        counts[np.where(atoms.pbc, widths * counts, np.inf).argmin()] += 1
    size = f"{len(atoms)} atom{'s' * (len(atoms) > 1)} and is {shortest:.1f} Å thick"
    note(
        f"structure: the periodic cell has {size}, so that atoms move with their own images; "
        f"give --supercell {' '.join(map(str, counts))}"
    )


def prepared(
    atoms: ase.Atoms, calculator: Calculator, settings: MdSettings, archive: Archive
) -> tuple[ase.Atoms, MdSettings]:
    """The structure at the start, and settings without gaps; from the archive where a run is continued."""
    lacks_compressibility = settings.ensemble == "npt-berendsen" and settings.compressibility is None
    if not (settings.minimise or lacks_compressibility):
        return atoms, settings
    record = archive.load("start")
    if record is None:
        start = relax(atoms, calculator, MINIMISATION).relaxed if settings.minimise else atoms
        value = compressibility(start, calculator, settings) if lacks_compressibility else None
        record = {
            "positions": start.get_positions(),
            "compressibility": np.array(value or COMPRESSIBILITY),
        }
        archive.save("start", record)
    atoms = atoms.copy()
    atoms.arrays["positions"][:] = record["positions"]
    if lacks_compressibility:
        settings = settings.model_copy(update={"compressibility": float(record["compressibility"])})
    return atoms, settings


def compressibility(atoms: ase.Atoms, calculator: Calculator, settings: MdSettings) -> float | None:
    """1/B in 1/GPa from the pressures of two volumes, to which atoms follow; None if that is not positive.

    To the modulus at rest comes the ideal gas's N kT/V. A liquid's atoms do not follow, which makes it too
    stiff by a small factor; a barostat's time constant does not mind.
    """
    pressures = []
    for sign in (1, -1):
        strained = atoms.copy()
        strained.set_constraint()
        strained.set_cell(atoms.cell.array * (1 + sign * STRAIN) ** (1 / 3), scale_atoms=True)
        calculator.reset()
        try:
            stress = calculator.get_property("stress", strained)
        except NFFLrError:
            return None
        pressures.append(-float(np.mean(stress[:3])) / GPA)
    modulus = (pressures[1] - pressures[0]) / (2 * STRAIN)
    modulus += len(atoms) * kB * settings.temperature / atoms.get_volume() / GPA
    return 1 / modulus if np.isfinite(modulus) and modulus > 0 else None
