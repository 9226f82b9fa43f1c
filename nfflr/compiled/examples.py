"""Structures to trace a model with and to compare its compiled form on, whatever its elements are."""

from __future__ import annotations

from itertools import count

import ase
import numpy as np
import torch
from ase.data import covalent_radii

from ..data.graph import Graph
from ..models.base import Potential

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
SIZES = (((1, 2, 2), (1, 2, 3), (2, 2, 2), (1, 1, 5), (3, 2, 1)), ((3, 2, 2),), ((2, 1, 2), (4, 3, 2)))
FLOOR = 0.1  # eV, eV/Å: against values smaller than this, differences are not relative


def example_graphs(model: Potential) -> list[Graph]:
    """Batches of different sizes; the first is for tracing, the others for comparisons.

    Numbers of atoms, bonds, … that coincide by chance would become one symbol, so the first has none that
    the next does not have too.
    """
    from .aot_graph import arguments

    others = [_batch(model, sizes, seed) for seed, sizes in enumerate(SIZES[1:])]
    pattern = _pattern(arguments(model, others[0]))
    for seed in count(100):
        first = _batch(model, SIZES[0], seed)
        if _pattern(arguments(model, first)) == pattern or seed == 120:
            return [first, *others]
    raise AssertionError


def _batch(model: Potential, sizes, seed: int) -> Graph:
    return model.graph([_structure(model, repeat, seed) for repeat in sizes])


def _pattern(tensors: list[torch.Tensor]) -> list[int]:
    """Which sizes are equal: for each, the position of the first that is the same."""
    sizes = [len(tensor) for tensor in tensors]
    return [sizes.index(size) for size in sizes]


def _structure(model: Potential, repeat: tuple[int, int, int], seed: int) -> ase.Atoms:
    """A rattled simple cubic lattice, bonds as long as atoms are thick, elements drawn from the model's."""
    rng = np.random.default_rng(seed)
    drawn = rng.choice(model.numbers.cpu().numpy(), int(np.prod(repeat)))
    bond = min(2.1 * covalent_radii[drawn].mean(), 0.6 * model.cutoff)  # second neighbours too
    atoms = ase.Atoms("H", cell=[bond] * 3, pbc=True).repeat(repeat)
    atoms.numbers = drawn
    atoms.positions += 0.04 * bond * rng.normal(size=(len(atoms), 3))
    return atoms


def deviations(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float]:
    """Largest difference of each quantity, relative to its largest value."""
    worst = {}
    for name, values in expected.items():
        scale = max(FLOOR, float(values.abs().max())) if values.numel() else 1.0
        gap = (found[name] - values).abs().max() if values.numel() else torch.zeros(())
        worst[name] = float(gap) / scale if torch.isfinite(gap) else np.inf
    return worst


def tolerance(dtype: torch.dtype) -> float:
    """What ``deviations`` may be at most."""
    return TOLERANCE[dtype]
