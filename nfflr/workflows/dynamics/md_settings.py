"""Options of molecular dynamics."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from ...units import Unit
from ..framework.interface import Settings

EnsembleName = Literal[
    "nve",
    "nvt",
    "nvt-langevin",
    "nvt-bussi",
    "nvt-nose-hoover",
    "npt",
    "npt-isotropic",
    "npt-berendsen",
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
    supercell: tuple[PositiveInt, PositiveInt, PositiveInt] | None = Field(
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
        last_temperature = self.temperature if self.temperature_end is None else self.temperature_end
        last_pressure = self.pressure if self.pressure_end is None else self.pressure_end
        return (
            self.temperature + done * (last_temperature - self.temperature),
            self.pressure + done * (last_pressure - self.pressure),
        )
