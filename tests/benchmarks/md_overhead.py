"""Time of ``md`` relative to ASE's velocity Verlet with the same calculator: silicon, ``mlearn-si-fast``.

Usage: python tests/benchmarks/md_overhead.py [ATOMS ...] [--steps N] [--rounds R]

Processor time of one thread on one core, both contestants in turns, median of the rounds. ``md`` keeps its
frames and states in a folder, as ``nff md`` does. Its analysis after the last step, which counts once per
run, is shown by itself.
"""

import argparse
import os
import resource
import tempfile
import time
from functools import partial
from pathlib import Path

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

from fair import in_turn  # isort: skip

import numpy as np
import torch
from ase.build import bulk
from ase.md.verlet import VelocityVerlet
from ase.units import fs

from nfflr import NFFLrCalculator
from nfflr.storage.archives import FolderArchive
from nfflr.workflows import molecular_dynamics as workflow
from nfflr.workflows.dynamics.preparation import random_velocities

TEMPERATURE = 600.0  # K


def crystal(n_atoms):
    repeats = round((n_atoms / 8) ** (1 / 3))
    atoms = bulk("Si", a=5.469, cubic=True) * repeats
    random_velocities(atoms, TEMPERATURE, np.random.default_rng(0))
    return atoms


def verlet(atoms, calculator, steps):
    atoms = atoms.copy()
    calculator.reset()
    atoms.calc = calculator
    dynamics = VelocityVerlet(atoms, 1.0 * fs)
    begin = time.process_time()
    dynamics.run(steps)
    return time.process_time() - begin


def run(atoms, calculator, ensemble, steps, analysis):
    """Seconds of the steps; those of the analysis are added to a list."""
    settings = workflow.MdSettings(
        ensemble=ensemble, temperature=TEMPERATURE, steps=steps, keep_velocities=True
    )
    with tempfile.TemporaryDirectory() as folder:
        archive = FolderArchive(Path(folder))
        calculator.reset()
        begin = time.process_time()
        outcome = workflow.simulate(atoms.copy(), calculator, settings, workflow.silent, archive)
        stepping = time.process_time() - begin
        workflow._result(outcome, archive.frames(), settings)
        analysis.append(time.process_time() - begin - stepping)
        archive.close()
    return stepping


def compare(n_atoms, calculator, ensembles, steps, rounds):
    """A line about one size."""
    atoms, analysis = crystal(n_atoms), []
    contestants = {"ASE": partial(verlet, atoms, calculator, steps)}
    for name in ensembles:
        contestants[name] = partial(run, atoms, calculator, name, steps, analysis)
    costs = in_turn(contestants, rounds)
    base = costs.pop("ASE")
    ratios = "; ".join(f"{name} {cost / base:.3f} times" for name, cost in costs.items())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return (
        f"{len(atoms):7d} atoms: ASE {1000 * base / steps:8.3f} ms/step; {ratios}; "
        f"analysis {min(analysis):.2f} s, as {min(analysis) / base * steps:.0f} steps; {memory:.2f} GiB"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("atoms", nargs="*", type=int, default=[64, 1000, 8000])
    parser.add_argument("--steps", type=int, help="default: about 400,000 atoms times steps")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ensembles", nargs="*", default=["nve"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    calculator = NFFLrCalculator.load("mlearn-si-fast", compile=True)
    for n_atoms in options.atoms:
        steps = options.steps or max(100, min(1000, 400_000 // n_atoms))
        print(compare(n_atoms, calculator, options.ensembles, steps, options.rounds), flush=True)


if __name__ == "__main__":
    main()
