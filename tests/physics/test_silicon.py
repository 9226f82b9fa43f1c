"""Silicon with the bundled potential against what its DFT labels say (dft values: see the card)."""

import numpy as np
import pytest
from ase.build import bulk

from nfflr import NFFLrCalculator
from nfflr.units import GPA
from nfflr.workflows.relaxation import RelaxSettings, relax

# From the mlearn DFT labels (PBE): lattice constant by energy, clamped-ion constants by stress.
A0 = 5.4687  # Å
C11, C12, C44 = 152.73, 56.20, 98.85  # GPa


@pytest.fixture(scope="module")
def calculator():
    return NFFLrCalculator.load("mlearn-si", dtype="float64")


@pytest.fixture(scope="module")
def diamond(calculator):
    atoms = bulk("Si", "diamond", a=5.40, cubic=True)
    result = relax(atoms, calculator, RelaxSettings(cell=True, fmax=1e-4, optimizer="bfgs"))
    assert result.converged
    return result.relaxed


def stress_of_strained(diamond, calculator, strain):
    atoms = diamond.copy()
    atoms.set_cell(diamond.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    atoms.calc = calculator
    return atoms.get_stress(voigt=False) / GPA


def stiffness(diamond, calculator, strain, step=1e-3):
    """dσ/dε along a strain direction by central differences, (3, 3) GPa."""
    plus, minus = (stress_of_strained(diamond, calculator, s * step * strain) for s in (1, -1))
    return (plus - minus) / (2 * step)


def test_lattice_constant(diamond):
    assert diamond.cell.lengths() == pytest.approx([A0] * 3, rel=3e-3)


def test_clamped_elastic_constants(diamond, calculator):
    uniaxial, shear = np.zeros((3, 3)), np.zeros((3, 3))
    uniaxial[0, 0] = 1.0
    shear[1, 2] = shear[2, 1] = 0.5  # engineering shear of one
    column = stiffness(diamond, calculator, uniaxial)
    assert column[0, 0] == pytest.approx(C11, rel=0.1)
    assert column[1, 1] == pytest.approx(C12, rel=0.1)
    assert column[2, 2] == pytest.approx(C12, rel=0.1)
    assert stiffness(diamond, calculator, shear)[1, 2] == pytest.approx(C44, rel=0.1)


def test_stress_is_the_strain_derivative_of_the_energy(diamond, calculator):
    atoms = diamond.copy()
    atoms.rattle(0.05, seed=3)
    atoms.calc = calculator
    stress, volume = atoms.get_stress(voigt=False), atoms.get_volume()
    for i, j in [(0, 0), (1, 2)]:
        energies = []
        for step in (-2, -1, 1, 2):
            strain = np.eye(3)
            strain[i, j] += step * 5e-5
            strain[j, i] += step * 5e-5
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            strained.calc = calculator
            energies.append(strained.get_potential_energy())
        slope = (energies[0] - 8 * energies[1] + 8 * energies[2] - energies[3]) / (12 * 1e-4)
        assert stress[i, j] == pytest.approx(slope / volume, abs=1e-8)


def test_atoms_pushed_together_repel(calculator):
    """No hole: the energy of a dimer, and of compressed bulk, rises all the way in."""
    from ase import Atoms

    distances = np.linspace(2.2, 0.3, 60)
    energies = []
    for d in distances:
        dimer = Atoms("Si2", [[0, 0, 0], [d, 0, 0]])
        dimer.calc = calculator
        energies.append(dimer.get_potential_energy())
    inside = distances < 1.7
    assert np.all(np.diff(np.array(energies)[inside]) > 0)
    bulk_energies = []
    for scale in np.linspace(1.0, 0.5, 26):
        atoms = bulk("Si", "diamond", a=A0 * scale)
        atoms.calc = calculator
        bulk_energies.append(atoms.get_potential_energy())
    assert np.all(np.diff(bulk_energies) > 0)


def test_hot_silicon_does_not_fall_into_a_hole():
    """Far above melting, atoms collide at distances the data hardly hold; none may fuse or fly off."""
    from ase.md.langevin import Langevin
    from ase.neighborlist import neighbor_list
    from ase.units import fs, kB

    atoms = bulk("Si", "diamond", a=A0, cubic=True).repeat(2)
    atoms.calc = NFFLrCalculator.load("mlearn-si", compile=True)
    rng = np.random.default_rng(0)
    width = np.sqrt(atoms.get_masses() * kB * 6000)[:, None]  # half of it becomes potential energy
    atoms.set_momenta(width * rng.normal(size=(64, 3)))
    dynamics = Langevin(atoms, 1 * fs, temperature_K=3000, friction=0.01 / fs, rng=rng, fixcm=False)
    shortest = []
    for _ in dynamics.irun(1000):
        shortest.append(neighbor_list("d", atoms, 2.6).min(initial=2.6))
    assert min(shortest) > 1.5  # Å; the shortest bond of the data is 1.8
    assert atoms.get_temperature() < 6000
    assert np.abs(atoms.get_forces()).max() < 50
