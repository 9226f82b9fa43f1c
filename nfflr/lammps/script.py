"""Input and data files of LAMMPS for molecular dynamics of a structure, in ``metal`` units."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Annotated, Literal

import ase
import numpy as np
from ase.geometry import complete_cell
from ase.io.lammpsdata import write_lammps_data
from pydantic import Field, model_validator

from ..units import Unit
from ..workflows.base import Settings
from .external import FIX

GPA_IN_BAR = 1e4
DEFINE = f"fix {FIX} all external pf/callback 1 1"
MARGIN = 5.0  # Å around atoms along an axis without a cell vector, where LAMMPS lets the box follow them


class LammpsSettings(Settings):
    """Options of molecular dynamics in LAMMPS; ``nvt`` and ``npt`` are Nosé and Hoover's."""

    ensemble: Literal["nve", "nvt", "nvt-langevin", "npt", "npt-isotropic"] = Field(
        "nvt", description="what is held; nvt and npt are Nosé-Hoover, npt has a full cell"
    )
    temperature: Annotated[float, Unit("K")] = Field(
        300.0, ge=0, description="temperature of the start and the thermostat"
    )
    pressure: Annotated[float, Unit("GPa")] = Field(0.0, description="pressure of the barostat")
    timestep: Annotated[float, Unit("fs")] = Field(1.0, gt=0, description="time of one step")
    steps: int = Field(10_000, ge=0, description="number of steps")
    thermostat_time: Annotated[float, Unit("fs")] = Field(
        100.0, gt=0, description="time constant of the thermostat"
    )
    barostat_time: Annotated[float, Unit("fs")] = Field(
        1000.0, gt=0, description="time constant of the barostat"
    )
    seed: int = Field(
        0, ge=0, le=900_000_000, description="seed of the first velocities and of the random thermostat"
    )
    keep_velocities: bool = Field(False, description="start with the velocities of the structure")
    interval: int = Field(100, ge=1, description="steps between frames and rows of the table")

    @model_validator(mode="after")
    def _every_option_acts(self):
        if self.ensemble != "nve" and self.temperature == 0:
            raise ValueError("temperature is 0 K, at which no thermostat works; choose --ensemble nve")
        if not self.ensemble.startswith("npt") and self.pressure:
            raise ValueError("pressure needs a barostat: give --ensemble npt")
        return self


def species_of(atoms: ase.Atoms) -> list[str]:
    """Elements of a structure in the order in which they first appear, which becomes that of the types."""
    return list(dict.fromkeys(atoms.get_chemical_symbols()))


def data_file(
    atoms: ase.Atoms, species: Sequence[str], *, velocities: bool = False, skewed: bool = False
) -> str:
    """LAMMPS's data file of a structure, turned and moved as its boxes need it.

    Args:
        atoms: along an axis without a cell vector the box is as long as the structure, with a margin.
        species: chemical symbols in the order of types.
        velocities: write them too.
        skewed: write tilt factors of zero too, so that a barostat can change them.
    """
    atoms = atoms.copy()
    missing = atoms.cell.lengths() < 1e-6
    if missing.any():
        normals = complete_cell(atoms.cell.array)  # unit vectors where there was none
        along = atoms.positions @ np.linalg.inv(normals)
        size = np.ptp(along, axis=0) + 2 * MARGIN
        atoms.cell = np.where(missing[:, None], normals * size[:, None], normals)
        atoms.positions += np.where(missing, MARGIN - along.min(axis=0), 0.0) @ normals
    content = io.StringIO()
    write_lammps_data(
        content, atoms, specorder=list(species), masses=True, velocities=velocities, force_skew=skewed
    )
    return content.getvalue()


def input_script(
    atoms: ase.Atoms, species: Sequence[str], settings: LammpsSettings, *, name: str, command: str
) -> str:
    """LAMMPS's input; ``name`` is the stem of the files, ``command`` what runs it."""
    boundary = " ".join("p" if periodic else "s" for periodic in atoms.pbc)
    lines = [
        f"# {atoms.get_chemical_formula()}; run it with",
        f"# {command}",
        "units metal",
        "atom_style atomic",
        f"boundary {boundary}",
        f"read_data {name}.data",
        "",
        "# From here on the potential acts: python -m nfflr.lammps attaches it to this fix, and sets the",
        "# ghost cutoff and the neighbour lists that it needs.",
        DEFINE,
        "",
        *_motion(settings),
        "",
        f"thermo {settings.interval}",
        "thermo_style custom step time temp pe etotal press vol pxx pyy pzz pyz pxz pxy",
        "thermo_modify flush yes lost error",
        f"dump frames all custom {settings.interval} {name}.lammpstrj id type element x y z vx vy vz",
        f"dump_modify frames sort id element {' '.join(species)} format float %.9g",
        f"run {settings.steps}",
        f"write_data {name}-final.data nocoeff",
    ]
    return "\n".join(lines) + "\n"


def _motion(settings: LammpsSettings) -> list[str]:
    """Velocities and integrator; times in ps."""
    kelvin, seed = settings.temperature, settings.seed + 1  # LAMMPS wants a positive one
    damping, barostat = settings.thermostat_time / 1000, settings.barostat_time / 1000
    lines = [f"timestep {settings.timestep / 1000:.10g}"]
    if not settings.keep_velocities:
        # Drawn atom by atom in the order of ids, so that they do not depend on the number of ranks.
        lines.append(f"velocity all create {kelvin:.10g} {seed} mom yes rot no dist gaussian loop all")
    thermostat = f"temp {kelvin:.10g} {kelvin:.10g} {damping:.10g}"
    bar = settings.pressure * GPA_IN_BAR
    kind = "tri" if settings.ensemble == "npt" else "iso"
    integrators = {
        "nve": ["fix motion all nve"],
        "nvt": [f"fix motion all nvt {thermostat}"],
        "nvt-langevin": [
            "fix motion all nve",
            f"fix bath all langevin {kelvin:.10g} {kelvin:.10g} {damping:.10g} {seed} zero yes",
        ],
        "npt": [f"fix motion all npt {thermostat} {kind} {bar:.10g} {bar:.10g} {barostat:.10g}"],
    }
    integrators["npt-isotropic"] = integrators["npt"]
    return lines + integrators[settings.ensemble]
