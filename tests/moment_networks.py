"""Moment-tensor networks with drawn weights, random structures, and how far two results are apart."""

import ase
import numpy as np
import torch

from nfflr.data.graph import periodic_radius_graph
from nfflr.models.moment import MomentConfig, MomentNetwork


def random_structure(rng, elements, cutoff=4.0) -> ase.Atoms:
    """1 to 24 atoms in a skewed cell of any size and periodicity; one in eight has an atom far away."""
    n = int(rng.integers(1, 25))
    length = (n * rng.uniform(8.0, 30.0)) ** (1 / 3)  # Å; from dense to dilute
    cell = length * (np.eye(3) + 0.25 * rng.uniform(-1, 1, (3, 3)))
    atoms = ase.Atoms(rng.choice(elements, n), rng.uniform(-0.2, 1.3, (n, 3)) @ cell, cell=cell)
    atoms.pbc = rng.random(3) < 0.7
    for _ in range(50):  # push overlapping atoms apart
        graph = periodic_radius_graph(atoms, r=1.6)
        vectors = graph.vectors().numpy()
        near = np.linalg.norm(vectors, axis=1)[:, None]
        if not len(near):
            break
        np.add.at(atoms.positions, graph.dst.numpy(), -0.3 * (1.7 - near) * vectors / near)
    if rng.random() < 1 / 8:
        atoms.pbc = False
        atoms.positions[-1] += 3 * cutoff + np.abs(atoms.positions).max()
    return atoms


def network(elements=("Si",), dtype=torch.float64, seed=0, **settings) -> MomentNetwork:
    """Calibrated, with every weight and constant different from what it starts as."""
    defaults = {"cutoff": 4.0, "channels": 16, "hidden": 16, "n_radial": 8, "radial_decay": 1.0}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MomentNetwork(MomentConfig(elements=elements, **(defaults | settings)))
        rng = np.random.default_rng(seed)
        sample = [random_structure(rng, elements) for _ in range(20)]
        model.calibrate(periodic_radius_graph(sample, r=model.cutoff))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
            model.reference_energies.copy_(torch.randn(len(elements)))
            model.scale.fill_(0.73)
    return model.to(dtype).eval()


def errors(output, expected) -> dict[str, float]:
    """Largest difference of each result, beside the largest value or one."""
    assert output.keys() == expected.keys()
    found = {}
    for name, exact in expected.items():
        assert output[name].shape == exact.shape
        difference = (
            (output[name].double() - exact.double()).abs().max() if exact.numel() else torch.zeros(())
        )
        found[name] = float(difference / max(1.0, exact.abs().max() if exact.numel() else 0.0))
    return found
