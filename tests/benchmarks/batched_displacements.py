"""Cost of a force call on displaced supercells: one by one against as batches, on one core.

    OMP_NUM_THREADS=1 taskset -c 0 python tests/benchmarks/batched_displacements.py mlearn-si-fast

Prints, for cells of 2 to 216 silicon atoms, milliseconds of processor time per structure: through ASE's
``get_property``, through ``evaluate``, and of the model alone in such a batch, which bounds the gain.
"""

import sys
import time

import numpy as np
import torch
from ase.build import bulk

from nfflr.calculator import NFFLrCalculator
from nfflr.data.graph import batch_graphs
from nfflr.data.verlet import VerletList
from nfflr.workflows.framework.evaluations import evaluate


def cost(work, count):
    """Least of five, ms per structure; processor time, since machines are shared."""
    times = []
    for _ in range(5):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return 1e3 * min(times) / count


def displaced(atoms, count):
    copies = [atoms.copy() for _ in range(count)]
    for k, copy in enumerate(copies):
        copy.positions[k % len(copy), k % 3] += 0.01
    return copies


def main(model):
    torch.set_num_threads(1)
    calc = NFFLrCalculator.load(model)
    print("atoms   one by one   batch   model alone   gain   bound")
    for cell in (
        bulk("Si"),
        *(bulk("Si", cubic=True).repeat(n) for n in ((1, 1, 1), (2, 1, 1), (2, 2, 2), (3, 3, 3))),
    ):
        cell.rattle(0.02, seed=1)
        structures = displaced(cell, 48)
        one = cost(lambda s=structures: [calc.get_property("forces", a) for a in s], 48)
        batch = cost(lambda s=structures: evaluate(calc, s, ("forces",)), 48)
        neighbours = VerletList(calc.model.cutoff, 0.5)
        graphs = batch_graphs([neighbours.graph(a) for a in structures[: max(1, 2048 // len(cell))]])
        alone = cost(lambda g=graphs: calc.model(g), int(np.round(len(graphs.atoms) / len(cell))))
        print(f"{len(cell):5d} {one:12.2f} {batch:7.2f} {alone:13.2f} {one / batch:6.1f} {one / alone:7.1f}")


if __name__ == "__main__":
    main(sys.argv[1])
