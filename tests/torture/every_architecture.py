"""One small model of each registered architecture, and the comparison with the brute force."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from ase.build import bulk
from brute_force import reference

from nfflr.calculator import NFFLrCalculator
from nfflr.data.graph import periodic_radius_graph
from nfflr.models.base import Potential
from nfflr.models.registry import architectures

ELEMENTS = ("C", "Si")
NARROW = {  # widths do not matter here, and every structure is tried on every architecture
    "alignn": {
        "hidden_features": 8,
        "embedding_features": 8,
        "alignn_layers": 1,
        "gcn_layers": 1,
        "angle_cutoff": 2.8,
        "cutoff": 4.5,
    },
    "painn": {"channels": 8, "n_radial": 6, "layers": 2, "cutoff": 4.0},
    "schnet": {"channels": 8, "n_radial": 6, "layers": 2, "cutoff": 4.2},
    "moment": {"channels": 4, "hidden": 8, "layers": 2, "cutoff": 4.0},
}
# The toys that other tests may have registered are left out.
KEYS = [key for key, cls in sorted(architectures().items()) if cls.__module__.startswith("nfflr.")]


@cache
def potential(key: str, **settings) -> Potential:
    """Float64, drawn weights, energies of the order of 1 eV per atom; not to be changed."""
    cls = architectures()[key]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(7)
        config = cls.Config(elements=ELEMENTS, **{**NARROW.get(key, {}), **settings})
        model = cls(config).double().eval()
        for weight in model.parameters():  # a layer that starts at zero would hide what is behind it
            weight.add_(0.05 * torch.randn_like(weight))
        sample = [bulk("SiC", "zincblende", a=4.4 + 0.2 * k, cubic=True) for k in range(4)]
        for k, atoms in enumerate(sample):
            atoms.rattle(0.15, seed=k)
        model.calibrate(periodic_radius_graph(sample, model.cutoff))
        if model.fits_references:
            model.scale.fill_(1 / model(sample)["forces"].square().mean().sqrt())
        model.reference_energies.copy_(torch.tensor([-9.25, -5.5]))
    return model


def calculator(key: str, dtype: str = "float64", **options) -> NFFLrCalculator:
    return NFFLrCalculator(potential(key), dtype=dtype, **options)


def assert_results(found: dict, expected: dict, rtol: float = 0.0) -> None:
    """|ΔE|/atom < 1e-10 eV, |ΔF| < 1e-9 eV/Å, |Δσ| < 1e-9 eV/Å³ between results with ASE's keys.

    ``rtol`` is allowed beside it, of the largest atomic energy, for structures far denser than matter.
    """
    largest = rtol * np.abs(expected["energies"]).max()
    assert abs(found["energy"] - expected["energy"]) / len(expected["energies"]) < 1e-10 + largest
    assert np.abs(found["energies"] - expected["energies"]).max() < 1e-10 + largest
    assert np.shape(found["forces"]) == np.shape(expected["forces"])
    assert np.abs(found["forces"] - expected["forces"]).max() < 1e-9 + 10 * largest
    if "stress" in found:
        stress = np.asarray(expected["stress"])
        if stress.shape == (3, 3):
            stress = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        assert np.abs(found["stress"] - stress).max() < 1e-9 + 10 * largest


def assert_equals_reference(key: str, atoms, rtol: float = 0.0) -> dict:
    """Compare a fresh calculator with the brute force; returns what it found."""
    calc = calculator(key)
    calc.calculate(atoms)
    assert_results(calc.results, reference(calc.model, atoms), rtol)
    return calc.results
