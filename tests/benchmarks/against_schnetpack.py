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
import tempfile
import time
import typing
from pathlib import Path
from unittest.mock import patch

from fair import in_turn  # sets the process up, so it precedes numpy and torch

# isort: split
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

    return step


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
            cost = in_turn(steps, options.rounds)
            for name, ms in cost.items():
                print(f"{kind:8s} {name:12s} {n:6d} {ms:10.3f} {ms / cost['compiled']:8.1f}", flush=True)


if __name__ == "__main__":
    main()
