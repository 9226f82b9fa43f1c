"""SchNet and PaiNN beside SchNetPack's on the same settings, interleaved in one run on one core.

    taskset -c 0 python tests/benchmarks/against_schnetpack.py --sizes 8 64 1000

Both have random weights, the same width, blocks, cutoff and number of radial functions (Gaussians for
SchNet, Bessel functions for PaiNN), the cosine cutoff, and the same rattled silicon. A call is energy +
forces + stress through each one's ASE calculator after a small move, float32, in processor time, with the
same allocator settings. SchNetPack reuses its neighbours under a skin of 0.3 Å. The ratio is to ours
compiled.
"""

import argparse
import os
import sys

KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "34359738368",
    "MALLOC_TOP_PAD_": "268435456",
    "OMP_NUM_THREADS": "1",
}
if any(os.environ.get(name) != value for name, value in KEEP_MEMORY.items()):
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY})

import statistics
import tempfile
import time
import typing
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.utils.data.dataloader as dataloader
from ase.build import bulk

if not hasattr(dataloader, "T_co"):  # SchNetPack 2.1 imports it, torch no longer has it
    dataloader.T_co = typing.TypeVar("T_co", covariant=True)

CUTOFF, CHANNELS, LAYERS, RADIAL, SKIN = 5.0, 64, 3, 20, 0.3
CELLS = {8: (1, 1, 1), 64: (2, 2, 2), 216: (3, 3, 3), 512: (4, 4, 4), 1000: (5, 5, 5)}


def ours(kind, compiled):
    from nfflr import NFFLrCalculator
    from nfflr.models.gnn.painn import PaiNN, PaiNNConfig
    from nfflr.models.gnn.schnet import SchNet, SchNetConfig

    model, config = {"SchNet": (SchNet, SchNetConfig), "PaiNN": (PaiNN, PaiNNConfig)}[kind]
    torch.manual_seed(0)
    settings = config(elements=("Si",), cutoff=CUTOFF, channels=CHANNELS, layers=LAYERS, n_radial=RADIAL)
    return NFFLrCalculator(model(settings).eval(), compile=compiled)


def schnetpack(kind):
    import schnetpack as spk
    from schnetpack.interfaces.ase_interface import SpkCalculator
    from schnetpack.transform import MatScipyNeighborList, SkinNeighborList

    torch.manual_seed(0)
    basis = spk.nn.GaussianRBF if kind == "SchNet" else spk.nn.BesselRBF
    representation = getattr(spk.representation, kind)(
        n_atom_basis=CHANNELS,
        n_interactions=LAYERS,
        radial_basis=basis(n_rbf=RADIAL, cutoff=CUTOFF),
        cutoff_fn=spk.nn.CosineCutoff(CUTOFF),
    )
    model = spk.model.NeuralNetworkPotential(
        representation=representation,
        input_modules=[spk.atomistic.Strain(), spk.atomistic.PairwiseDistances()],
        output_modules=[
            spk.atomistic.Atomwise(n_in=CHANNELS, output_key="energy"),
            spk.atomistic.Forces(calc_stress=True),
        ],
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        torch.save(model, path)
        # Its calculator reads files alone, and pickles, which torch now refuses unless told otherwise.
        with patch.dict(os.environ, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1"):
            return SpkCalculator(
                model_file=str(path),
                neighbor_list=SkinNeighborList(MatScipyNeighborList(cutoff=CUTOFF), cutoff_skin=SKIN),
                energy_key="energy",
                force_key="forces",
                stress_key="stress",
                energy_unit="eV",
                position_unit="Ang",
                dtype=torch.float32,
            )


def make_step(n, calculator):
    atoms = bulk("Si", a=5.43, cubic=True).repeat(CELLS[n])
    atoms.rattle(0.05, seed=0)
    atoms.calc = calculator
    rng = np.random.default_rng(0)

    def step():
        atoms.positions += rng.normal(scale=0.002, size=atoms.positions.shape)
        start = time.process_time()
        atoms.get_potential_energy()
        atoms.get_forces()
        atoms.get_stress()
        return (time.process_time() - start) * 1e3  # ms

    def after_another():  # as in a run, where the caches hold this calculator's data and no other's
        step()
        return step()

    return after_another


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=["SchNet", "PaiNN"], default=["SchNet", "PaiNN"])
    parser.add_argument("--sizes", type=int, nargs="+", choices=CELLS, default=[8, 64, 1000])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'':8s} {'calculator':12s} {'atoms':>6s} {'ms':>10s} {'ratio':>8s}")
    for kind in options.kinds:
        for n in options.sizes:
            calculators = {
                "compiled": ours(kind, True),
                "eager": ours(kind, False),
                "schnetpack": schnetpack(kind),  # its neighbour list knows one structure only
            }
            steps = {name: make_step(n, calculator) for name, calculator in calculators.items()}
            for step in steps.values():
                step()  # warm up
            rounds = [{name: step() for name, step in steps.items()} for _ in range(options.rounds)]
            cost = {name: statistics.median(r[name] for r in rounds) for name in steps}
            for name, ms in cost.items():
                print(f"{kind:8s} {name:12s} {n:6d} {ms:10.3f} {ms / cost['compiled']:8.1f}", flush=True)


if __name__ == "__main__":
    main()
