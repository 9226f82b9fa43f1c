"""Quick calculators for molecular dynamics: solid argon, free particles, springs, and one that breaks."""

import ase
import numpy as np
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes

EPSILON, SIGMA, CUTOFF = 0.0104, 3.4, 5.2  # eV, Å, Å: argon


class LennardJones(Calculator):
    """All pairs at once, nearest images only; energy and force go to zero at the cutoff."""

    implemented_properties = ("energy", "free_energy", "forces", "stress")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        i, j = np.triu_indices(len(self.atoms), 1)
        bond = self.atoms.positions[j] - self.atoms.positions[i]  # (P, 3)
        cell = self.atoms.cell.array
        if self.atoms.pbc.all():
            bond -= np.round(bond @ np.linalg.inv(cell)) @ cell
        r = np.sqrt((bond**2).sum(axis=1))
        near = r < CUTOFF
        i, j, bond, r = i[near], j[near], bond[near], r[near]
        edge, edge_slope = pair(CUTOFF)
        energy, slope = pair(r)
        energy = (energy - edge - edge_slope * (r - CUTOFF)).sum()
        pull = ((slope - edge_slope) / r)[:, None] * bond  # (P, 3): force on i
        forces = np.zeros((len(self.atoms), 3))
        np.add.at(forces, i, pull)
        np.add.at(forces, j, -pull)
        self.results = {"energy": float(energy), "free_energy": float(energy), "forces": forces}
        if self.atoms.pbc.all():
            stress = bond.T @ pull / self.atoms.get_volume()
            self.results["stress"] = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


def pair(r):
    """Energy and slope of the pair, before they are shifted."""
    power = (SIGMA / r) ** 6
    return 4 * EPSILON * (power**2 - power), 4 * EPSILON * (6 * power - 12 * power**2) / r


class Free(Calculator):
    """No forces at all."""

    implemented_properties = ("energy", "free_energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "free_energy": 0.0, "forces": np.zeros((len(self.atoms), 3))}


class Dimer(Calculator):
    """Atoms 0 and 1 on a spring of ``stiffness`` eV/Å² and rest length 1 Å."""

    implemented_properties = ("energy", "free_energy", "forces")

    def __init__(self, stiffness):
        super().__init__()
        self.stiffness = stiffness

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        bond = self.atoms.positions[1] - self.atoms.positions[0]
        stretch = np.linalg.norm(bond) - 1.0
        force = self.stiffness * stretch * bond / np.linalg.norm(bond)
        energy = 0.5 * self.stiffness * stretch**2
        self.results = {"energy": energy, "free_energy": energy, "forces": np.array([force, -force])}


def argon(cells=2) -> ase.Atoms:
    """Solid argon, 4 cells³ atoms."""
    return bulk("Ar", a=5.3, cubic=True) * cells
