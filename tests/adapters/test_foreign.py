"""Potentials of other packages: the door, its refusals, ASE's contract, a process that stays as it was."""

import copy
import json
import logging
import os
import pickle
import random
import warnings
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from nfflr import adapters as foreign
from nfflr import open_calculator
from nfflr.adapters.foreign_calculator import ForeignCalculator, Peer, close
from nfflr.calculator import NFFLrCalculator
from nfflr.cli.main import run
from nfflr.errors import CheckpointError, ConfigError, NumericsError, StructureError

NAME = "ase:ase.calculators.emt:EMT"
FILES = ["mace", "matgl", "nequip", "sevennet"]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def copper():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    return atoms


@pytest.fixture
def installed(monkeypatch):
    """Every package is found, so that what comes after that check is met."""
    monkeypatch.setattr(foreign.util, "find_spec", lambda name: object())


# The door


def test_one_door_for_ours_and_others():
    assert isinstance(open_calculator("mlearn-si"), NFFLrCalculator)
    calc = open_calculator(NAME)
    assert isinstance(calc, ForeignCalculator) and calc.name == "ase"


def test_an_adapter_is_found_by_its_file_being_there(monkeypatch, tmp_path):
    text = "from ase.calculators.emt import EMT\nfrom nfflr.adapters.foreign_calculator import Peer\n"
    text += "PACKAGE = MODULE = EXTRA = MODELS = None\nDTYPES = ('float64',)\n"
    (tmp_path / "fresh.py").write_text(
        text + "def load(argument, device, dtype):\n    return Peer(EMT(), 'float64')\n"
    )
    monkeypatch.setattr(foreign.packages, "__path__", [*foreign.packages.__path__, str(tmp_path)])
    assert open_calculator("fresh").get_potential_energy(copper()) == pytest.approx(
        EMT().get_potential_energy(copper())
    )


def test_the_adapters_that_are_shipped():
    assert foreign.names() == ["ase", "chgnet", "mace", "matgl", "nequip", "orb", "sevennet"]


@pytest.mark.parametrize(
    ("name", "command"),
    [("chgnet", "universal"), ("mace:x", "mace"), ("matgl:x", "matgl"), ("sevennet", "sevennet")]
    + [("nequip:x", "nequip"), ("orb:x", "orb")],
)
def test_a_missing_package_gives_the_command(monkeypatch, name, command):
    monkeypatch.setattr(foreign.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf'not installed; pip install "nfflr\[{command}\]"$'):
        open_calculator(name)


def test_the_extras_are_those_of_the_package():
    setup = (Path(__file__).parents[2] / "setup.cfg").read_text()
    for name in foreign.names():
        kind = foreign.adapter(name)
        if kind.PACKAGE:
            assert f"\n{kind.EXTRA} =\n    {kind.PACKAGE}>=" in setup


@pytest.mark.parametrize("kind", ["mace", "matgl", "nequip"])
def test_without_a_file_it_says_where_models_are(kind):
    with pytest.raises(ConfigError, match=rf"{kind}: expected {kind}:<file>; download .*https://.* {kind}:"):
        open_calculator(kind)


@pytest.mark.parametrize("kind", FILES)
def test_a_missing_file_says_where_from_and_where_to(installed, kind):
    with pytest.raises(CheckpointError, match=r"no such file; download .*https://.* put it at no/such.file$"):
        open_calculator(f"{kind}:no/such.file", trust=True)


@pytest.mark.parametrize("kind", FILES)
def test_nothing_is_unpickled_unasked(installed, tmp_path, kind):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "exploded",)

    (tmp_path / "m").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match=r"can run code that it holds; .*--trust"):
        open_calculator(f"{kind}:{tmp_path / 'm'}")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mcae:x.model", "did you mean 'mace'"),
        ("chgnt", "did you mean 'chgnet'"),
        ("ase.calculators.emt:EMT", "did you mean 'ase:ase.calculators.emt:EMT'"),
        ("ase:emt", "module:Class"),
        ("ase:ase.calculators.emt:EMTT", "EMTT"),
        ("ase:ase.build:bulk", "check the arguments"),
        ("ase:ase.calculators.emt:EMT:{", "not JSON"),
    ],
)
def test_wrong_names_are_refused(name, told):
    with pytest.raises(ConfigError, match=told):
        open_calculator(name)


def test_options_that_do_not_go_together(installed):
    with pytest.raises(ConfigError, match="--compile"):
        open_calculator(NAME, compile=True)
    with pytest.raises(ConfigError, match="--dtype: chgnet computes in float32 only"):
        open_calculator("chgnet", dtype="float64")
    with pytest.raises(ConfigError, match="device"):
        open_calculator(NAME, device="abacus")


def test_a_file_whose_name_has_a_colon_is_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a:b").write_text("nothing")
    with pytest.raises(CheckpointError):
        open_calculator("a:b")


# ASE's contract


def test_numbers_are_the_peers_and_the_atoms_are_the_callers():
    atoms, theirs = copper(), copper()
    before, theirs.calc = atoms.copy(), EMT()
    atoms.calc = open_calculator(NAME)
    assert atoms.get_potential_energy() == theirs.get_potential_energy()
    assert np.array_equal(atoms.get_forces(), theirs.get_forces())
    np.testing.assert_allclose(atoms.get_stress(), theirs.get_stress(), rtol=0, atol=1e-15)
    assert atoms == before and atoms.info == {}
    results = atoms.calc.results
    assert type(results["energy"]) is float and results["free_energy"] == results["energy"]
    assert all(
        v.dtype == np.float64 and v.flags.c_contiguous for v in results.values() if isinstance(v, np.ndarray)
    )
    results["forces"][:] = 0  # the peer's own are not touched
    atoms.calc.results = {}
    assert np.abs(atoms.get_forces()).max() > 0.1


def test_every_property_it_claims_is_given():
    atoms = copper()
    atoms.calc = open_calculator(NAME)
    for name in set(atoms.calc.implemented_properties) - {"magmom", "magmoms"}:  # EMT claims what it lacks
        assert np.isfinite(atoms.calc.get_property(name, atoms)).all()


class Reticent(EMT):
    """As CHGNet's: the free energy is among the results, and not among what it says that it has."""

    implemented_properties = ("energy", "forces", "stress")


def test_a_free_energy_that_is_asked_for_first_is_the_energy():
    atoms = copper()
    calc = ForeignCalculator(Peer(Reticent(), "float64"), {}, ("reticent", ()))
    assert calc.get_property("free_energy", atoms) == EMT().get_potential_energy(atoms)


def test_no_stress_without_a_cell():
    atoms = molecule("H2O")
    atoms.calc = open_calculator(NAME)
    assert atoms.get_potential_energy() == pytest.approx(EMT().get_potential_energy(molecule("H2O")))
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()
    assert "stress" not in atoms.calc.results


def peer(**known) -> ForeignCalculator:
    described = {"name": "lj", "source": "lj"}
    calc = LennardJones(sigma=2.3, rc=4.0, smooth=True)
    return ForeignCalculator(Peer(calc, "float64", **known), described, (peer, ()))


def test_elements_are_refused_on_attaching():
    with pytest.raises(StructureError, match="lj does not cover Au, Cu; it covers H, O$"):
        ase.Atoms("HCuAu").calc = peer(elements=("H", "O"))


@pytest.mark.parametrize("kind", ["molecule", "wire", "slab", "skewed slab"])
def test_open_axes_of_a_package_that_knows_none(kind):
    atoms = {
        "molecule": lambda: molecule("CH3CH2OH"),
        "wire": lambda: ase.Atoms("Cu2", [[0, 0, 0], [2.4, 0.4, 0.1]], cell=[4.5, 0, 0], pbc=(1, 0, 0)),
        "slab": lambda: fcc111("Cu", (2, 2, 2), vacuum=1.0),
        "skewed slab": lambda: fcc111("Cu", (2, 2, 2), vacuum=1.0),
    }[kind]()
    if kind.startswith("skewed"):
        atoms.set_cell(atoms.cell.array + [[0, 0, 0], [0, 0, 0], [1.0, 2.0, 0]])
    atoms.rattle(0.05, seed=3)
    kept, theirs = atoms.copy(), LennardJones(sigma=2.3, rc=4.0, smooth=True)
    atoms.calc = peer(closed=True, cutoff=4.0)
    np.testing.assert_allclose(atoms.get_forces(), theirs.get_forces(kept), atol=1e-12)
    assert atoms.get_potential_energy() == pytest.approx(theirs.get_potential_energy(kept), abs=1e-12)
    if "slab" in kind:
        np.testing.assert_allclose(atoms.get_stress(), theirs.get_stress(kept), atol=1e-12)
    assert atoms == kept


def test_vacuum_keeps_the_periodic_axes():
    atoms = fcc111("Cu", (2, 2, 2), vacuum=1.0)
    cell = atoms.cell.array.copy()
    close(atoms, 6.0)
    assert atoms.pbc.all() and np.array_equal(atoms.cell.array[:2], cell[:2])
    assert atoms.cell.array[2] @ cell[0] == pytest.approx(0) and atoms.cell.lengths()[2] > 8.0


@pytest.mark.parametrize("name", ["EMT", "Uncopied"])
def test_copies_and_pickles_are_calculators_of_their_own(name):
    source = NAME if name == "EMT" else f"ase:misbehaving:{name}"
    calc, atoms = open_calculator(source), copper()
    energy = calc.get_potential_energy(atoms)
    for twin in (copy.deepcopy(calc), pickle.loads(pickle.dumps(calc))):
        assert twin.peer.calculator is not calc.peer.calculator and twin.todict() == calc.todict()
        assert twin.get_potential_energy(atoms) == energy
        twin.get_potential_energy(bulk("Al"))
        assert calc.get_potential_energy(atoms) == energy


def test_it_says_in_json_what_it_is():
    found = json.loads(json.dumps(open_calculator(NAME).todict()))
    assert found["source"] == NAME and found["name"] == "ase" and found["dtype"] == "float64"


def test_charges_that_a_package_looks_at_are_a_change():
    atoms = copper()
    atoms.calc = open_calculator(NAME)
    atoms.get_potential_energy()
    assert atoms.calc.check_state(atoms) == []
    atoms.set_initial_charges([1, 0, 0, 0])
    assert atoms.calc.check_state(atoms) == ["initial_charges"]


# Packages that misbehave


def process() -> dict:
    state = np.random.get_state()
    return {
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "precision": torch.get_float32_matmul_precision(),
        "gradients": torch.is_grad_enabled(),
        "torch": torch.random.get_rng_state().tolist(),
        "numpy": (state[1].tolist(), state[2]),
        "python": random.getstate(),
        "floats": np.geterr(),
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
        "ase": list(Calculator.implemented_properties),
        "logging": (list(logging.root.handlers), logging.root.level),
    }


def test_nothing_of_the_process_is_left_changed(capsys):
    before, atoms = process(), copper()
    atoms.calc = open_calculator("ase:misbehaving:Spoiler")
    assert process() == before
    atoms.get_forces()
    assert process() == before
    assert atoms == copper() and atoms.info == {} and capsys.readouterr().out == ""
    assert "spoilt" not in atoms.calc.implemented_properties


def test_what_is_not_finite_or_fails_is_a_line():
    with pytest.raises(NumericsError, match="the forces of ase is not finite"):
        open_calculator("ase:misbehaving:NotFinite").get_forces(copper())
    calc = open_calculator("ase:misbehaving:Breaking")
    with pytest.raises(NumericsError, match="^structure: ase failed .RuntimeError: no luck.; "):
        calc.get_forces(copper())
    assert calc.results == {}


# The command line


@pytest.fixture
def structure(tmp_path):
    copper().write(tmp_path / "cu.cif")
    return str(tmp_path / "cu.cif")


def test_workflows_take_it(structure, tmp_path):
    arguments = ["--model", NAME, "--model", "ase:misbehaving:Spoiler", "--out", str(tmp_path)]
    assert run(["relax", structure, *arguments, "--fmax", "0.05"]) == 0
    record = json.loads((tmp_path / "cu-relax.json").read_text())
    assert record["calculator"]["source"] == NAME
    assert record["compared"]["ase:misbehaving:Spoiler"]["calculator"]["name"] == "ase"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--model", "mcae:x"], 2, "did you mean 'mace'"),
        (["--model", NAME, "--compile"], 2, "--compile"),
        (["--model", "mace"], 2, "https://"),
        ([], 3, '"nfflr[universal]" and --model chgnet'),
    ],
)
def test_refusals_are_one_line(structure, capsys, tmp_path, arguments, code, told):
    atoms = bulk("Hf")
    atoms.write(tmp_path / "hf.cif")
    assert run(["energy", str(tmp_path / "hf.cif"), *arguments, "--out", str(tmp_path / "o")]) == code
    line = capsys.readouterr().err.strip()
    assert told in line and "\n" not in line and not (tmp_path / "o").exists()


def test_a_file_that_is_not_trusted_exits_with_4(installed, structure, capsys, tmp_path):
    (tmp_path / "m").write_bytes(b"x")
    for command in (["energy", structure, "--model"], ["check", "--model"], ["bench", "--model"]):
        assert run([*command, f"mace:{tmp_path / 'm'}", "--out", str(tmp_path / "o")]) == 4
        assert "--trust" in capsys.readouterr().err
