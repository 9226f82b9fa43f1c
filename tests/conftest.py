"""Small structures that the tests share: fresh copies, fixed seeds, no two distances alike."""

import os
from types import SimpleNamespace

import ase
import numpy as np
import pytest
from ase.build import bulk
from ase.data import atomic_numbers

# Processes that test side by side share the cores. Torch, which is loaded later, and commands read this.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    cores = len(os.sched_getaffinity(0)) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores)))


def _finish(atoms: ase.Atoms, elements: tuple[str, ...], rattle: float, seed: int) -> ase.Atoms:
    """Cycle through ``elements`` and move every atom, so that no symmetry hides an error."""
    cycle = [atomic_numbers[elements[k % len(elements)]] for k in range(len(atoms))]
    atoms.numbers = np.array(cycle)
    atoms.positions += rattle * np.random.default_rng(seed).normal(size=(len(atoms), 3))
    return atoms


def crystal(elements=("Si",), rattle=0.1, seed=0) -> ase.Atoms:
    """Diamond (zincblende for two elements), 8 atoms."""
    return _finish(bulk("Si", cubic=True), elements, rattle, seed)


def triclinic(elements=("C", "Si"), rattle=0.1, seed=1) -> ase.Atoms:
    """Four atoms in a skewed cell shorter than the usual cutoff."""
    cell = [[4.1, 0.2, -0.3], [1.2, 3.9, 0.4], [-0.8, 1.1, 4.6]]
    scaled = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.05], [0.48, 0.03, 0.5], [0.05, 0.52, 0.48]]
    atoms = ase.Atoms("Si4", scaled_positions=scaled, cell=cell, pbc=True)
    return _finish(atoms, elements, rattle, seed)


def slab(elements=("Si",), rattle=0.1, seed=2) -> ase.Atoms:
    """Two layers, periodic in a skewed plane, open along c; the cell has a volume."""
    cell = [[4.3, 0.0, 0.0], [1.4, 4.0, 0.0], [0.3, 0.2, 14.0]]
    positions = [[0, 0, 5], [2.2, 0.3, 6.4], [2.9, 2.1, 5.1], [0.9, 2.2, 6.9]]
    return _finish(ase.Atoms("Si4", positions=positions, cell=cell, pbc=(1, 1, 0)), elements, rattle, seed)


def cluster(elements=("Si",), rattle=0.05, seed=3, bond=1.35) -> ase.Atoms:
    """Five atoms without a cell; the first two nearer than any other pair, where short-range terms act."""
    positions = [[0, 0, 0], [bond, 0.2, 0.1], [-0.9, 2.2, 0.3], [0.4, -1.1, 2.3], [2.5, 2.0, 1.1]]
    return _finish(ase.Atoms("Si5", positions=positions), elements, rattle, seed)


@pytest.fixture(scope="session")
def structures() -> SimpleNamespace:
    """Builders ``crystal``, ``triclinic``, ``slab``, ``cluster``: each call gives a new ``ase.Atoms``."""
    return SimpleNamespace(crystal=crystal, triclinic=triclinic, slab=slab, cluster=cluster)


@pytest.fixture(autouse=True)
def nothing_global_changes():
    """What torch keeps for the whole process is after each test as it was before."""
    import torch

    def state():
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()

    before = state()
    yield
    assert state() == before
