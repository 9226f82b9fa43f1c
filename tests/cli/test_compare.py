"""Results beside one another: further models, earlier results, and reading results back with their types."""

import csv
import json
import subprocess
import sys

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from command_errors import fails

from nfflr.checkpoint import FILE, save_checkpoint
from nfflr.cli.main import run
from nfflr.errors import ConfigError
from nfflr.models.moment import MomentConfig, MomentNetwork
from nfflr.workflows import equation_of_state as eos
from nfflr.workflows import gruneisen_parameters as gruneisen
from nfflr.workflows import relaxation as relax
from nfflr.workflows import workflow_names
from nfflr.workflows.framework.contract import find_workflow
from nfflr.workflows.framework.results import file_fields, result_record
from nfflr.workflows.framework.saved_results import read_fields

NAMES = workflow_names()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two that know silicon and one that knows copper."""
    folder = tmp_path_factory.mktemp("models")
    paths = []
    for k, element in enumerate(("Si", "Si", "Cu")):
        with torch.random.fork_rng():
            torch.manual_seed(k)
            model = MomentNetwork(MomentConfig(elements=(element,), channels=4, hidden=4))
        paths.append(folder / str(k) / FILE)
        paths[-1].parent.mkdir()
        save_checkpoint(paths[-1], model)
    return paths


@pytest.fixture
def silicon(tmp_path):
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.05, seed=0)
    atoms.write(tmp_path / "si.xyz")
    return tmp_path / "si.xyz"


@pytest.fixture
def drawn(monkeypatch):
    """What the plot of relax was called with."""
    calls, real = [], relax.plot

    def plot(result, others={}, label=""):  # noqa: B006
        calls.append((result, others, label))
        return real(result, others, label)

    monkeypatch.setattr(relax, "plot", plot)
    return calls


def nff(*arguments):
    return run([str(a) for a in arguments])


def test_a_second_model_is_drawn_with_the_first_and_recorded(capsys, tmp_path, silicon, models, drawn):
    out = tmp_path / "out"
    options = ("-o", out, "--steps", "0", "--fmax", "100")
    assert nff("relax", silicon, "-m", models[0], "-m", models[1], *options) == 0
    (result, others, label) = drawn[0]
    assert label == str(models[0]) and list(others) == [str(models[1])]
    label = str(models[1])
    assert others[label].energy != result.energy
    record = json.loads((out / "si-relax.json").read_text())
    assert record["result"]["energy"] == result.energy
    compared = record["compared"][label]
    assert compared["result"]["energy"] == others[label].energy
    assert compared["calculator"]["digest"] != record["calculator"]["digest"]
    with open(out / "relax-summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["model"] for r in rows] == [str(m) for m in models[:2]]
    assert float(rows[1]["energy (eV)"]) == others[label].energy
    # alone, the second model gives the very same
    options = ("-o", tmp_path / "alone", "--steps", "0", "--fmax", "100")
    nff("relax", silicon, "-m", models[1], *options)
    alone = json.loads((tmp_path / "alone" / "si-relax.json").read_text())
    assert alone["result"] == compared["result"]


def test_a_model_that_cannot_be_compared_leaves_the_subjects_result(capsys, tmp_path, silicon, models, drawn):
    out = tmp_path / "out"
    options = ("-o", out, "--steps", "0", "--fmax", "100")
    assert nff("relax", silicon, "-m", models[0], "-m", models[2], *options) == 3
    error = capsys.readouterr().err
    assert str(silicon) in error and str(models[2]) in error and "Si" in error
    assert drawn[0][1] == {} and (out / "si-relax.json").exists()
    with open(out / "relax-summary.csv", newline="") as file:
        assert [r["exit code"] for r in csv.DictReader(file)] == ["0", "3"]


def test_an_earlier_result_is_drawn(tmp_path, silicon, models, drawn):
    options = ("--steps", "0", "--fmax", "100")
    assert nff("relax", silicon, "-m", models[1], "-o", tmp_path / "old", *options) == 0
    for k, source in enumerate((tmp_path / "old" / "si-relax.json", tmp_path / "old")):
        out = tmp_path / f"new{k}"
        assert nff("relax", silicon, "-m", models[0], "-o", out, "--compare", source, *options) == 0
        result, others, label = drawn[-1]
        assert label == str(models[0]) and list(others) == [str(models[1])]
        assert others[str(models[1])].energy == drawn[0][0].energy != result.energy
        record = json.loads((out / "si-relax.json").read_text())
        assert record["compared"][str(models[1])] == {"file": str(tmp_path / "old" / "si-relax.json")}
    assert (
        nff("relax", silicon, "-m", models[1], "-o", tmp_path / "x", "--compare", tmp_path / "old", *options)
        == 0
    )
    assert list(drawn[-1][1]) == [str(tmp_path / "old" / "si-relax.json")]  # one model, two results


def test_what_cannot_be_compared_is_refused_before_anything_is_computed(capsys, tmp_path, silicon, models):
    other = tmp_path / "other.json"
    start = ["relax", silicon, "-m", models[0], "-o", tmp_path / "out", "--compare"]
    fails(capsys, [*start, tmp_path / "no.json"], 2, "no.json", "No such file")
    other.write_text("{")
    fails(capsys, [*start, other], 2, "other.json", "not JSON")
    other.write_text("[]")
    fails(capsys, [*start, other], 2, "expected a JSON object", "the JSON of a result")
    other.write_text('{"workflow": "eos", "result": {}}')
    fails(capsys, [*start, other], 2, "holds eos", "nff relax")
    other.write_text('{"workflow": "relax", "result": {"converged": true}}')
    fails(capsys, [*start, other], 2, "missing or of the wrong type")
    other.write_text('{"workflow": "relax", "result": {}, "calculator": "x"}')
    fails(capsys, [*start, other], 2, "calculator: should be a valid dictionary")
    (tmp_path / "empty").mkdir()
    fails(capsys, [*start, tmp_path / "empty"], 2, "si-relax.json")
    assert not (tmp_path / "out" / "si-relax.json").exists()
    fails(capsys, ["relax", silicon, "-m", models[0], "-m", models[0]], 2, "--model", "twice")
    fails(capsys, ["energy", silicon, "--compare", other], 2, "--compare")
    fails(capsys, ["energy", silicon, "-m", models[0], "-m", models[1]], 2, "--model", "energy")


def test_a_result_is_read_back_with_its_types(tmp_path, silicon, models):
    bulk("Si", cubic=True, a=5.0).write(tmp_path / "crystal.xyz")
    nff("relax", silicon, "-m", models[0], "-o", tmp_path, "--steps", "2", "--cell", "--pressure", "1.5")
    workflow = find_workflow("relax")
    result, record = read_fields(tmp_path / "si-relax.json", workflow)
    assert isinstance(result, relax.RelaxResult)
    assert isinstance(result.energy_trace, np.ndarray) and result.energy_trace.shape == (3,)
    assert isinstance(result.energy, float) and isinstance(result.steps, int)
    assert result.cell.shape == (3, 3) and result.symbols == ["Si"] * 8
    expected = result.energy + 1.5 * ase.units.GPa * result.volume
    assert result.enthalpy == pytest.approx(expected, abs=1e-12)
    assert set(record["files"]) == {"json", "relaxed", "trajectory", "plot"}
    assert all((tmp_path / file).is_file() for file in record["files"].values())
    with pytest.raises(AttributeError):
        result.trajectory  # noqa: B018


def test_a_wrong_type_in_a_result_is_refused(tmp_path):
    found = eos.eos(bulk("Cu", a=3.6), EMT(), eos.EosSettings(points=5))
    values = json.loads(found.model_dump_json(exclude={"equilibrium"}))
    for name, wrong in (("volumes", [[1], [2, 3]]), ("volume", "large"), ("volumes", None)):
        path = tmp_path / "x-eos.json"
        path.write_text(json.dumps({"workflow": "eos", "result": {**values, name: wrong}}))
        with pytest.raises(ConfigError, match=name):
            read_fields(path, find_workflow("eos"))
    path.write_text(json.dumps({"workflow": "eos", "result": {**values, "volume": None}}))
    assert read_fields(path, find_workflow("eos"))[0].volume is None


def test_what_is_not_a_number_comes_back_from_json(tmp_path):
    # of NaN JSON has null: Grüneisen parameters hold it wherever a frequency is zero
    settings = gruneisen.GruneisenSettings(
        supercell=(2, 2, 2), mesh=(3, 3, 3), band_points=3, relax="none", t_step=500
    )
    found = gruneisen.gruneisen(bulk("Cu"), EMT(), settings)
    path = tmp_path / "x-gruneisen.json"
    path.write_text(json.dumps({"workflow": "gruneisen", **result_record(found)}))
    back, _ = read_fields(path, find_workflow("gruneisen"))
    for name in ("mean_gruneisen", "band_gruneisen", "mesh_gruneisen"):
        assert np.isnan(getattr(found, name)).any()
        assert np.array_equal(getattr(back, name), getattr(found, name), equal_nan=True)


# Every workflow there is keeps the contract


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_keeps_the_contract(capsys, name):
    workflow = find_workflow(name)
    assert workflow.settings() is not None  # every field has a default
    assert all(field.description for field in workflow.settings.model_fields.values())
    assert workflow.structures in (("atoms",), ("initial", "final"))
    assert {"converged", "message"} <= set(workflow.result.model_fields)
    assert set(file_fields(workflow.result)) <= set(workflow.result.model_fields)
    assert run([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"\n    nff {name} " in text[text.index("\n  Example") :] and "--model" in text
    assert ("--compare" in text) == workflow.overlays
    several = len(workflow.structures) == 1
    assert ("--jobs" in text) == several
    assert ("--resume" in text) == (workflow.archives or several)
    for field in workflow.settings.model_fields:
        assert f"--{field.replace('_', '-')}" in text


def test_help_lists_every_workflow_and_stays_light():
    code = (
        "import sys; from nfflr.cli.main import run; run(['--help']); "
        "print([m for m in ('torch', 'ase', 'numpy', 'scipy', 'pydantic') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip().endswith("[]")
    assert all(f"  {name} " in shown for name in NAMES)
