"""Cost of a training step beside other packages', interleaved in one run on one core.

    taskset -c 0 python tests/benchmarks/training_against_peers.py mace_128x0e

Peers are those of ``rivals.py``. A step is forward, loss on energy, forces and stress, backward
and Adam's update on one batch of 8 cells of 64 silicon atoms; every side has built its graphs before, and
gets the same structures, labels, loss and allocator settings. Ours is the architecture of
``mlearn-si-fast``. Times are of the processor, since machines are shared. The ratio is that of atoms per
second, the first's to each.
"""

import argparse
import time

from fair import in_turn  # sets the process up, so it precedes numpy and torch

# isort: split
import rivals
import torch

STRUCTURES, ATOMS = 8, 64
OURS = ("compiled", "eager")


def nfflr(cells, compiled):
    from nfflr.checkpoint import load_checkpoint
    from nfflr.compiled import compile_training

    model = load_checkpoint("mlearn-si-fast")[0].train()
    started = time.process_time()
    forward = (compile_training(model) or model) if compiled else model
    if compiled:
        print(f"compiled in {time.process_time() - started:.0f} s of processor time", flush=True)
    graph = model.graph(cells)

    def predict():
        output = forward(graph)
        return output["total_energy"], output["forces"], output["stress"]

    return model, predict


def mace(cells, hidden):
    from mace import data, tools

    model = rivals.mace_model(hidden)
    table = tools.AtomicNumberTable([14])
    keys = data.KeySpecification()
    configurations = [data.config_from_atoms(atoms, key_specification=keys) for atoms in cells]
    graphs = [data.AtomicData.from_config(c, z_table=table, cutoff=5.0) for c in configurations]
    loader = tools.torch_geometric.dataloader.DataLoader(graphs, batch_size=len(graphs), shuffle=False)
    batch = next(iter(loader)).to_dict()

    def predict():
        output = model(dict(batch), training=True, compute_force=True, compute_stress=True)
        return output["energy"], output["forces"], output["stress"]

    return model, predict


def nequip(cells, l_max):
    from nequip.data import AtomicDataDict, from_ase

    model = rivals.nequip_model(l_max).train()
    name, neighbours = rivals.nequip_transforms()
    batch = AtomicDataDict.batched_from_list([neighbours(name(from_ase(atoms))) for atoms in cells])

    def predict():
        output = model(dict(batch))
        return output["total_energy"].view(-1), output["forces"], output["stress"]

    return model, predict


def matgl(cells, kind):
    from matgl.ext.ase import Atoms2Graph
    from torch_geometric.data import Batch

    model = rivals.matgl_potential(kind).train()
    graphs, lattices = [], []
    for atoms in cells:
        graph, lattice, _ = Atoms2Graph(("Si",), model.model.cutoff).get_graph(atoms)
        graph.pbc_offshift = torch.matmul(graph.pbc_offset, lattice[0])
        graph.pos = graph.frac_coords @ lattice[0]
        graphs.append(graph)
        lattices.append(lattice)
    batch, lattice = Batch.from_data_list(graphs), torch.cat(lattices)

    def predict():
        energy, forces, stress, *_ = model(batch.clone(), lattice, torch.zeros(1, 2))
        return energy, forces, stress.view(-1, 3, 3)

    return model, predict


SIDES = {
    "compiled": lambda cells: nfflr(cells, True),
    "eager": lambda cells: nfflr(cells, False),
    "mace_128x0e": lambda cells: mace(cells, "128x0e"),
    "mace_128x0e+128x1o": lambda cells: mace(cells, "128x0e+128x1o"),
    "nequip_l1": lambda cells: nequip(cells, 1),
    "nequip_l2": lambda cells: nequip(cells, 2),
    "m3gnet": lambda cells: matgl(cells, "M3GNet"),
    "tensornet": lambda cells: matgl(cells, "TensorNet"),
}


def make_step(model, predict, labels):
    energies, forces, stresses = labels
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, 1e-4)

    def step():
        start = time.process_time()
        optimizer.zero_grad()
        energy, force, stress = predict()
        loss = ((energy.float() - energies) / ATOMS).square().mean()
        loss = loss + (force.float() - forces).square().mean()
        loss = loss + (stress.view(-1, 3, 3).float() - stresses).square().mean()
        loss.backward()
        optimizer.step()
        return time.process_time() - start

    return step


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peers", nargs="+", choices=[name for name in SIDES if name not in OURS])
    parser.add_argument("--ours", nargs="+", choices=OURS, default=list(OURS), help="the first is the unit")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cells = [rivals.silicon(ATOMS, seed=seed) for seed in range(STRUCTURES)]
    drawn = torch.Generator().manual_seed(0)
    shapes = (STRUCTURES,), (STRUCTURES * ATOMS, 3), (STRUCTURES, 3, 3)
    labels = [torch.randn(shape, generator=drawn, dtype=torch.float32) for shape in shapes]
    steps = {
        name: make_step(*SIDES[name]([atoms.copy() for atoms in cells]), labels)
        for name in [*options.ours, *options.peers]
    }
    cost = in_turn(steps, options.rounds)
    print(f"{'side':26s} {'ms/step':>10s} {'atoms/s':>10s} {'ratio':>8s}")
    for name, seconds in cost.items():
        ratio = seconds / cost[options.ours[0]]
        print(f"{name:26s} {seconds * 1e3:10.1f} {STRUCTURES * ATOMS / seconds:10.0f} {ratio:8.1f}")


if __name__ == "__main__":
    main()
