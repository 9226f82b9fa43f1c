"""Vacancy formation energy: by hand, sites by symmetry, and what cannot be computed without a choice."""

import io
import json

import numpy as np
import pytest
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.optimize import BFGS
from potentials import CRYSTALS, SW_A0, SW_BOND, Counting, stillinger_weber

from nfflr.errors import StructureError
from nfflr.workflows.vacancies import VacancySettings, plot, repeats, vacancy

SMALL = VacancySettings(supercell=(2, 2, 2))


def by_hand(crystal, calculator, size, relax):
    """E(N − 1) − (N − 1)/N E(N) of a supercell built and relaxed here."""
    atoms = crystal.repeat(size)
    atoms.calc = calculator
    whole, n = atoms.get_potential_energy(), len(atoms)
    hole = atoms.copy()
    del hole[n // 2]
    hole.calc = calculator
    if relax:
        hole.rattle(0.01, seed=7)
        BFGS(hole, logfile=None).run(fmax=1e-3)
    return hole.get_potential_energy() - (n - 1) / n * whole


@pytest.mark.parametrize("kind", CRYSTALS)
def test_both_energies_are_those_found_by_hand(kind):
    make, crystal = CRYSTALS[kind]
    result = vacancy(crystal(), make(), SMALL)
    assert result.converged and result.atoms_per_supercell == 8 * len(crystal())
    assert len(result.vacancy) == result.atoms_per_supercell - 1
    assert result.formation_energy_unrelaxed == pytest.approx(by_hand(crystal(), make(), 2, False), abs=1e-8)
    assert result.formation_energy == pytest.approx(by_hand(crystal(), make(), 2, True), abs=2e-3)
    assert result.chemical_potential == pytest.approx(
        make().get_property("energy", crystal()) / len(crystal()), abs=1e-6
    )


def test_an_ideal_vacancy_in_stillinger_weber_silicon_breaks_two_bonds_net():
    # Four bonds go, two come back as the atom's own energy; angles stay ideal, so three-body terms are zero.
    result = vacancy(bulk("Si", a=SW_A0), stillinger_weber(), VacancySettings(supercell=(2, 2, 2), steps=1))
    assert result.formation_energy_unrelaxed == pytest.approx(2 * SW_BOND, abs=1e-4)


def test_relaxing_the_cell_lowers_the_energy_further():
    fixed = vacancy(bulk("Cu", a=3.59), EMT(), SMALL)
    free = vacancy(bulk("Cu", a=3.59), EMT(), SMALL.model_copy(update={"cell": True, "optimizer": "lbfgs"}))
    assert free.formation_energy < fixed.formation_energy
    assert free.formation_energy == pytest.approx(fixed.formation_energy, abs=0.1)


def test_the_default_supercell_reaches_the_length():
    atoms = bulk("Cu", "hcp", a=2.5, c=4.1)
    n = repeats(atoms, 10.0)
    heights = 1 / np.linalg.norm(atoms.repeat(n).cell.reciprocal(), axis=1)
    assert (heights >= 10).all()
    for axis in range(3):
        fewer = list(n)
        fewer[axis] -= 1
        assert 1 / np.linalg.norm(atoms.repeat(fewer).cell.reciprocal(), axis=1)[axis] < 10
    assert vacancy(bulk("Cu"), EMT(), VacancySettings(length=6.0)).atoms_per_supercell == 27


def test_each_distinct_site_is_tried_once():
    atoms = bulk("Cu", a=3.59, cubic=True).repeat((1, 1, 2))
    assert vacancy(atoms, EMT(), VacancySettings(supercell=(2, 2, 1))).sites == [0]
    atoms.positions[2, 2] += 0.3  # now the sites differ
    counting = Counting(EMT())
    result = vacancy(atoms, counting, VacancySettings(supercell=(2, 2, 1), steps=3))
    assert len(result.sites) > 1 and len(set(result.sites)) == len(result.sites)
    assert counting.batches == [1 + len(result.sites)]
    assert result.formation_energy == result.relaxed_energies.min()


def compound():
    atoms = bulk("Cu", a=3.75, cubic=True)
    atoms.symbols[0] = "Au"  # Cu3Au
    return atoms


def test_a_compound_needs_the_users_reference():
    with pytest.raises(StructureError, match="--chemical-potential"):
        vacancy(compound(), EMT())
    with pytest.raises(StructureError, match="--site"):
        vacancy(compound(), EMT(), VacancySettings(chemical_potential=-1.0))
    settings = VacancySettings(supercell=(2, 2, 2), chemical_potential=-1.0, site=0)
    first = vacancy(compound(), EMT(), settings)
    second = vacancy(compound(), EMT(), settings.model_copy(update={"chemical_potential": -0.5}))
    assert first.symbols == ["Au"] and "Au" in first.vacancy.symbols
    assert first.vacancy.symbols.count("Au") == 7
    assert second.formation_energy - first.formation_energy == pytest.approx(0.5)


def test_wrong_input_is_refused():
    with pytest.raises(StructureError, match="site 9"):
        vacancy(bulk("Cu"), EMT(), VacancySettings(site=9))
    with pytest.raises(StructureError, match="three periodic axes"):
        vacancy(fcc111("Cu", (1, 1, 3), vacuum=6), EMT())


def test_not_converged_and_stressed_are_said():
    result = vacancy(bulk("Cu", a=3.59), EMT(), SMALL.model_copy(update={"steps": 1}))
    assert not result.converged and "site 0" in result.message
    assert "GPa" in vacancy(bulk("Cu", a=3.5), EMT(), SMALL).message


def test_the_result_is_json_and_can_be_drawn():
    result = vacancy(bulk("Cu", a=3.59), EMT(), SMALL)
    json.loads(result.model_dump_json(exclude={"vacancy"}))
    figure = plot(result, {"other": result}, "mine")
    assert "eV" in figure.axes[0].get_ylabel()
    figure.savefig(io.BytesIO())
