"""Offsets of stresses from energies, against a potential whose stresses are right."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from nfflr.data.quality.agreement import stress_offset
from nfflr.data.records import read_records
from nfflr.units import GPA


def strained(count: int, shift: float = 0.0, rotate: bool = False, seed: int = 0) -> list:
    """Cells of copper strained at random with their atoms, labelled by EMT; stress plus ``shift`` GPa."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        atoms = bulk("Cu", cubic=True)
        strain = rng.uniform(-0.01, 0.01, (3, 3))
        matrix = np.eye(3) + (strain + strain.T) / 2
        if rotate:
            matrix = matrix @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
        atoms.set_cell(atoms.cell.array @ matrix, scale_atoms=True)
        atoms.calc = EMT()
        energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
        stress = stress + shift * GPA * np.array([1, 1, 1, 0, 0, 0])
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, stress=stress)
        found.append(atoms)
    return found


@pytest.mark.parametrize("shift", [0.0, 3.0, -1.5])
@pytest.mark.parametrize("rotate", [False, True])
def test_the_offset_that_was_added_is_found(shift, rotate):
    found = stress_offset(read_records(strained(20, shift, rotate)))
    assert found.count == 19
    assert found.value / GPA == pytest.approx(shift, abs=0.05)
    assert found.matters == (shift != 0)


def test_rattled_atoms_and_too_few_cells_tell_nothing():
    assert stress_offset(read_records(strained(6))) is None
    rattled = strained(20)
    for k, atoms in enumerate(rattled):
        results = atoms.calc.results
        atoms.rattle(0.1, seed=k)
        atoms.calc = SinglePointCalculator(atoms, **results)
    assert stress_offset(read_records(rattled)) is None
