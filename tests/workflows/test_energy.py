"""A point energy reports what the calculator says, in the units it promises."""

import json

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from potentials import CRYSTALS, Volumetric, mlearn_si

from nfflr.errors import NumericsError, StructureError
from nfflr.workflows.relaxation import relax
from nfflr.workflows.single_point import energy

GPA = 160.21766208  # of one eV/Å^3 (CODATA 2014)


@pytest.mark.parametrize("kind", CRYSTALS)
def test_numbers_are_the_calculators(kind):
    calculator, crystal = CRYSTALS[kind]
    atoms = crystal().repeat(2)
    atoms.rattle(0.05, seed=0)
    result = energy(atoms, calculator())
    atoms.calc = calculator()
    forces, stress = atoms.get_forces(), atoms.get_stress()
    assert result.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
    assert result.energy_per_atom == pytest.approx(
        result.energy / 8 if len(atoms) == 8 else result.energy / 16
    )
    np.testing.assert_allclose(result.forces, forces, atol=1e-10)
    assert result.fmax == pytest.approx(max(np.linalg.norm(f) for f in forces), abs=1e-10)
    assert result.net_force < 1e-9 < result.fmax
    np.testing.assert_allclose(result.stress, stress * GPA, rtol=1e-6, atol=1e-9)
    assert result.pressure == pytest.approx(-stress[:3].mean() * GPA, rel=1e-6)
    assert result.volume == pytest.approx(atoms.get_volume())
    assert result.converged


def test_energies_per_atom_sum_to_the_total_where_offered():
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=1)
    result = energy(atoms, mlearn_si())
    assert result.energies.shape == (8,) and np.ptp(result.energies) > 1e-3
    assert result.energies.sum() == pytest.approx(result.energy, abs=1e-9)
    assert energy(bulk("Cu"), Volumetric(lambda v: v)).energies is None


def test_a_molecule_has_no_pressure():
    result = energy(molecule("N2"), EMT())
    assert result.stress is None and result.pressure is None and result.volume is None
    assert result.fmax > 0 and result.formula == "N2"


def test_an_energy_that_is_not_finite_is_an_error():
    with pytest.raises(NumericsError, match="energy is not finite"):
        energy(bulk("Cu"), Volumetric(lambda v: np.nan))


def test_it_is_json_and_leaves_the_structure_alone():
    atoms = bulk("Cu", cubic=True)
    kept = atoms.copy()
    record = json.loads(energy(atoms, LennardJones(rc=6.0)).model_dump_json())
    assert atoms == kept and atoms.calc is None
    assert np.array(record["forces"]).shape == (4, 3)


@pytest.mark.parametrize("workflow", [energy, relax])
def test_a_structure_without_atoms_is_refused(workflow):
    with pytest.raises(StructureError, match="no atoms"):
        workflow(ase.Atoms(), EMT())
