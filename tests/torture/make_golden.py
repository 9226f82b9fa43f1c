"""Golden checkpoints of the current format: run once for a new version, never to mend a test.

    python tests/torture/make_golden.py

writes golden/v<version>-<architecture>.safetensors and golden/v<version>.json: energies and forces of two
structures, evaluated op by op (no compiled graph, no batch) on neighbours from a brute force over all images.
The last code whose networks of several layers sent scalars alone has written ``v1-moment-scalar-messages``.
"""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import cluster, triclinic

from nfflr.atoms import Atoms
from nfflr.checkpoint import VERSION, save_checkpoint
from nfflr.data.graph import Graph
from nfflr.models.base import Potential
from nfflr.models.registry import architecture

FOLDER = Path(__file__).parent / "golden"
SMALL = {
    "moment": {"channels": 4, "hidden": 4, "n_radial": 4},
    "schnet": {"channels": 4, "layers": 1, "n_radial": 6},
    "painn": {"channels": 4, "layers": 1, "n_radial": 6},
    "alignn": {
        "alignn_layers": 1,
        "gcn_layers": 1,
        "edge_input_features": 6,
        "triplet_input_features": 6,
        "embedding_features": 4,
        "hidden_features": 4,
    },
    "lennard-jones": {"epsilon": {"C": 0.3, "Si": 0.5}, "sigma": {"C": 1.5, "Si": 2.0}},
}
STRUCTURES = {"triclinic": triclinic, "cluster": cluster}


def brute_force_graph(atoms, cutoff: float) -> Graph:
    """Neighbours by a loop over all pairs and images."""
    reach = np.zeros(3, int)
    if atoms.pbc.any():
        heights = 1 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)
        reach = np.ceil((cutoff + np.ptp(atoms.positions, axis=0).sum()) / heights).astype(int) * atoms.pbc
    edges = []
    for image in product(*(range(-r, r + 1) for r in reach)):
        shift = np.array(image, float) @ atoms.cell.array
        for i, j in product(range(len(atoms)), repeat=2):
            length = np.linalg.norm(atoms.positions[j] + shift - atoms.positions[i])
            if length < cutoff and (i != j or any(image)):
                edges.append((i, j, shift))
    edges.sort(key=lambda edge: edge[0])
    dst, src, shifts = zip(*edges, strict=True)
    return Graph(
        Atoms.from_ase(atoms), torch.tensor(src), torch.tensor(dst), torch.tensor(np.array(shifts)), cutoff
    )


def small(key: str) -> Potential:
    """A model with drawn weights whose energies depend on every one of them."""
    cls = architecture(key)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        model = cls(cls.Config(elements=("C", "Si"), cutoff=4.0, **SMALL[key])).double().eval()
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
        model.reference_energies.copy_(torch.tensor([-153.125, -158.5]))
    return model


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    expected: dict = {}
    for key in SMALL:
        model = small(key)
        save_checkpoint(FOLDER / f"v{VERSION}-{key}.safetensors", model)
        for name, build in STRUCTURES.items():
            atoms = build(("C", "Si"))
            result = model(brute_force_graph(atoms, model.cutoff))
            found = {"energy": result["total_energy"].item(), "forces": result["forces"].tolist()}
            expected.setdefault(key, {})[name] = found
    text = json.dumps(expected, sort_keys=True)
    (FOLDER / f"v{VERSION}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
