"""``nff phonons``, ``qha`` and ``gruneisen``: files, options of three and nine numbers, errors in a line."""

import json

import phonopy
import pytest
from ase.build import bulk

from nfflr.cli.main import run

QUICK = ["--mesh", "3", "3", "3", "--t-step", "100"]


@pytest.fixture
def silicon(tmp_path):
    path = tmp_path / "si.cif"
    bulk("Si", a=5.47).write(path)
    return path


def test_phonons_writes_json_with_units_a_figure_and_what_phonopy_loads(silicon, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["phonons", silicon, "-m", "mlearn-si-fast", "-o", out, "--supercell", "2", "2", "2", *QUICK]
    assert run([str(a) for a in [*arguments, "--band-points", "5"]]) == 0
    shown = capsys.readouterr().out
    assert "dynamically stable" in shown and "highest frequency" in shown and "THz" in shown
    assert sorted(p.name for p in out.iterdir()) == ["si-phonons.json", "si-phonons.png", "si-phonons.yaml"]
    record = json.loads((out / "si-phonons.json").read_text())
    assert record["units"]["band_frequencies"] == "THz" and record["units"]["free_energy"] == "eV/cell"
    assert record["settings"]["supercell"] == [2, 2, 2] and record["settings"]["mesh"] == [3, 3, 3]
    assert record["result"]["stable"] is True and "phonopy" not in record["result"]
    phonon = phonopy.load(out / "si-phonons.yaml")
    assert phonon.run_qpoints([[0, 0, 0]]).frequencies[0, -1] == pytest.approx(
        record["result"]["highest_frequency"], abs=1e-3
    )


def test_an_unstable_structure_exits_with_0_and_writes_the_way_down(tmp_path):
    # Silicon on an fcc lattice: the model has no doubt about it.
    path = tmp_path / "fcc.cif"
    bulk("Si", "fcc", a=3.9).write(path)
    arguments = ["phonons", path, "-o", tmp_path, "--relax", "none", "--supercell", "2", "2", "2", *QUICK]
    assert run([str(a) for a in [*arguments, "--band-points", "3"]]) == 0
    record = json.loads((tmp_path / "fcc-phonons.json").read_text())
    assert record["result"]["stable"] is False and record["result"]["lowest_frequency"] < 0
    assert (tmp_path / "fcc-modulated.cif").exists()


def test_a_supercell_matrix_comes_as_nine_numbers_or_as_rows_of_a_file(silicon, tmp_path):
    nine = ["-1", "1", "1", "1", "-1", "1", "1", "1", "-1"]
    common = [silicon, "-m", "mlearn-si-fast", "--relax", "none", "--band-points", "3", *QUICK]
    arguments = ["phonons", *common, "-o", tmp_path / "a", "--supercell-matrix", *nine]
    assert run([str(a) for a in arguments]) == 0
    (tmp_path / "s.yaml").write_text("supercell_matrix: [[-1, 1, 1], [1, -1, 1], [1, 1, -1]]\n")
    assert (
        run([str(a) for a in ["phonons", *common, "-o", tmp_path / "b", "--config", tmp_path / "s.yaml"]])
        == 0
    )
    results = [json.loads((tmp_path / n / "si-phonons.json").read_text())["result"] for n in "ab"]
    assert results[0] == results[1] and results[0]["supercell_matrix"][0] == [-1, 1, 1]


def test_qha_and_gruneisen_write_their_files(silicon, tmp_path):
    common = [
        silicon,
        "-m",
        "mlearn-si-fast",
        "-o",
        tmp_path,
        "--supercell",
        "1",
        "1",
        "1",
        *QUICK,
        "--t-max",
        "300",
    ]
    assert run([str(a) for a in ["qha", *common, "--volumes", "5"]]) in (0, 5)
    record = json.loads((tmp_path / "si-qha.json").read_text())
    assert record["units"]["thermal_expansion"] == "1/K" and len(record["result"]["volume"]) == 4
    assert run([str(a) for a in ["gruneisen", *common, "--band-points", "3"]]) == 0
    record = json.loads((tmp_path / "si-gruneisen.json").read_text())
    assert record["result"]["band_gruneisen"][0][:3] == [None] * 3
    assert (tmp_path / "si-qha.png").exists() and (tmp_path / "si-gruneisen.png").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--supercell", "2", "0", "2"], "--supercell: should be greater than 0, got 0"),
        (["--supercell-matrix", *"100010002"[:8], "-2"], "--supercell-matrix: needs a positive determinant"),
        (["--supercell", *"222", "--supercell-matrix", *"200020002"], "exclude each other"),
        (["--born", "nowhere"], "nowhere: cannot be read"),
        (["--t-max", "0"], "--t-max"),
        (["--relax", "maybe"], "maybe"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_wrong_options_are_refused_in_a_line(silicon, tmp_path, capsys, options, says):
    out = tmp_path / "out"
    given = (
        ["phonons", silicon, "-m", "mlearn-si-fast", "-o", out, "--relax", "none"]
        if "--relax" not in options
        else ["phonons", silicon, "-m", "mlearn-si-fast", "-o", out]
    )
    assert run([str(a) for a in [*given, *options]]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1
    assert not out.exists() or not list(out.iterdir())
