"""``NFFLrCalculator`` keeps ASE's contract to the letter."""

import copy
import json
import pickle
from itertools import product

import ase
import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.constraints import FixAtoms
from ase.db import connect
from builders import TinyNetwork, tiny

from nfflr.calculator import NFFLrCalculator
from nfflr.checkpoint import save_checkpoint
from nfflr.data import verlet
from nfflr.errors import ConfigError, NumericsError, StructureError
from nfflr.models import registry
from nfflr.structures.checks import check_structure

NAMES = ["crystal", "triclinic", "slab", "cluster"]
ELEMENTS = ("C", "Si")


def calculator(dtype="float64", **options) -> NFFLrCalculator:
    return NFFLrCalculator(tiny(ELEMENTS, torch.float64), dtype=dtype, **options)


@pytest.fixture
def counted(monkeypatch):
    """A calculator and the list of its model's calls."""
    calc, calls = calculator(), []
    forward = calc.model.forward

    def counting(*arguments, **options):
        calls.append(options)
        return forward(*arguments, **options)

    monkeypatch.setattr(calc.model, "forward", counting)
    return calc, calls


def everything(atoms) -> dict:
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    return {**results, "energies": atoms.get_potential_energies()}


# Properties


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_energies_are_floats_and_arrays_are_contiguous_float64(structures, name, dtype):
    atoms = getattr(structures, name)(ELEMENTS)
    atoms.calc = calculator(dtype)
    n = len(atoms)
    atoms.get_forces()
    results = atoms.calc.results
    assert type(results["energy"]) is float and type(results["free_energy"]) is float
    assert results["energy"] == results["free_energy"] == atoms.get_potential_energy(force_consistent=True)
    shapes = {"energies": (n,), "forces": (n, 3), "stress": (6,)}
    for key in shapes.keys() & results.keys():
        value = results[key]
        assert type(value) is np.ndarray and value.dtype == np.float64 and value.flags["C_CONTIGUOUS"]
        assert value.shape == shapes[key]
    assert results["energies"].sum() == pytest.approx(results["energy"], abs=1e-12)
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy(), abs=1e-12)


def test_every_implemented_property_is_there_and_nothing_else(structures):
    atoms = structures.crystal()
    atoms.calc = calculator()
    for name in atoms.calc.implemented_properties:
        assert atoms.calc.get_property(name, atoms) is not None
    assert set(atoms.calc.results) == set(atoms.calc.implemented_properties)
    for name in ("dipole", "magmoms", "stresses"):
        with pytest.raises(PropertyNotImplementedError):
            atoms.calc.get_property(name, atoms)


def test_the_numbers_are_the_models(structures):
    atoms = structures.triclinic(ELEMENTS)
    atoms.calc = calculator()
    output = atoms.calc.model(atoms)
    assert atoms.get_potential_energy() == pytest.approx(float(output["total_energy"]), abs=1e-12)
    assert atoms.get_forces() == pytest.approx(output["forces"].numpy(), abs=1e-12)


@pytest.mark.parametrize("name", ["crystal", "triclinic", "slab"])
def test_stress_is_the_strain_derivative_in_ases_order(structures, name):
    atoms = getattr(structures, name)(ELEMENTS)
    atoms.calc = calculator()
    stress, h = atoms.get_stress(), 1e-4
    assert np.unique(np.abs(stress).round(12)).size == 6  # six different numbers, or the order is untested
    for place, (a, b) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
        energies = []
        for sign in (1, -1):
            strained, strain = atoms.copy(), np.eye(3)
            strain[a, b] += sign * h / 2
            strain[b, a] += sign * h / 2
            strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            strained.calc = atoms.calc
            energies.append(strained.get_potential_energy())
        derivative = (energies[0] - energies[1]) / (2 * h) / atoms.get_volume()
        assert stress[place] == pytest.approx(derivative, abs=1e-8, rel=1e-6)
    assert atoms.get_stress(voigt=False) == pytest.approx(stress[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]], abs=0)


def molecule(structures):
    return structures.cluster(ELEMENTS)


def molecule_in_a_box(structures):
    atoms = structures.cluster(ELEMENTS)
    atoms.set_cell([1.0, 1.0, 1.0])  # a dummy, as many codes write
    return atoms


def slab_without_third_vector(structures):
    atoms = structures.slab(ELEMENTS)
    atoms.cell[2] = 0
    return atoms


def wire(structures):
    atoms = structures.cluster(ELEMENTS)
    atoms.cell[0] = [5.0, 0, 0]
    atoms.pbc = (True, False, False)
    return atoms


@pytest.mark.parametrize("build", [molecule, molecule_in_a_box, slab_without_third_vector, wire])
def test_no_stress_without_a_volume_and_no_harm_to_the_rest(structures, build):
    atoms = build(structures)
    atoms.calc = calculator()
    with pytest.raises(PropertyNotImplementedError, match="volume"):
        atoms.get_stress()
    energy = atoms.get_potential_energy()
    assert np.isfinite(energy) and np.isfinite(atoms.get_forces()).all()
    with pytest.raises(PropertyNotImplementedError):  # also when results are there already
        atoms.get_stress()
    assert "stress" not in atoms.calc.results and atoms.get_potential_energy() == energy


def test_the_kept_structure_is_a_copy_in_each_call(structures):
    atoms = structures.crystal(ELEMENTS)
    atoms.calc = calculator()
    atoms.get_forces()
    first, start = atoms.calc.atoms, atoms.positions.copy()
    atoms.positions += 0.01
    atoms.set_tags(range(len(atoms)))
    atoms.info["step"] = 1
    atoms.set_constraint(FixAtoms([0]))
    atoms.get_forces()
    second = atoms.calc.atoms
    assert second == atoms and second.calc is None and second.get_tags()[-1] == len(atoms) - 1
    assert second.info == {"step": 1} and len(second.constraints) == 1
    assert first is not second and first.info == {} and not first.constraints and not first.has("tags")
    assert np.array_equal(first.positions, start)
    atoms.set_cell(atoms.cell * 1.01)
    atoms.pbc = (True, True, False)
    atoms.get_forces()
    assert atoms.calc.atoms == atoms and second.pbc.all()


def test_a_dummy_cell_without_periodicity_changes_nothing(structures):
    calc = calculator()
    plain, boxed = calc.evaluate([molecule(structures), molecule_in_a_box(structures)])
    assert plain["energy"] == pytest.approx(boxed["energy"], abs=1e-12)
    assert plain["forces"] == pytest.approx(boxed["forces"], abs=1e-12)


@pytest.mark.parametrize("pbc", list(product((False, True), repeat=3)), ids=str)
def test_each_periodic_axis_is_honoured(structures, pbc):
    # A periodic axis is worth two explicit copies on either side, an open one none.
    atoms = structures.triclinic(ELEMENTS)
    atoms.pbc = pbc
    atoms.calc = calculator()
    large = atoms.repeat([5 if periodic else 1 for periodic in pbc])
    large.pbc = False
    large.calc = calculator()
    centre = atoms.positions + 2 * np.array(pbc) @ atoms.cell.array
    middle = [int(np.linalg.norm(large.positions - x, axis=1).argmin()) for x in centre]
    assert large.get_potential_energies()[middle] == pytest.approx(atoms.get_potential_energies(), abs=1e-10)


# When something is computed


def test_one_evaluation_serves_all_properties_and_none_is_needed_twice(counted, structures):
    calc, calls = counted
    atoms = structures.crystal()
    atoms.calc = calc
    for _ in range(2):
        atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(), atoms.get_potential_energies()
    assert len(calls) == 1
    same = atoms.copy()
    same.calc = calc
    same.get_forces()
    assert len(calls) == 1


def displace(atoms):
    atoms.positions[0, 0] += 1e-10


def strain(atoms):
    atoms.cell[0, 0] += 1e-10


def transmute(atoms):
    atoms.numbers[0] = 6


def open_axis(atoms):
    atoms.pbc[1] = False


@pytest.mark.parametrize("change", [displace, strain, transmute, open_axis], ids=lambda f: f.__name__)
def test_any_change_is_computed_anew(counted, structures, change):
    calc, calls = counted
    atoms = structures.crystal()
    atoms.calc = calc
    atoms.get_forces()
    change(atoms)
    atoms.get_forces()
    assert len(calls) == 2


def test_a_refused_stress_costs_no_evaluation(counted, structures):
    calc, calls = counted
    atoms = structures.cluster()
    atoms.calc = calc
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()
    assert calls == []


def test_results_handed_out_can_be_changed_without_harm(structures):
    atoms = structures.crystal()
    atoms.calc = calculator()
    forces, stress = atoms.get_forces(), atoms.get_stress()
    kept = forces.copy(), stress.copy()
    forces[:], stress[:] = 0, 0
    assert np.array_equal(atoms.get_forces(), kept[0]) and np.array_equal(atoms.get_stress(), kept[1])


def test_forces_are_raw_and_ase_applies_constraints(structures):
    free, fixed = structures.crystal(), structures.crystal()
    fixed.set_constraint(FixAtoms([0, 3]))
    free.calc, fixed.calc = calculator(), calculator()
    assert np.array_equal(fixed.get_forces(apply_constraint=False), free.get_forces())
    assert np.array_equal(fixed.calc.results["forces"], free.get_forces())
    assert not fixed.get_forces()[[0, 3]].any() and free.get_forces()[[0, 3]].any()


def test_the_structure_is_left_as_it_was(structures):
    atoms = structures.triclinic(ELEMENTS)
    atoms.positions += 100.0  # outside the cell
    atoms.info["note"], atoms.arrays["tag"] = "mine", np.arange(4)
    kept = atoms.copy()
    atoms.calc = calculator()
    atoms.get_forces(), atoms.get_stress()
    atoms.calc.evaluate([atoms])
    assert atoms == kept and atoms.info == kept.info and atoms.arrays.keys() == kept.arrays.keys()


def test_the_calculator_keeps_up_with_moving_atoms(structures):
    # The kept neighbour list must give what a calculator without one gives.
    atoms = structures.crystal()
    kept, fresh = calculator(), calculator(skin=0.0)
    rng = np.random.default_rng(0)
    for _ in range(15):
        atoms.positions += 0.05 * rng.normal(size=atoms.positions.shape)
        kept.calculate(atoms), fresh.calculate(atoms)
        assert kept.results["energy"] == pytest.approx(fresh.results["energy"], abs=1e-10)
        assert kept.results["forces"] == pytest.approx(fresh.results["forces"], abs=1e-10)


# What is refused


def test_an_unknown_element_is_refused_when_attached(structures):
    atoms = structures.crystal(("Si", "Ge"))
    with pytest.raises(StructureError, match=r"element Ge is not covered.*C, Si"):
        atoms.calc = calculator()


@pytest.mark.parametrize("number", [0, 119, 250, -1])
def test_an_impossible_atomic_number_is_refused_when_attached(structures, number):
    atoms = structures.crystal()
    atoms.numbers[2] = number
    with pytest.raises(StructureError):
        atoms.calc = calculator()


def test_an_element_that_appears_later_is_refused_too(structures):
    atoms = structures.crystal()
    atoms.calc = calculator()
    atoms.get_forces()
    atoms.numbers[0] = 32
    with pytest.raises(StructureError, match="element Ge"):
        atoms.get_forces()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_position_that_is_not_finite_is_refused_by_index_every_time(structures, value):
    atoms = structures.crystal()
    atoms.calc = calculator()
    good = atoms.get_potential_energy()
    position = atoms.positions[3].copy()
    atoms.positions[3, 1] = value
    for _ in range(2):
        with pytest.raises(StructureError, match="atom 3 has a coordinate that is not finite"):
            atoms.get_forces()
    atoms.positions[3] = position
    assert atoms.get_potential_energy() == pytest.approx(good, abs=1e-12)


def test_an_empty_structure_is_refused():
    atoms = ase.Atoms()
    atoms.calc = calculator()
    with pytest.raises(StructureError, match="no atoms"):
        atoms.get_potential_energy()


def test_coincident_atoms_are_refused_by_index(structures):
    atoms = structures.crystal()
    atoms.positions[4] = atoms.positions[1]
    atoms.calc = calculator()
    with pytest.raises(StructureError, match=r"atoms (1 and 4|4 and 1) coincide"):
        atoms.get_forces()


def test_unknown_keywords_are_errors():
    with pytest.raises(TypeError, match="cutof"):
        NFFLrCalculator(tiny(), cutof=3.0)
    with pytest.raises(TypeError, match="model_path"):
        NFFLrCalculator.load("x", model_path="y")


@pytest.mark.parametrize("dtype", ["float16", "double", torch.float64, "", 64])
def test_a_bad_dtype_is_a_config_error(dtype):
    with pytest.raises(ConfigError, match="dtype.*float32.*float64") as caught:
        NFFLrCalculator(tiny(), dtype=dtype)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu:7:7", "mps", "cuda", "cuda:99", "meta"])
def test_a_bad_or_absent_device_is_a_config_error(device):
    kind = device.partition(":")[0]
    if (kind == "mps" and torch.backends.mps.is_available()) or (
        device == "cuda" and torch.cuda.is_available()
    ):
        pytest.skip("this machine has it")
    with pytest.raises(ConfigError, match=device) as caught:
        NFFLrCalculator(tiny(), device=device)
    assert caught.value.exit_code == 2


def test_a_negative_skin_is_a_config_error():
    with pytest.raises(ConfigError, match="skin"):
        calculator(skin=-0.1)


@pytest.mark.parametrize("weight", ["readout.bias", "hidden.weight"])
def test_a_model_that_returns_nan_is_a_numerics_error(structures, weight):
    model = tiny(ELEMENTS)
    with torch.no_grad():
        dict(model.named_parameters())[weight].fill_(float("nan"))
    atoms = structures.crystal()
    atoms.calc = NFFLrCalculator(model)
    with pytest.raises(NumericsError, match="not finite") as caught:
        atoms.get_forces()
    assert caught.value.exit_code == 5 and not atoms.calc.results
    with pytest.raises(NumericsError):
        atoms.calc.evaluate([atoms])


# Copies and descriptions


def test_the_description_is_json_and_says_which_numbers_these_are(tmp_path, monkeypatch):
    registry.architectures()
    monkeypatch.setitem(registry.REGISTRY, TinyNetwork.key, TinyNetwork)
    path = tmp_path / "model.safetensors"
    digest = save_checkpoint(path, tiny(ELEMENTS, torch.float32))
    found = NFFLrCalculator.load(path, dtype="float64").todict()
    assert json.loads(json.dumps(found)) == found
    expected = {"name": "nfflr", "source": str(path), "architecture": "test-tiny", "digest": digest}
    expected |= {"dtype": "float64", "device": "cpu", "skin": 0.5, "compiled": False}
    assert found == expected
    json.dumps(calculator().todict())  # without a file too


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize("used", [False, True])
def test_copies_give_equal_results_and_are_independent(structures, duplicate, used):
    atoms = structures.triclinic(ELEMENTS)
    calc = calculator()
    if used:
        calc.calculate(atoms)
    twin = duplicate(calc)
    atoms.positions[0] += 0.02
    calc.calculate(atoms), twin.calculate(atoms)
    for key, value in calc.results.items():
        assert np.array_equal(value, twin.results[key])
    assert twin.todict() == calc.todict()
    with torch.no_grad():
        twin.model.readout.bias += 1
    before = calc.results["energy"]
    calc.calculate(atoms)
    assert calc.results["energy"] == before


def test_ase_writes_and_reads_structures_with_this_calculator(structures, tmp_path):
    atoms = structures.crystal()
    atoms.calc = calculator()
    energy = atoms.get_potential_energy()
    for name in ("si.traj", "si.xyz", "si.json"):
        ase.io.write(tmp_path / name, atoms)
        assert ase.io.read(tmp_path / name).get_potential_energy() == pytest.approx(energy, abs=1e-7)
    with connect(tmp_path / "si.db") as database:
        database.write(atoms)
        row = database.get(1)
        assert row.energy == pytest.approx(energy, abs=1e-12) and row.calculator == "nfflr"


# Global state


def test_float32_and_float64_interleaved_do_not_disturb_each_other(structures):
    atoms = structures.triclinic(ELEMENTS)
    alone = {}
    for dtype in ("float32", "float64"):
        single = calculator(dtype)
        single.calculate(atoms)
        alone[dtype] = single.results
    pair = {dtype: calculator(dtype) for dtype in alone}
    for dtype in ("float32", "float64", "float32", "float64"):
        pair[dtype].calculate(atoms)
        assert pair[dtype].results["energy"] == alone[dtype]["energy"]
        assert np.array_equal(pair[dtype].results["forces"], alone[dtype]["forces"])
        assert torch.get_default_dtype() == torch.float32
    difference = np.abs(alone["float32"]["forces"] - alone["float64"]["forces"]).max()
    assert 1e-12 < difference < 1e-4  # two precisions of one model


def test_two_calculators_of_one_model_keep_their_own_precision(structures):
    atoms, model = structures.crystal(), tiny(ELEMENTS)
    double = NFFLrCalculator(model, dtype="float64")
    double.calculate(atoms)
    before = double.results["energy"]
    NFFLrCalculator(model, dtype="float32")
    double.calculate(atoms)
    assert double.todict()["dtype"] == "float64" and double.results["energy"] == before


def test_a_model_in_training_stays_in_training(structures):
    model = tiny(ELEMENTS, torch.float32).train()
    NFFLrCalculator(model, dtype="float64").calculate(structures.crystal())
    assert model.training and model.dtype == torch.float32


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_the_callers_default_dtype_neither_changes_nor_matters(structures, default):
    atoms = structures.slab()
    model = tiny(ELEMENTS, torch.float32)
    expected = NFFLrCalculator(copy.deepcopy(model)).evaluate([atoms])[0]
    torch.set_default_dtype(default)
    try:
        (found,) = NFFLrCalculator(model).evaluate([atoms])
        assert torch.get_default_dtype() == default
    finally:
        torch.set_default_dtype(torch.float32)
    assert found["energy"] == expected["energy"] and np.array_equal(found["forces"], expected["forces"])


def test_no_global_state_is_touched(structures, tmp_path, monkeypatch):
    registry.architectures()
    monkeypatch.setitem(registry.REGISTRY, TinyNetwork.key, TinyNetwork)
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, tiny(ELEMENTS))

    def state():
        flags = torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()
        threads = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
        return flags, threads, torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()

    before = state()
    calc = NFFLrCalculator.load(path, dtype="float32")
    calc.calculate(structures.crystal())
    calc.evaluate([structures.slab()])
    assert state() == before


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_forces_come_out_where_gradients_are_switched_off(structures, mode):
    atoms = structures.crystal()
    expected = calculator().evaluate([atoms])[0]["forces"]
    atoms.calc = calculator()
    with mode():
        assert atoms.get_forces() == pytest.approx(expected, abs=1e-12)


def test_a_model_in_inference_mode_gives_forces_or_an_error_but_no_zeros(structures):
    atoms, model = structures.crystal(), tiny(ELEMENTS)
    expected = model(atoms)["forces"]
    with torch.inference_mode():
        try:
            found = model(atoms)["forces"]
        except RuntimeError:
            return
    assert torch.allclose(found, expected, atol=1e-12)


# Many structures


def mixed(structures) -> list[ase.Atoms]:
    return [
        structures.cluster(ELEMENTS),
        structures.crystal(),
        ase.Atoms("C"),
        structures.slab(ELEMENTS),
        structures.triclinic(ELEMENTS),
        ase.Atoms("Si", cell=[3, 3, 3], pbc=True),
        structures.crystal(ELEMENTS).repeat((2, 1, 1)),
    ]


@pytest.mark.parametrize("max_edges", [1, 300, 100_000])
def test_many_equal_one_by_one_in_order(structures, max_edges, counted):
    calc, calls = counted
    many = mixed(structures)
    found = calc.evaluate(many, max_edges=max_edges)
    batches = len(calls)
    assert len(found) == len(many)
    assert {1: batches == len(many), 300: 1 < batches < len(many), 100_000: batches == 1}[max_edges]
    for atoms, results in zip(many, found, strict=True):
        single = calculator()
        single.calculate(atoms)
        assert results.keys() == single.results.keys()
        for key, value in results.items():
            assert value == pytest.approx(single.results[key], abs=1e-10)
            assert type(value) is type(single.results[key])


def test_evaluating_many_leaves_the_attached_structure_alone(structures, counted):
    calc, calls = counted
    atoms = structures.crystal()
    atoms.calc = calc
    energy = atoms.get_potential_energy()
    calc.evaluate(mixed(structures))
    n = len(calls)
    assert atoms.get_potential_energy() == energy and len(calls) == n


def test_evaluating_nothing_gives_nothing():
    assert calculator().evaluate([]) == []


@pytest.mark.parametrize("fault", ["nan", "element", "coincident"])
def test_a_structure_among_many_that_cannot_be_used_is_named(structures, fault):
    many = [structures.crystal(), structures.slab(), structures.cluster()]
    if fault == "nan":
        many[2].positions[1] = np.nan
    elif fault == "element":
        many[2].numbers[1] = 79
    else:
        many[2].positions[1] = many[2].positions[0]
    with pytest.raises(StructureError, match=r"^structure 2\b") as caught:
        calculator().evaluate(many)
    assert (
        fault != "coincident" or "atoms 0 and 1" in str(caught.value) or "atoms 1 and 0" in str(caught.value)
    )


def test_evaluate_takes_an_iterator(structures):
    many = mixed(structures)
    assert len(calculator().evaluate(iter(many))) == len(many)


def test_a_batch_of_displaced_copies_shares_one_search_and_forgets_what_came_before(structures, monkeypatch):
    searches = []
    search = verlet.neighbor_list
    monkeypatch.setattr(verlet, "neighbor_list", lambda *a, **k: searches.append(a) or search(*a, **k))
    crystal = structures.crystal(ELEMENTS)
    copies = []
    for k in range(len(crystal)):
        copies.append(crystal.copy())
        copies[-1].positions[k, k % 3] += 0.01
    calc = calculator()
    first = calc.evaluate(copies)
    assert len(searches) == 1
    crystal.rattle(0.02, seed=5)
    calc.get_property("forces", crystal)
    calc.evaluate([crystal])
    for a, b in zip(first, calc.evaluate(copies), strict=True):
        assert a["energy"] == b["energy"] and np.array_equal(a["forces"], b["forces"])


def test_evaluate_checks_each_structure_before_it_is_searched():
    good, lost, flat = (bulk("Si", cubic=True) for _ in range(3))
    lost.positions[3, 1] = np.nan
    flat.cell[2] = 0
    calc = NFFLrCalculator.load("mlearn-si-fast")
    for bad, words in ((lost, "atom 3"), (flat, "c")):
        with pytest.raises(StructureError, match=r"^structure 1\b") as caught:
            calc.evaluate([good, bad, good])
        with pytest.raises(StructureError) as alone:  # the same in as many words
            check_structure(bad, "structure 1")
        assert str(caught.value) == str(alone.value) and words in str(alone.value)
