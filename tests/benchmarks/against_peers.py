"""Cost of a force call beside other calculators', interleaved in one run on one core.

    taskset -c 0 python tests/benchmarks/against_peers.py mace_128x0e emt --sizes 64 1000

Peers are those of ``rivals.py``, and get the same allocator settings as we do. A call is energy + forces +
stress through ASE after a small move, in processor time, since machines are shared. The ratio is of costs
per atom to the first calculator's.
"""

import argparse
import time

from fair import in_turn  # sets the process up, so it precedes numpy and torch

# isort: split
import numpy as np
import torch
from ase.build import bulk
from rivals import CALCULATORS, COPPER, silicon

OURS = {"compiled": True, "eager": False}


def silicon_or_copper(n, copper):
    if not copper:
        return silicon(n)
    atoms = bulk("Cu", cubic=True).repeat(max(1, round((n / 4) ** (1 / 3))))
    atoms.rattle(0.05, seed=0)
    return atoms


def make_step(atoms, calculator):
    atoms.calc = calculator
    rng = np.random.default_rng(0)
    has_stress = "stress" in calculator.implemented_properties

    def step():
        atoms.positions += rng.normal(scale=0.002, size=atoms.positions.shape)
        start = time.process_time()
        atoms.get_potential_energy()
        atoms.get_forces()
        if has_stress:
            atoms.get_stress()
        return (time.process_time() - start) / len(atoms) * 1e6  # µs per atom

    return step


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peers", nargs="+", choices=CALCULATORS)
    parser.add_argument("--model", default="mlearn-si-fast")
    parser.add_argument("--ours", nargs="+", choices=OURS, default=["compiled"], help="the first is the unit")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 64, 216, 1000])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", default=None)
    options = parser.parse_args()
    from nfflr import NFFLrCalculator

    torch.set_num_threads(1)
    found = {
        name: (NFFLrCalculator.load(options.model, dtype=options.dtype, compile=OURS[name]), False)
        for name in options.ours
    }
    found |= {name: (CALCULATORS[name](), name in COPPER) for name in options.peers}
    print(f"{'calculator':26s} {'atoms':>6s} {'ms':>10s} {'µs/atom':>10s} {'ratio':>8s}")
    for n in options.sizes:
        structures = {name: silicon_or_copper(n, copper) for name, (_, copper) in found.items()}
        steps = {name: make_step(structures[name], calculator) for name, (calculator, _) in found.items()}
        cost = in_turn(steps, options.rounds)
        for name, per_atom in cost.items():
            atoms, ratio = len(structures[name]), per_atom / cost[options.ours[0]]
            print(
                f"{name:26s} {atoms:6d} {per_atom * atoms / 1e3:10.3f} {per_atom:10.2f} {ratio:8.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
