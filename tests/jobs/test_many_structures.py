"""Several structures, folders and patterns: each its own result, one table, failures that stay their own."""

import csv
import json
import shutil

import pytest
from ase.build import bulk
from command_errors import fails
from small_checkpoint import save_silicon

from nfflr.cli.main import run
from nfflr.errors import ConfigError
from nfflr.jobs.plan import find_structures, result_stems
from nfflr.storage.files import stem


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_silicon(tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(tmp_path):
    """Three structures, one of which the model does not know, and files that are none."""
    inside = tmp_path / "in"
    inside.mkdir()
    bulk("Si").write(inside / "a.cif")
    bulk("Cu").write(inside / "b.xyz")
    bulk("Si", cubic=True).write(inside / "c.vasp")
    (inside / "notes.txt").write_text("not a structure")
    (inside / ".hidden.xyz").write_text("neither")
    (inside / "a-relax.json").write_text("{}")
    return inside


def nff(*arguments):
    return run([str(a) for a in arguments])


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_one_failure_does_not_stop_the_others(capsys, folder, checkpoint):
    out = folder.parent / "out"
    assert nff("energy", folder, "-m", checkpoint, "-o", out) == 3
    captured = capsys.readouterr()
    assert captured.err.count("error: ") == 1 and str(folder / "b.xyz") in captured.err
    assert sorted(p.name for p in out.iterdir()) == ["a-energy.json", "c-energy.json", "energy-summary.csv"]
    rows = table(out / "energy-summary.csv")
    assert [r["structure"] for r in rows] == [str(folder / n) for n in ("a.cif", "b.xyz", "c.vasp")]
    assert [r["converged"] for r in rows] == ["true", "false", "true"]
    assert [r["exit code"] for r in rows] == ["0", "3", "0"]
    assert "Cu" in rows[1]["message"] and rows[1]["energy (eV)"] == ""
    record = json.loads((out / "c-energy.json").read_text())
    assert float(rows[2]["energy (eV)"]) == record["result"]["energy"]
    assert rows[2]["formula"] == "Si8"


def test_a_structure_gives_the_same_result_alone_and_among_others(folder, checkpoint):
    nff("relax", folder, "-m", checkpoint, "-o", folder.parent / "many", "--steps", "2")
    nff("relax", folder / "c.vasp", "-m", checkpoint, "-o", folder.parent / "one", "--steps", "2")
    many, one = (
        json.loads((folder.parent / n / "c-relax.json").read_text())["result"] for n in ("many", "one")
    )
    assert many == one
    assert not (folder.parent / "one" / "relax-summary.csv").exists()


def test_exit_code_is_the_largest_of_the_failures(capsys, folder, checkpoint):
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=0)
    atoms.write(folder / "d.xyz")
    out = folder.parent / "out"
    code = nff("relax", folder, "-m", checkpoint, "-o", out, "--steps", "1", "--fmax", "1e-12")
    assert code == 5
    rows = table(out / "relax-summary.csv")
    assert rows[-1]["exit code"] == "5" and "after 1 steps" in rows[-1]["message"]
    assert float(rows[-1]["fmax (eV/Å)"]) > 1e-12 and rows[1]["exit code"] == "3"
    (folder / "b.xyz").unlink()
    assert nff("energy", folder, "-m", checkpoint, "-o", out) == 0


def test_where_all_fail_nothing_is_left(folder, checkpoint):
    for name in ("a.cif", "c.vasp"):
        (folder / name).write_text("damaged")
    out = folder.parent / "out"
    assert nff("energy", folder, "-m", checkpoint, "-o", out) == 3
    assert not out.exists()


def test_patterns_are_expanded_and_files_named_twice_count_once(folder, checkpoint):
    out = folder.parent / "out"
    arguments = ["energy", folder / "[ac].*", folder / "a.cif", "-m", checkpoint, "-o", out]
    assert nff(*arguments) == 0
    assert len(table(out / "energy-summary.csv")) == 2
    assert find_structures([str(folder / "*.cif")]) == [folder / "a.cif"]


@pytest.mark.parametrize("what", ["*.res", "empty"])
def test_a_pattern_or_folder_without_structures_is_refused(capsys, folder, checkpoint, what):
    (folder / "empty").mkdir()
    fails(capsys, ["energy", folder / what, "-m", checkpoint, "-o", folder / "out"], 2, what)
    assert not (folder / "out").exists()


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(folder, checkpoint):
    shutil.copy(folder / "a.cif", folder / "x[1].cif")
    assert find_structures([str(folder / "x[1].cif")]) == [folder / "x[1].cif"]


def test_results_of_files_of_one_name_are_kept_apart_by_folder(folder, checkpoint):
    for name in ("one", "two"):
        (folder / name).mkdir()
        bulk("Si", a=5.4 if name == "one" else 5.5).write(folder / name / "POSCAR", format="vasp")
    out = folder.parent / "out"
    assert nff("energy", folder / "*" / "POSCAR", "-m", checkpoint, "-o", out) == 0
    volumes = [
        json.loads((out / f"{n}-POSCAR-energy.json").read_text())["result"]["volume"] for n in ("one", "two")
    ]
    assert volumes == pytest.approx([5.4**3 / 4, 5.5**3 / 4], rel=1e-6)


def test_one_stem_twice_in_a_folder_gives_the_whole_name(folder, checkpoint):
    shutil.copy(folder / "a.cif", folder / "c.cif")
    out = folder / "out"
    assert nff("energy", folder / "c.cif", folder / "c.vasp", "-m", checkpoint, "-o", out) == 0
    assert {"c-cif-energy.json", "c-vasp-energy.json"} <= {p.name for p in out.iterdir()}


def test_stems(tmp_path):
    paths = [tmp_path / p for p in ("x/y/si.cif", "z/y/si.cif", "si.xyz.gz", "other.vasp")]
    assert result_stems(paths) == ["x-y-si", "z-y-si", f"{tmp_path.name}-si", "other"]
    assert [stem(p) for p in (tmp_path / "a.b.xyz.xz", tmp_path / "POSCAR", tmp_path / "si.cif.bz2")] == [
        "a.b",
        "POSCAR",
        "si",
    ]
    assert result_stems([tmp_path / "POSCAR.a", tmp_path / "POSCAR.b"]) == ["POSCAR-a", "POSCAR-b"]
    assert result_stems([tmp_path / "si.cif", tmp_path / "si.xyz"]) == ["si-cif", "si-xyz"]
    with pytest.raises(ConfigError, match="rename"):
        result_stems([tmp_path / "a.b.cif", tmp_path / "a.b.xyz", tmp_path / "a-b-cif"])


def test_an_input_is_never_replaced(capsys, folder, checkpoint):
    shutil.copy(folder / "a.cif", folder / "a-relaxed.cif")
    before = (folder / "a-relaxed.cif").read_bytes()
    arguments = ["relax", folder / "a.cif", folder / "a-relaxed.cif", "-m", checkpoint, "-o", folder]
    assert nff(*arguments, "--overwrite", "--steps", "0") >= 2
    assert "is an input" in capsys.readouterr().err
    assert (folder / "a-relaxed.cif").read_bytes() == before


def test_a_table_that_exists_is_not_replaced_unasked(capsys, folder, checkpoint):
    (folder / "b.xyz").unlink()
    arguments = ["energy", folder, "-m", checkpoint, "-o", folder.parent / "out"]
    assert nff(*arguments) == 0
    fails(capsys, arguments, 2, "energy-summary.csv", "--overwrite")
    assert nff(*arguments, "--overwrite") == 0


def test_an_internal_error_of_one_structure_is_reported_and_the_others_go_on(
    capsys, folder, checkpoint, monkeypatch
):
    from nfflr.structures import readers

    real = readers.read_structure

    def broken(path):
        if path.name == "b.xyz":
            raise KeyError("a defect")
        return real(path)

    monkeypatch.setattr(readers, "read_structure", broken)
    out = folder.parent / "out"
    assert nff("energy", folder, "-m", checkpoint, "-o", out) == 1
    assert "internal: KeyError" in capsys.readouterr().err
    assert (out / "c-energy.json").exists()


def test_an_interrupt_stops_everything(folder, checkpoint, monkeypatch):
    from nfflr.structures import readers

    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(readers, "read_structure", interrupted)
    assert nff("energy", folder, "-m", checkpoint, "-o", folder.parent / "out") == 130


def test_neb_takes_two_structures(folder, checkpoint):
    for k, x in enumerate((0.0, 0.6)):
        atoms = bulk("Si", cubic=True).repeat((2, 1, 1))
        del atoms[0]
        atoms.positions[0, 0] += x
        atoms.write(folder / f"{'initial' if k == 0 else 'final'}.xyz")
    ends = (folder / "initial.xyz", folder / "final.xyz")
    out = folder.parent / "out"
    options = ("-m", checkpoint, "-o", out, "--images", "1", "--steps", "1", "--no-relax")
    assert nff("neb", *ends, *options) in (0, 5)
    record = json.loads((out / "initial-neb.json").read_text())
    assert record["structure"] == f"{ends[0]}, {ends[1]}"
    assert record["files"]["path"] == "initial-neb.traj"
    assert {p.name for p in out.iterdir()} == set(record["files"].values())


def test_neb_without_the_second_is_refused(capsys, folder):
    fails(capsys, ["neb", folder / "a.cif"], 2, "FINAL")
