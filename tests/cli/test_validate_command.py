"""``nff validate`` as typed: table, JSON, figure, exit codes, and references made by other commands."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase.build import bulk
from PIL import Image

from nfflr.calculator import NFFLrCalculator
from nfflr.cli.main import run
from nfflr.validation.reading import read_suite

PHONONS = {"supercell": [2, 2, 2], "mesh": [3, 3, 3], "band_points": 5, "t_step": 100, "relax": "positions"}


def nff(*arguments):
    return run([str(a) for a in arguments])


@pytest.fixture
def folder(tmp_path):
    """Lattice and equation of state of silicon, by hand."""
    place = tmp_path / "suite"
    place.mkdir()
    bulk("Si", a=5.45, cubic=True).write(place / "si.vasp")
    (place / "volume.json").write_text(
        json.dumps({"workflow": "relax", "result": {"volume": 163.55}, "units": {"volume": "Å^3"}})
    )
    (place / "eos.json").write_text(json.dumps({"workflow": "eos", "result": {"bulk_modulus": 88.4}}))
    lattice = {"name": "lattice", "workflow": "relax", "reference": "volume.json"}
    lattice |= {"settings": {"cell": True}, "limits": {"volume_error": 2}}
    write(place, [lattice, {"name": "curve", "workflow": "eos", "reference": "eos.json"}])
    return place


def write(place, tasks):
    tasks = [{"structure": "si.vasp", **task} for task in tasks]
    (place / "suite.yaml").write_text(yaml.safe_dump({"tasks": tasks}))


def tasks_of(place):
    return yaml.safe_load((place / "suite.yaml").read_text())["tasks"]


def test_files_hold_exactly_what_python_gives(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert nff("validate", "--model", "mlearn-si-fast", folder, "-o", out) == 0
    shown = capsys.readouterr().out
    assert "coverage 2/2 tasks; 0 of 1 limits exceeded" in shown and "bulk_modulus_error" in shown
    record = json.loads((out / "mlearn-si-fast-validate.json").read_text())
    expected = read_suite(folder).run(NFFLrCalculator.load("mlearn-si-fast"))
    found = {f"{n}/{s}": v for n, t in record["tasks"].items() for s, v in t["scores"].items()}
    scores = expected.scores()
    assert found and found.items() <= scores.items()  # to the last bit
    assert scores.keys() - found.keys() == {"lattice/failed", "curve/failed", "coverage", "skipped"}
    assert record["coverage"] == 1 and record["passed"] is True
    assert record["tasks"]["lattice"]["limits"] == {"volume_error": 2}
    assert record["tasks"]["curve"]["units"] == {"bulk_modulus_error": "GPa"}
    assert record["checkpoint"]["digest"] and record["command"].startswith(
        "nff validate --model mlearn-si-fast"
    )
    with Image.open(out / "mlearn-si-fast-validate.png") as image:
        assert (
            image.format == "PNG"
            and image.width > 800
            and len(np.unique(np.asarray(image.convert("L")))) > 50
        )


def test_one_task_can_be_run_alone(folder, tmp_path):
    assert nff("validate", "--model", "mlearn-si-fast", folder, "--task", "curve", "-o", tmp_path) == 0
    record = json.loads((tmp_path / "mlearn-si-fast-validate.json").read_text())
    assert list(record["tasks"]) == ["curve"]


def test_a_limit_that_is_exceeded_is_exit_code_5_and_leaves_the_files(folder, tmp_path, capsys):
    lattice, curve = tasks_of(folder)
    write(folder, [{**lattice, "limits": {"volume_error": 1e-6}}, curve])
    assert nff("validate", "--model", "mlearn-si-fast", folder, "-o", tmp_path) == 5
    shown = capsys.readouterr().out
    assert "over" in shown and "1 of 1 limits exceeded" in shown
    record = json.loads((tmp_path / "mlearn-si-fast-validate.json").read_text())
    assert record["tasks"]["lattice"]["exceeded"] == ["volume_error"] and record["passed"] is False
    assert (tmp_path / "mlearn-si-fast-validate.png").exists()


def test_a_failed_task_is_exit_code_5_and_null_in_the_file(folder, tmp_path, capsys):
    lattice, curve = tasks_of(folder)
    stuck = {**lattice, "settings": {"cell": True, "steps": 1}}
    write(folder, [stuck, curve])
    bulk("Cu", a=3.6).write(folder / "cu.vasp")
    write(folder, [stuck, curve, {**curve, "name": "copper", "structure": "cu.vasp"}])
    assert nff("validate", "--model", "mlearn-si-fast", folder, "-o", tmp_path) == 5
    shown = capsys.readouterr().out
    assert "coverage 1/3 tasks" in shown and "lattice failed: " in shown and "raise --steps" in shown
    assert "copper failed: " in shown and "Traceback" not in shown
    text = (tmp_path / "mlearn-si-fast-validate.json").read_text()
    assert "Infinity" not in text and "NaN" not in text
    record = json.loads(text)
    assert record["tasks"]["lattice"]["scores"] == {"volume_error": None}
    assert record["tasks"]["curve"]["status"] == "scored" and record["coverage"] == pytest.approx(1 / 3)
    expected = read_suite(folder).run(NFFLrCalculator.load("mlearn-si-fast")).scores()
    assert expected["lattice/volume_error"] == expected["copper/bulk_modulus_error"] == math.inf


def test_a_reference_is_what_a_workflow_wrote(folder, tmp_path):
    """``nff phonons si.vasp --out ref`` makes a reference; its own model has no error."""
    config = tmp_path / "phonons.yaml"
    config.write_text(yaml.safe_dump(PHONONS))
    made = tmp_path / "ref"
    options = ("--model", "mlearn-si-fast", "--no-compile", "--out", made, "--config", config)
    assert nff("phonons", folder / "si.vasp", *options) == 0
    reference = str(made / "si-phonons.json")
    task = {"name": "bands", "workflow": "phonons", "settings": PHONONS, "reference": reference}
    write(folder, [{**task, "limits": {"frequency_max": 0}}])
    assert nff("validate", "--model", "mlearn-si-fast", folder, "-o", tmp_path) == 0
    record = json.loads((tmp_path / "mlearn-si-fast-validate.json").read_text())["tasks"]["bands"]
    names = ("frequency_mae", "frequency_max", "zero_point_energy_error")
    assert record["scores"] == dict.fromkeys(names, 0.0)
    assert record["reference"].startswith("nff phonons")
    out = tmp_path / "other"
    assert nff("validate", "--model", "mlearn-si-alignn", folder, "-o", out) == 5
    record = json.loads((out / "mlearn-si-alignn-validate.json").read_text())["tasks"]["bands"]
    assert record["scores"]["frequency_max"] > record["scores"]["frequency_mae"] > 0.05


def fails(capsys, *arguments):
    code = nff("validate", "--model", *arguments)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("error: ") and "Traceback" not in error
    return code, error


def test_what_is_wrong_is_one_line_and_leaves_no_file(folder, tmp_path, capsys):
    out = tmp_path / "out"
    code, error = fails(capsys, "mlearn-si-fast", folder, "--task", "latice", "-o", out)
    assert code == 2 and "has no task 'latice'; did you mean 'lattice'?" in error
    code, error = fails(capsys, "mlearn-si-fast", tmp_path, "-o", out)
    assert code == 2 and "has no suite.yaml" in error
    (folder / "si.vasp").unlink()
    code, error = fails(capsys, "mlearn-si-fast", folder, "-o", out)
    assert code == 3 and "suite.yaml: task lattice: " in error and "si.vasp: no such file" in error
    assert not out.exists()


def test_a_bundled_calculator_brings_its_suite(tmp_path, capsys, monkeypatch):
    folders = {p.name: p for p in (Path(__file__).parents[2] / "calculators").iterdir()}
    monkeypatch.setattr("nfflr.checkpoint_files.bundled_calculators", lambda: folders)
    assert nff("validate", "--model", "mlearn-si", "--task", "lattice", "-o", tmp_path) == 0
    assert "length_mae" in capsys.readouterr().out
    code, error = fails(capsys, "mlearn-si-alignn", "-o", tmp_path)
    assert code == 2 and "brings no suite; give the folder of one (bundled: acac, " in error


def test_results_are_not_replaced_unasked(folder, tmp_path, capsys):
    kept = tmp_path / "mlearn-si-fast-validate.json"
    kept.write_text("mine")
    code, error = fails(capsys, "mlearn-si-fast", folder, "-o", tmp_path)
    assert code == 2 and "--overwrite" in error and kept.read_text() == "mine"
    assert (
        nff("validate", "--model", "mlearn-si-fast", folder, "--task", "curve", "-o", tmp_path, "--overwrite")
        == 0
    )
    assert json.loads(kept.read_text())["coverage"] == 1


def test_a_checkpoint_that_is_not_there_is_exit_code_2_or_4(folder, tmp_path, capsys):
    code, error = fails(capsys, "mlearn-so", folder, "-o", tmp_path)
    assert code in (2, 4) and "mlearn-so" in error
