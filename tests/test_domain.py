"""A potential of one molecule or composition says so where it meets another."""

import logging
import pickle

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.io import write
from hypothesis import given
from hypothesis import strategies as st

from nfflr.calculator import NFFLrCalculator
from nfflr.cards import Domain, domain_of
from nfflr.checkpoint import load_checkpoint, save_checkpoint
from nfflr.cli.main import run
from nfflr.errors import CheckpointError
from nfflr.models.moment import MomentConfig, MomentNetwork


@pytest.fixture
def notes(caplog):
    caplog.set_level(logging.WARNING, logger="nfflr")
    return lambda: [record.getMessage() for record in caplog.records]


def potential(folder, domain, elements=("H", "C", "O")):
    """A calculator of an untrained network, from a checkpoint that carries a domain."""
    save_checkpoint(
        folder / "model.safetensors",
        MomentNetwork(MomentConfig(elements=elements, cutoff=4.0)),
        domain=domain,
    )
    return NFFLrCalculator.load(folder)


def gallium_arsenide(vacancy=False):
    atoms = bulk("GaAs", "zincblende", a=5.65, cubic=True)
    return atoms[1:] if vacancy else atoms


# What the compositions say


def test_a_molecule_is_known_by_its_whole_formula():
    ethanol = molecule("CH3CH2OH")
    domain = domain_of([ethanol, molecule("CH3OCH3")])  # isomers
    assert domain == Domain(compositions=("C2H6O",), molecule=True)
    assert domain.warning(molecule("CH3OCH3")) == ""
    assert "trained on C2H6O alone" in domain.warning(molecule("H2O"))
    assert "C4H12O2" in domain.warning(ethanol + ethanol)  # nothing was learned of what acts between them


def test_a_crystal_is_known_by_its_proportions():
    domain = domain_of([gallium_arsenide(), gallium_arsenide() * (2, 1, 1)])
    assert domain == Domain(compositions=("AsGa",), molecule=False)
    assert domain.warning(gallium_arsenide() * (3, 3, 3)) == ""
    assert "trained on AsGa alone" in domain.warning(gallium_arsenide(vacancy=True))


def test_two_compositions_of_two_elements_fix_both_energies():
    domain = domain_of([gallium_arsenide(), gallium_arsenide(vacancy=True)])
    assert domain.warning(bulk("Ga", "fcc", a=4.0)) == domain.warning(bulk("As", "fcc", a=4.0)) == ""


def test_one_element_is_always_fixed():
    domain = domain_of([bulk("Si"), bulk("Si", cubic=True)])
    assert domain.warning(bulk("Si") * (3, 2, 1)) == ""
    assert domain_of([]).warning(bulk("Si")) == ""


counts = st.tuples(*[st.integers(0, 5)] * 3).filter(any)


@given(st.lists(counts, min_size=1, max_size=4), counts)
def test_a_warning_means_that_some_shift_of_element_energies_changes_that_energy_alone(trained, other):
    """By another route: energies of elements that all training structures are blind to (a null space)."""

    def structure(numbers):
        return ase.Atoms("".join(s * n for s, n in zip(("O", "Si", "Na"), numbers, strict=True)), pbc=True)

    _, sizes, rows = np.linalg.svd(np.array(trained, dtype=float))
    blind = rows[np.count_nonzero(sizes > 1e-9) :]  # (k, 3)
    changes = bool((np.abs(blind @ other) > 1e-9).any())
    domain = domain_of(map(structure, trained))
    assert bool(domain.warning(structure(other))) == changes


# Where it is said


def test_a_calculator_gives_one_note_in_its_life(tmp_path, notes):
    calculator = potential(tmp_path, Domain(compositions=("C2H6O",), molecule=True))
    for name in ("CH3CH2OH", "H2O", "CH3OH"):
        atoms = molecule(name)
        atoms.calc = calculator
        atoms.get_potential_energy()
    assert notes() == [
        f"{tmp_path}: this potential was trained on C2H6O alone; its energies and forces of H2O are a guess"
    ]


@pytest.mark.parametrize("how", ["attached", "asked", "batch", "pickled", "ensemble"])
def test_every_way_to_an_energy_passes_it(tmp_path, notes, how):
    calculator = potential(tmp_path, Domain(compositions=("C2H6O",), molecule=True))
    if how == "pickled":
        calculator = pickle.loads(pickle.dumps(calculator))
    if how == "ensemble":
        (tmp_path / "b").mkdir()
        potential(tmp_path / "b", Domain(compositions=("C2H6O",), molecule=True))
        calculator = NFFLrCalculator.load([tmp_path, tmp_path / "b"])
    water = molecule("H2O")
    if how == "batch":
        calculator.evaluate([molecule("CH3CH2OH"), water])
    elif how == "asked":
        calculator.get_potential_energy(water)
    else:
        water.calc = calculator
    assert len(notes()) == 1 and "H2O" in notes()[0]


def test_the_bundled_potential_of_ethanol_says_so_about_water(tmp_path, capsys):
    write(tmp_path / "water.xyz", molecule("H2O"))
    write(tmp_path / "ethanol.xyz", molecule("CH3CH2OH"))
    assert run(["energy", str(tmp_path / "water.xyz"), "-m", "ethanol", "--out", str(tmp_path)]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(told) == 1 and "ethanol" in told[0] and "C2H6O alone" in told[0] and "H2O" in told[0]
    assert run(["energy", str(tmp_path / "ethanol.xyz"), "-m", "ethanol", "--out", str(tmp_path)]) == 0
    assert "note" not in capsys.readouterr().err


def test_a_checkpoint_without_a_domain_says_nothing(tmp_path, notes):
    calculator = potential(tmp_path, None)
    calculator.get_potential_energy(molecule("H2O"))
    assert notes() == []


def test_a_domain_that_is_none_is_refused(tmp_path, monkeypatch):
    class Nonsense(Domain):
        def model_dump(self, **options):
            return {"compositions": ["no formula!"], "molecule": 3}

    with pytest.raises(CheckpointError, match="trained_on"):
        potential(tmp_path, Nonsense(compositions=("H2O",)))
    assert load_checkpoint(tmp_path)[1]["trained_on"]["molecule"] == 3  # weights and the other data are sound
