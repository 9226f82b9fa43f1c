"""Small models with random weights, saved by the packages themselves."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

ELEMENTS = ("Mg", "O")


def mace(path: Path) -> None:
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # e3nn's constants; the caller puts it back
    import torch
    from e3nn import o3
    from mace import modules

    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    model = modules.ScaleShiftMACE(
        r_max=4.5,
        num_bessel=4,
        num_polynomial_cutoff=5,
        max_ell=2,
        interaction_cls=block,
        interaction_cls_first=block,
        num_interactions=2,
        num_elements=2,
        hidden_irreps=o3.Irreps("8x0e + 8x1o"),
        MLP_irreps=o3.Irreps("8x0e"),
        atomic_energies=np.array([-2.0, -1.0]),
        avg_num_neighbors=18,
        atomic_numbers=[8, 12],
        correlation=2,
        gate=torch.nn.functional.silu,
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    torch.save(model.double(), path)


def matgl(path: Path) -> None:
    from matgl.apps.pes import Potential
    from matgl.models import TensorNet

    size = {"units": 16, "nblocks": 1, "num_rbf": 8, "cutoff": 4.5}
    model = TensorNet(element_types=ELEMENTS, is_intensive=False, **size)
    Potential(model=model, element_refs=[-1.0, -2.0]).save(path)


def nequip(path: Path) -> None:
    """One epoch of ``nequip-train``, which is how it makes a checkpoint."""
    frames = []
    for seed in range(8):
        atoms = bulk("MgO", "rocksalt", a=4.25, cubic=True)
        atoms.rattle(0.05, seed=seed)
        atoms.calc = LennardJones(sigma=1.9, rc=4.0)
        known = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **known)
        frames.append(atoms)
    write(path.parent / "frames.xyz", frames)
    config = (Path(__file__).parent / "nequip.yaml").read_text()
    (path.parent / "config.yaml").write_text(config.replace("FOLDER", str(path.parent)))
    command = [
        str(Path(sys.executable).parent / "nequip-train"),
        "-cp",
        str(path.parent),
        "-cn",
        "config.yaml",
    ]
    subprocess.run([*command, "hydra.run.dir=."], cwd=path.parent, check=True, capture_output=True)
    (path.parent / "last.ckpt").rename(path)
