"""A tiny potential and copper labelled with EMT: what tests of files, data and training are run on."""

from __future__ import annotations

import ase
import numpy as np
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from pydantic import Field
from torch import nn

from nfflr.data.dataset import AtomsDataset
from nfflr.data.graph import periodic_radius_graph
from nfflr.models.base import Potential, PotentialConfig

CUTOFF = 4.0  # Å
FREE_ATOM = -3.5  # eV/atom added to EMT, whose zero is the crystal: totals then grow with size


class TinyConfig(PotentialConfig):
    """Hyper-parameters of ``TinyNetwork``."""

    cutoff: float = Field(CUTOFF, gt=0)
    radial: int = Field(6, ge=1)
    width: int = Field(8, ge=1)


class TinyNetwork(Potential):
    """Gaussian densities of each element, read out by one hidden layer: smooth, strictly local."""

    key = "test-tiny"
    Config = TinyConfig

    def __init__(self, config: TinyConfig):
        super().__init__(config)
        n = len(config.elements) * config.radial
        self.register_buffer("centres", torch.linspace(1.0, config.cutoff, config.radial))
        self.hidden = nn.Linear(n, config.width)
        self.readout = nn.Linear(config.width, 1)

    def energies(self, inputs):
        r = inputs.vectors.square().sum(1).sqrt()  # (E,)
        fade = (1 - (r / self.cutoff).clamp(max=1) ** 2) ** 3
        bumps = torch.exp(-2 * (r[:, None] - self.centres) ** 2) * fade[:, None]  # (E, R)
        source, kinds, n = inputs.species[inputs.src], len(self.elements), inputs.n_atoms
        flat = bumps.new_zeros(n * kinds, bumps.shape[1])
        density = flat.index_add(0, inputs.dst * kinds + source, bumps).view(n, -1)
        return self.readout(torch.tanh(self.hidden(density))).squeeze(1)


def tiny(elements=("Cu",), dtype=torch.float64, seed=0, **hyperparameters) -> TinyNetwork:
    """A network with drawn weights; the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TinyNetwork(TinyConfig(elements=elements, **hyperparameters)).to(dtype).eval()


def label(atoms: ase.Atoms, offset: float = FREE_ATOM) -> ase.Atoms:
    """Attach EMT's energy, forces and stress as if read from a file."""
    atoms.calc = EMT()
    energy = atoms.get_potential_energy() + offset * len(atoms)
    found = {"energy": energy, "forces": atoms.get_forces(), "stress": atoms.get_stress()}
    atoms.calc = SinglePointCalculator(atoms, **found)
    return atoms


def copper(
    count: int, sizes=((1, 1, 1), (1, 1, 2)), strain=0.05, rattle=0.06, seed=0, offset=FREE_ATOM
) -> list[ase.Atoms]:
    """Labelled fcc copper, ``sizes`` of the 4-atom cell in turn, lattice constants spread by ±``strain``."""
    rng = np.random.default_rng(seed)
    stretches = rng.permutation(np.linspace(1 - strain, 1 + strain, count))
    structures = []
    for k, stretch in enumerate(stretches):
        atoms = bulk("Cu", a=3.6 * stretch, cubic=True).repeat(sizes[k % len(sizes)])
        atoms.positions += rattle * rng.normal(size=(len(atoms), 3))
        structures.append(label(atoms, offset))
    return structures


def radius_graph(atoms):
    return periodic_radius_graph(atoms, r=CUTOFF)


def copper_dataset(count: int = 16, **options) -> AtomsDataset:
    """Copper with graphs that fit ``tiny()``."""
    return AtomsDataset(
        copper(count), **{"n_train": 0.75, "n_val": 0.25, "transform": radius_graph, **options}
    )
