"""LAMMPS on one and two ranks against the ASE calculator: NVE steps of silicon, in turn.

Usage: python tests/benchmarks/lammps_scaling.py [--repeats 10 10 13] [--rounds 5]

Each figure is the least time of a step in the rounds. ASE's is of the calculator alone, after each atom has
moved as in a step; LAMMPS's is of whole steps, by its own clock, after the first.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve()


def ranks(n: int, data: Path, steps: int) -> dict:
    command = [Path(sys.prefix, "bin", "mpiexec"), "-n", str(n), sys.executable, HERE, "--rank", data]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--steps", str(steps)], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def rank(data: Path, steps: int) -> None:
    from mpi4py import MPI

    from nfflr.calculator import NFFLrCalculator
    from nfflr.engines.lammps import attach

    import lammps  # isort: skip

    comm = MPI.COMM_WORLD
    lmp = lammps.lammps(cmdargs=["-log", "none", "-screen", "none"], comm=comm)
    lmp.commands_string(f"units metal\natom_style atomic\nread_data {data}\nfix move all nve\n")
    external = attach(lmp, NFFLrCalculator.load("mlearn-si-fast", compile=True), ["Si"])
    lmp.command("velocity all create 600 3 loop all")
    lmp.command("run 5 post no")
    builds = external.region.builds
    comm.Barrier()
    start = time.perf_counter()
    lmp.command(f"run {steps} pre no post no")
    comm.Barrier()
    taken = (time.perf_counter() - start) / steps
    ghosts = comm.gather((lmp.extract_setting("nlocal"), lmp.extract_setting("nghost")))
    if comm.rank == 0:
        print(json.dumps({"step": taken, "builds": external.region.builds - builds, "atoms": ghosts}))


def ase_step(atoms, steps: int) -> float:
    """Seconds of a call of the calculator, lists kept as in dynamics."""
    rng = np.random.default_rng(0)
    moves = [0.02 * rng.standard_normal(atoms.positions.shape) for _ in range(4)]
    start = atoms.positions.copy()
    atoms.get_forces()
    begun = time.perf_counter()
    for k in range(steps):
        atoms.positions = start + moves[k % 4]
        atoms.get_forces()
    return (time.perf_counter() - begun) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, nargs=3, default=(10, 10, 13))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank:
        rank(arguments.rank, arguments.steps)
        return
    from ase.build import bulk

    from nfflr.calculator import NFFLrCalculator
    from nfflr.engines.lammps.script import data_file

    atoms = bulk("Si", a=5.4687, cubic=True) * arguments.repeats
    atoms.calc = NFFLrCalculator.load("mlearn-si-fast", compile=True)
    times: dict[str, list[float]] = {"ase": [], "1": [], "2": []}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "si.data")
        data.write_text(data_file(atoms, ["Si"]))
        for _ in range(arguments.rounds):
            times["ase"].append(ase_step(atoms, arguments.steps))
            for n in (1, 2):
                found = ranks(n, data, arguments.steps)
                times[str(n)].append(found["step"])
                print(n, found)
    best = {name: min(values) for name, values in times.items()}
    print(f"{len(atoms)} atoms, ms a step:", {name: round(1e3 * t, 2) for name, t in best.items()})
    print(f"one rank / ASE: {best['1'] / best['ase']:.2f}   one rank / two: {best['1'] / best['2']:.2f}")


if __name__ == "__main__":
    main()
