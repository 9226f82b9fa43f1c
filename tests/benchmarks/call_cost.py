"""Cost of one call of the compiled one-layer network through ASE, as in molecular dynamics.

Usage: python tests/benchmarks/call_cost.py [ATOMS ...] [--elements N ...] [--against CHECKOUT] [--rounds R]

Before each call all atoms move a little; energy, forces and stress are wanted. Silicon with
``mlearn-si-fast``, and the same positions with elements drawn at random and random weights; with "own", each
element has weights of its own. Processor time of one thread on one core, median of the rounds: µs per atom,
the kernel's share of it, µs per atom of a call for which neighbours are searched, and the cost of a call
relative to one element's. With ``--against``, another checkout runs the same in turns, and medians of the
ratios this / other are shown.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

ELEMENTS = ["Li", "Na", "Mg", "Al", "Si", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Zr", "Ag"]
HERE = Path(__file__).resolve()


def potential(n_elements, own):
    import torch

    from nfflr.compiled.aot_graph import example_graphs
    from nfflr.models.moment import MomentConfig, MomentNetwork

    torch.manual_seed(0)
    config = MomentConfig(elements=ELEMENTS[:n_elements], cutoff=5.3, own_weights=own)
    model = MomentNetwork(config)
    model.calibrate(example_graphs(model)[-1])  # those that a kernel is checked with
    return model


def prepare(n_atoms, n_elements, own):
    """A function that returns µs per call, µs of them in the kernel, and µs per call with a search."""
    import numpy as np
    import torch
    from ase.build import bulk

    from nfflr import NFFLrCalculator

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    repeats = np.ones(3, int)
    while 8 * repeats.prod() < n_atoms:
        repeats[repeats.argmin()] += 1
    atoms = bulk("Si", a=5.469, cubic=True) * repeats
    atoms.positions += rng.normal(0, 0.03, atoms.positions.shape)
    if n_elements:
        atoms.symbols = rng.choice(ELEMENTS[:n_elements], len(atoms))
        model = potential(n_elements, own)
        atoms.calc = NFFLrCalculator(model, dtype="float32", compile=True)
    else:
        atoms.calc = NFFLrCalculator.load("mlearn-si-fast", compile=True)
    form = atoms.calc.compiled
    frames = [atoms.positions + rng.normal(0, 0.02, atoms.positions.shape) for _ in range(2)]
    evaluate, inside = form._evaluate, [0.0]

    def timed(*arguments):
        begin = time.process_time()
        status = evaluate(*arguments)
        inside[0] += time.process_time() - begin
        return status

    def call(count, reset=False):
        begin = time.process_time()
        for k in range(count):
            if reset:
                atoms.calc.reset()
            atoms.positions = frames[k % 2]
            atoms.get_forces(), atoms.get_potential_energy(), atoms.get_stress()
        return 1e6 * (time.process_time() - begin) / count

    def measure():
        count = max(5, 4000 // len(atoms))
        call(3)
        total = call(count)
        form._evaluate, inside[0] = timed, 0.0
        call(count)
        form._evaluate = evaluate
        return total, 1e6 * inside[0] / count, call(3, reset=True)

    return measure


def serve():
    """Measure what a line on standard input asks for, until it ends."""
    cases = {}
    for line in sys.stdin:
        if line not in cases:
            cases[line] = prepare(*json.loads(line))
        print(json.dumps(cases[line]()), flush=True)


class Checkout:
    """A process that imports the package from a folder."""

    def __init__(self, folder):
        environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(HERE), "--serve"]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def measure(self, case):
        print(json.dumps(case), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


def compare(cases, checkouts, rounds):
    """A line about each case of one size; all cases of all checkouts take turns."""
    turns = [(case, k) for case in cases for k in range(len(checkouts))]
    costs = [{(case, k): checkouts[k].measure(case) for case, k in turns} for _ in range(rounds + 1)]
    for case in cases:
        yield line(case, cases, costs[1:], len(checkouts))  # the first round warms up


def line(case, cases, costs, n_checkouts):
    """Medians of the rounds; ratios are formed within a round."""
    n_atoms, n_elements, own = case
    total, inside, anew = (statistics.median(round[case, 0][k] for round in costs) for k in range(3))
    name = f"{n_elements} elements{', own' if own else ''}" if n_elements else "mlearn-si-fast"
    text = f"{n_atoms:6d} {name:>18s} {total / n_atoms:8.2f} {inside / total:7.0%} {anew / n_atoms:8.2f}"
    one = (n_atoms, 1, False)
    ratio = statistics.median(round[case, 0][0] / round[one, 0][0] for round in costs) if one in cases else 0
    text += f"{ratio:9.2f}" if ratio else f"{'':9s}"
    if n_checkouts > 1:
        ratios = (
            statistics.median(round[case, 0][k] / round[case, 1][k] for round in costs) for k in range(3)
        )
        text += "".join(f"{ratio:9.3f}" for ratio in ratios)
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("atoms", nargs="*", type=int, default=[8, 64, 216, 1000], help="multiples of 8")
    parser.add_argument("--elements", nargs="*", type=int, default=[0, 1, 4, 16], help="0: mlearn-si-fast")
    parser.add_argument("--against", type=Path, help="another checkout of the package")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve()
    folders = [HERE.parents[2], *([options.against] if options.against else [])]
    checkouts = [Checkout(folder.resolve()) for folder in folders]
    heading = f"{'atoms':>6s} {'':>18s} {'µs/atom':>8s} {'kernel':>7s} {'search':>8s} {'/ one':>8s}"
    print(heading + ("  ratios: call, kernel, search" if options.against else ""), flush=True)
    kinds = [(n, own) for n in options.elements for own in ((False, True) if n > 1 else (False,))]
    for n_atoms in options.atoms:
        cases = [(n_atoms, *kind) for kind in kinds]
        for text in compare(cases, checkouts, options.rounds):
            print(text, flush=True)


if __name__ == "__main__":
    main()
