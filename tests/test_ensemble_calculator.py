"""The calculator of an ensemble: ASE's contract still, and the spread besides."""

import copy
import json
import pickle

import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.calculator import PropertyNotImplementedError
from ase.db import connect
from ase.mep import NEB
from ase.optimize import BFGS
from builders import TinyNetwork, tiny

from nfflr.calculator import NFFLrCalculator
from nfflr.checkpoint import FILE, save_checkpoint
from nfflr.errors import CheckpointError, ConfigError
from nfflr.models import registry
from nfflr.models.committee import Committee

ELEMENTS = ("C", "Si")
SPREAD = {"energy_std", "forces_std"}


@pytest.fixture(autouse=True)
def known(monkeypatch):
    registry.architectures()
    monkeypatch.setitem(registry.REGISTRY, TinyNetwork.key, TinyNetwork)


@pytest.fixture
def models():
    return [tiny(ELEMENTS, seed=seed) for seed in range(3)]


@pytest.fixture
def calc(models):
    return NFFLrCalculator(Committee(models))


@pytest.fixture
def folder(tmp_path, models):
    """Members 9, 10 and 11: their order is that of numbers, not of letters."""
    for k, model in enumerate(models, start=9):
        save_checkpoint(tmp_path / f"member-{k}.safetensors", model)
    return tmp_path


def test_results_are_means_with_the_spread(calc, models, structures):
    atoms = structures.triclinic(ELEMENTS)
    singles = [NFFLrCalculator(model) for model in models]
    for single in singles:
        single.calculate(atoms)
    atoms.calc = calc
    energies = [single.results["energy"] for single in singles]
    assert atoms.get_potential_energy() == pytest.approx(np.mean(energies), abs=1e-12)
    for name in ("forces", "stress", "energies"):
        expected = np.mean([single.results[name] for single in singles], axis=0)
        assert calc.get_property(name, atoms) == pytest.approx(expected, abs=1e-12)
    assert calc.get_property("energy_std", atoms) == pytest.approx(np.std(energies, ddof=1), rel=1e-9)
    assert type(calc.results["energy_std"]) is float
    forces = np.array([single.results["forces"] for single in singles])
    spread = calc.get_property("forces_std", atoms)
    assert spread == pytest.approx(np.sqrt(forces.var(axis=0, ddof=1).sum(axis=1)), rel=1e-9)
    assert spread.dtype == np.float64 and spread.shape == (len(atoms),)
    assert set(calc.results) == set(calc.implemented_properties)


def test_the_spread_is_implemented_by_ensembles_only(calc, models, structures):
    assert set(calc.implemented_properties) >= SPREAD
    single, atoms = NFFLrCalculator(models[0]), structures.crystal()
    single.calculate(atoms)
    assert not SPREAD & {*single.implemented_properties, *single.results}
    for name in SPREAD:
        with pytest.raises(PropertyNotImplementedError):
            single.get_property(name, atoms)


def test_many_structures_carry_the_spread(calc, structures):
    many = [structures.cluster(ELEMENTS), structures.crystal(ELEMENTS), structures.slab(ELEMENTS)]
    for atoms, found in zip(many, calc.evaluate(many), strict=True):
        calc.calculate(atoms)
        assert found.keys() == calc.results.keys() and found.keys() >= SPREAD
        for name, value in calc.results.items():
            assert found[name] == pytest.approx(value, abs=1e-10) and type(found[name]) is type(value)


def test_a_folder_of_members_and_a_list_of_files_are_loaded(folder, calc, structures):
    files = [folder / f"member-{k}.safetensors" for k in (9, 10, 11)]
    (folder / "member-x.safetensors").write_bytes(b"not one of them")
    for source in (folder, str(folder), files, tuple(map(str, files))):
        loaded, atoms = NFFLrCalculator.load(source), structures.crystal(ELEMENTS)
        calc.calculate(atoms), loaded.calculate(atoms)
        for name, value in calc.results.items():
            assert np.array_equal(loaded.results[name], value)
    found = loaded.todict()
    assert json.loads(json.dumps(found)) == found and found["source"] == list(map(str, files))
    assert found["architecture"] == "committee(test-tiny, test-tiny, test-tiny)"
    digests = [NFFLrCalculator.load(file).todict()["digest"] for file in files]
    assert found["digest"] == digests and len(set(digests)) == 3
    assert NFFLrCalculator.load(folder).todict() == {**found, "source": str(folder)}


def test_members_count_more_than_a_model_beside_them_and_one_alone_does_not(folder, models):
    save_checkpoint(folder / FILE, models[0])
    assert isinstance(NFFLrCalculator.load(folder).model, Committee)
    for k in (9, 10):
        (folder / f"member-{k}.safetensors").unlink()
    assert not isinstance(NFFLrCalculator.load(folder).model, Committee)
    (folder / FILE).unlink()
    with pytest.raises(ConfigError, match="holds no model.safetensors, but"):
        NFFLrCalculator.load(folder)


def test_what_is_no_ensemble_is_refused(folder, tmp_path_factory):
    file = folder / "member-9.safetensors"
    with pytest.raises(ConfigError, match="got 1 members"):
        NFFLrCalculator.load([file])
    with pytest.raises(ConfigError, match="got 0 members"):
        NFFLrCalculator.load([])
    with pytest.raises(ConfigError, match="no such checkpoint"):
        NFFLrCalculator.load([file, folder / "member-99.safetensors"])
    (folder / "member-10.safetensors").write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"member-10\.safetensors: "):
        NFFLrCalculator.load(folder)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_copies_give_equal_results(folder, structures, duplicate):
    calc, atoms = NFFLrCalculator.load(folder), structures.triclinic(ELEMENTS)
    twin = duplicate(calc)
    calc.calculate(atoms), twin.calculate(atoms)
    assert twin.todict() == calc.todict() and calc.results.keys() >= SPREAD
    assert all(np.array_equal(value, twin.results[name]) for name, value in calc.results.items())


def test_precision_can_be_chosen(models, structures):
    atoms, found = structures.crystal(ELEMENTS), {}
    for dtype in ("float32", "float64"):
        calc = NFFLrCalculator(Committee(models), dtype=dtype)
        calc.calculate(atoms)
        found[dtype] = calc.results
        assert {member.dtype for member in calc.model.members} == {getattr(torch, dtype)}
        assert calc.todict()["dtype"] == dtype
    assert found["float32"]["energy_std"] == pytest.approx(found["float64"]["energy_std"], rel=1e-4)
    assert all(model.dtype == torch.float64 for model in models)


def test_ase_writes_what_it_knows_and_optimises(calc, structures, tmp_path):
    # ASE's files and its Properties refuse names they do not know: the spread must not get in their way.
    atoms = structures.crystal(ELEMENTS)
    atoms.calc = calc
    energy = atoms.get_potential_energy()
    for name in ("si.traj", "si.xyz", "si.json"):
        ase.io.write(tmp_path / name, atoms)
        assert ase.io.read(tmp_path / name).get_potential_energy() == pytest.approx(energy, abs=1e-7)
    with connect(tmp_path / "si.db") as database:
        database.write(atoms)
        assert database.get(1).energy == pytest.approx(energy, abs=1e-12)
    exported = calc.export_properties()
    assert exported["energy"] == energy and not SPREAD & set(exported)
    assert atoms.get_properties(["energy", "forces"])["energy"] == energy
    BFGS(atoms, logfile=None, trajectory=str(tmp_path / "run.traj")).run(fmax=1e-9, steps=2)
    assert len(ase.io.read(tmp_path / "run.traj", ":")) == 3


def test_ase_interpolates_paths_with_one_ensemble_for_all_images(calc, structures):
    images = [structures.cluster(ELEMENTS) for _ in range(3)]
    images[2].positions[0, 0] += 0.3
    neb = NEB(images, allow_shared_calculator=True, method="improvedtangent")
    neb.interpolate()
    for image in images:
        image.calc = calc
    assert np.isfinite(neb.get_forces()).all()
