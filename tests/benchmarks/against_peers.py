"""Ratio of a force call's cost to other calculators', interleaved in one run on one core.

    taskset -c 0 python tests/benchmarks/against_peers.py PEERS_FOLDER mace_128x0e_f32 ase_emt --sizes 64 1000

PEERS_FOLDER holds ``peers.py`` and ``common.py`` (factories of peers as ASE calculators). Every peer gets the
same allocator settings as we do. A call is energy + forces + stress through ASE after a small move.
"""

import argparse
import os
import sys
from pathlib import Path

KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "34359738368",
    "MALLOC_TOP_PAD_": "268435456",
    "OMP_NUM_THREADS": "1",
}
if any(os.environ.get(name) != value for name, value in KEEP_MEMORY.items()):
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY})

import statistics
import time

import numpy as np
import torch
from ase.build import bulk


def silicon_or_copper(n, copper, common):
    if not copper:
        return common.si(n)
    atoms = bulk("Cu", cubic=True).repeat(max(1, round((n / 4) ** (1 / 3))))
    atoms.rattle(0.05, seed=0)
    return atoms


def make_step(atoms, calculator):
    atoms.calc = calculator
    rng = np.random.default_rng(0)
    has_stress = "stress" in calculator.implemented_properties

    def step():
        atoms.positions += rng.normal(scale=0.002, size=atoms.positions.shape)
        start = time.perf_counter()
        atoms.get_potential_energy()
        atoms.get_forces()
        if has_stress:
            atoms.get_stress()
        return (time.perf_counter() - start) / len(atoms) * 1e6  # µs per atom

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("peers", nargs="+")
    parser.add_argument("--model", default="mlearn-si")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 64, 216, 1000])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    sys.path.insert(0, str(options.folder))
    import common
    import peers

    from nfflr import NFFLrCalculator

    torch.set_num_threads(1)
    print(f"{'peer':28s} {'atoms':>6s} {'ours µs/atom':>13s} {'peer µs/atom':>13s} {'ratio':>8s}")
    for name in options.peers:
        calculator, info = peers.get(name)
        for n in options.sizes:
            ours = make_step(common.si(n), NFFLrCalculator.load(options.model))
            theirs = make_step(silicon_or_copper(n, info.get("cu"), common), calculator)
            ours(), theirs(), ours()  # warm up
            pairs = [(ours(), theirs()) for _ in range(options.rounds)]
            mine, other = (statistics.median(column) for column in zip(*pairs, strict=True))
            print(f"{name:28s} {n:6d} {mine:13.1f} {other:13.1f} {other / mine:8.1f}", flush=True)


if __name__ == "__main__":
    main()
