"""The packages that are installed: their own calculator's numbers, and ``nff`` from end to end."""

import copy
import importlib.util
import json
import os
import pickle
import random

import ase
import numpy as np
import peer_models
import pytest
import torch
from ase.build import bulk, fcc111
from ase.stress import full_3x3_to_voigt_6_stress

from nfflr import open_calculator
from nfflr.adapters.foreign_calculator import undisturbed
from nfflr.cli.main import run
from nfflr.errors import CheckpointError, ConfigError

PEERS = {"chgnet": "chgnet", "mace": "mace", "matgl": "matgl", "sevennet": "sevenn", "nequip": "nequip"}
pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # those of the packages' own calculators, made here beside ours
]


def theirs(kind: str, path):
    """The package's calculator, as its documentation makes it."""
    if kind == "chgnet":
        from chgnet.model.dynamics import CHGNetCalculator

        return CHGNetCalculator(use_device="cpu", on_isolated_atoms="ignore")
    if kind == "mace":
        from mace.calculators import MACECalculator

        os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # MACE sets it on import; it was put back
        return MACECalculator(model_paths=str(path), device="cpu")
    if kind == "matgl":
        import matgl
        from matgl.ext.ase import PESCalculator

        return PESCalculator(matgl.load_model(path), stress_unit="eV/A3", use_voigt=True)
    if kind == "sevennet":
        from sevenn.calculator import SevenNetCalculator

        return SevenNetCalculator("7net-0", device="cpu")
    from nequip.integrations.ase import NequIPCalculator

    return NequIPCalculator._from_saved_model(path, device="cpu", chemical_species_to_atom_type_map=True)


@pytest.fixture(scope="module", params=PEERS)
def peer(request, tmp_path_factory):
    """Kind, source, path of its model."""
    kind = request.param
    if importlib.util.find_spec(PEERS[kind]) is None:
        pytest.skip(f"{PEERS[kind]} is not installed")
    make = getattr(peer_models, kind, None)
    if make is None:
        return kind, kind, None
    path = tmp_path_factory.mktemp(kind) / "model"
    with undisturbed():
        torch.manual_seed(0)
        make(path)
    return kind, f"{kind}:{path}", path


def oxide(seed=1):
    atoms = bulk("MgO", "rocksalt", a=4.25, cubic=True)
    atoms.rattle(0.08, seed=seed)
    return atoms


def structures(kind):
    """A crystal; and what is open, for those whose own calculators take it."""
    found = {"crystal": oxide(), "primitive": bulk("MgO", "rocksalt", a=4.3)}
    molecule = ase.Atoms("MgOMgO", [[0, 0, 0], [1.8, 0.1, 0], [1.9, 1.9, 0.2], [0.1, 1.8, 0.1]])
    if kind != "chgnet":
        found["molecule"] = molecule
    if kind in ("mace", "nequip", "sevennet"):
        slab = fcc111("Mg", (1, 1, 2), a=4.4, vacuum=6.0)
        slab.numbers[0] = 8
        found["slab"] = slab
    return found


def test_numbers_are_those_of_the_package(peer, record_property):
    kind, source, path = peer
    ours = open_calculator(source, trust=True)
    with undisturbed():
        reference = theirs(kind, path)
        worst = {"energy": 0.0, "forces": 0.0, "stress": 0.0}
        for name, atoms in structures(kind).items():
            before = atoms.copy()
            for quantity in worst if atoms.pbc.any() else ("energy", "forces"):
                found = ours.get_property(quantity, atoms)
                expected = np.asarray(reference.get_property(quantity, atoms.copy()))
                if expected.shape == (3, 3) and quantity == "stress":
                    expected = full_3x3_to_voigt_6_stress(expected)
                worst[quantity] = max(worst[quantity], float(np.abs(found - expected).max()))
            assert atoms == before, name
    print(kind, ours.todict()["version"], worst)
    assert max(worst.values()) < 1e-6, worst


def test_the_contract(peer):
    _, source, _ = peer
    calc, atoms = open_calculator(source, trust=True), oxide()
    state = torch.get_default_dtype(), torch.random.get_rng_state().tolist(), random.getstate()
    energy = calc.get_potential_energy(atoms)
    assert state == (torch.get_default_dtype(), torch.random.get_rng_state().tolist(), random.getstate())
    for name in calc.implemented_properties:
        assert np.isfinite(calc.get_property(name, atoms)).all()
    assert calc.results["free_energy"] == energy and type(energy) is float
    assert {"Mg", "O"} <= set(calc.elements) and calc.cutoff > 3
    told = json.loads(json.dumps(calc.todict()))
    assert len(told["digest"]) == 64 and told["version"]
    for twin in (copy.deepcopy(calc), pickle.loads(pickle.dumps(calc))):
        assert twin.get_potential_energy(atoms) == pytest.approx(energy, abs=1e-6)
    twin.get_potential_energy(oxide(seed=2))
    assert calc.get_potential_energy(atoms) == energy


def test_forces_are_the_slope_of_the_energy_and_open_axes_count(peer):
    """Of a slab too, which a package may not know: then it is shown in vacuum."""
    _, source, _ = peer
    calc = open_calculator(source, trust=True)
    slab = oxide()
    slab.pbc = (True, True, False)
    forces, step = calc.get_forces(slab), 1e-2
    energies = []
    for sign in (1, -1):
        moved = slab.copy()
        moved.positions[0, 2] += sign * step
        energies.append(calc.get_potential_energy(moved))
    assert -(energies[0] - energies[1]) / (2 * step) == pytest.approx(forces[0, 2], abs=5e-3, rel=2e-2)
    boxed = slab.copy()
    boxed.center(vacuum=8.0, axis=2)
    boxed.pbc = True
    assert calc.get_potential_energy(boxed) == pytest.approx(calc.get_potential_energy(slab), abs=1e-5)


@pytest.mark.parametrize("command", ["relax", "phonons"])
def test_commands_run(peer, tmp_path, command):
    kind, source, _ = peer
    bulk("MgO", "rocksalt", a=4.25).write(tmp_path / "mgo.cif")
    options = {"relax": ["--steps", "5"], "phonons": ["--supercell", "2", "2", "2"]}[command]
    arguments = [str(tmp_path / "mgo.cif"), "--model", source, "--trust", "--out", str(tmp_path)]
    code = run([command, *arguments, *options])
    record = json.loads((tmp_path / f"mgo-{command}.json").read_text())
    # Weights that are random need not converge; that is said, with 5.
    assert code == 0 if kind in ("chgnet", "sevennet") else code in (0, 5)
    assert record["calculator"]["name"] == kind and record["calculator"]["digest"]


@pytest.mark.slow
def test_check_runs(peer, tmp_path):
    kind, source, _ = peer
    options = ["--elements", "Mg", "--elements", "O", "--trust", "--out", str(tmp_path)]
    assert run(["check", "--model", source, *options]) in (0, 5)
    (found,) = tmp_path.glob("*-check.json")
    record = json.loads(found.read_text())
    status = {row["name"]: row["status"] for row in record["checks"]}
    print(kind, [row for row in record["checks"] if row["status"] in ("fail", "warn")])
    assert record["calculator"]["package"]
    if kind == "mace":  # others compute in float32, too rough for differences
        assert status["forces = -dE/dx"] == "pass"


@pytest.mark.parametrize("kind", ["mace", "matgl", "nequip", "sevennet"])
def test_a_damaged_file_is_a_line(kind, tmp_path):
    if importlib.util.find_spec(PEERS[kind]) is None:
        pytest.skip(f"{PEERS[kind]} is not installed")
    (tmp_path / "m").write_bytes(b"PK\x03\x04 not a model")
    with pytest.raises(CheckpointError, match=r"m: \S+ cannot read it"):
        open_calculator(f"{kind}:{tmp_path / 'm'}", trust=True)


def test_models_that_chgnet_holds():
    pytest.importorskip("chgnet")
    energies = {open_calculator(f"chgnet{n}").get_potential_energy(oxide()) for n in ("", ":r2scan")}
    assert len(energies) == 2
    with pytest.raises(ConfigError, match="holds 0.3.0"):
        open_calculator("chgnet:0.9")
