"""``nff check`` as typed: bundled models, any ASE calculator, files, exit codes, refusals."""

import json
import sys
from pathlib import Path

import click
import pytest
from ase.build import bulk

from nfflr.cli.main import run

TESTS = Path(__file__).parents[1]
EMT = "ase:ase.calculators.emt:EMT"


@pytest.fixture
def importable(monkeypatch):
    """Calculators of the tests by module name."""
    monkeypatch.syspath_prepend(str(TESTS / "validation"))
    yield
    sys.modules.pop("planted", None)


@pytest.fixture
def copper(tmp_path):
    bulk("Cu", cubic=True).write(tmp_path / "cu.cif")
    return str(tmp_path / "cu.cif")


@pytest.mark.parametrize(
    "model", ["mlearn-si-fast", pytest.param("mlearn-si-alignn", marks=pytest.mark.slow)]
)
def test_bundled_models_pass_in_both_precisions(capsys, tmp_path, model):
    assert run(["check", "--model", model, "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "closed loops" in shown and "fail" not in shown
    record = json.loads((tmp_path / f"{model}-check.json").read_text())
    assert record["passed"] and record["calculator"]["dtypes"] == ["float64", "float32"]
    status = {row["name"]: row["status"] for row in record["checks"]}
    assert status["NVE drift, float32"] == status["float32 energy"] == status["batch = single"] == "pass"
    assert (tmp_path / f"{model}-check.png").stat().st_size > 10_000


def test_float32_alone_passes_with_its_own_limits(tmp_path):
    assert run(["check", "--model", "mlearn-si-fast", "--dtype", "float32", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "mlearn-si-fast-check.json").read_text())
    limits = {row["name"]: row["limit"] for row in record["checks"]}
    assert limits["forces = -dE/dx"] == 1e-3


def test_any_calculator_on_a_structure(capsys, tmp_path, copper):
    assert run(["check", "--model", EMT, copper, "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "emt-check.json").read_text())
    assert record["elements"] == ["Cu"] and record["structures"] == [copper]


def test_a_failure_exits_with_5_and_writes_all_the_same(capsys, tmp_path, importable):
    arguments = ["ase:planted:WrongStressSign", "--elements", "Cu", "--cutoff", "5"]
    assert run(["check", "--model", *arguments, "--out", str(tmp_path)]) == 5
    shown = capsys.readouterr()
    assert "the sign is wrong" in " ".join(shown.out.split())
    assert shown.err.strip() == "error: ase:planted:WrongStressSign: failed stress = dE/dε / V"
    assert not json.loads((tmp_path / "wrongstresssign-check.json").read_text())["passed"]
    assert (tmp_path / "wrongstresssign-check.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "--model: requires a value"),
        (["mlearn-si-fast", "--calculator", EMT], "no such option"),
        (["mlearn-si-fast", "--cutoff", "5"], "--cutoff"),
        (["mlearn-si-fast", "--elements", "Cu"], "Cu is not covered"),
        (["mlearn-no"], "no such checkpoint"),
        ([EMT], "give --elements"),
        ([EMT, "--elements", "Xy"], "no element"),
        (["ase:emt"], "module:Class"),
        (["ase:ase.calculators.emt:EMTT"], "EMTT"),
        (["ase:no.such.module:EMT"], "PYTHONPATH"),
        ([EMT + ":{bad", "--elements", "Cu"], "not JSON"),
        (["ase:ase.build:bulk:{}", "--elements", "Cu"], "check the arguments"),
        (['ase:ase.build:bulk:{"name": "Cu"}', "--elements", "Cu"], "an ASE calculator"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(capsys, tmp_path, arguments, told):
    assert run(["check", "--out", str(tmp_path), "--model", *arguments]) == 2
    line = capsys.readouterr().err.strip()
    assert told in line and "\n" not in line
    assert list(tmp_path.iterdir()) == []


def test_results_are_not_replaced_unasked(capsys, tmp_path):
    (tmp_path / "mlearn-si-fast-check.json").write_text("{}")
    assert run(["check", "--model", "mlearn-si-fast", "--out", str(tmp_path)]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_a_potential_of_one_molecule_is_checked_on_it(tmp_path, capsys):
    assert run(["check", "--model", "ethanol", "--dtype", "float64", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "ethanol-check.json").read_text())
    rows = {row["name"]: row for row in record["checks"]}
    assert "9 atoms" in rows["energy resolution, float64"]["message"]
    assert rows["supercells 2x2x2, 3x1x1"]["status"] == "skip"
    assert "continuous" in capsys.readouterr().out


def test_the_table_fits_into_80_columns(capsys, monkeypatch):
    from nfflr.cli import check
    from nfflr.validation.samples import CheckResult

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(check.sys.stdout, "isatty", lambda: True, raising=False)
    long = "a note [with brackets] that goes on for longer than a line of eighty columns has room for"
    rows = [
        CheckResult("translation by lattice vectors", False, 1.2345e-11, "meV/atom/ps", 1e-8, long),
        CheckResult("free atoms", True),
    ]
    check._print(rows, "model on Si")
    lines = click.unstyle(capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 80
    assert " ".join(" ".join(lines[2:4]).split()) == long
