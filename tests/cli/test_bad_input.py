"""Bad input gives one clear line on stderr, the right exit code, and no files."""

from pathlib import Path

import pytest
from ase.build import bulk, molecule
from command_errors import fails
from small_checkpoint import save_silicon

from nfflr.checkpoint import FILE
from nfflr.cli.main import run


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_silicon(tmp_path_factory.mktemp("model"))


@pytest.fixture
def silicon(tmp_path):
    path = tmp_path / "si.xyz"
    bulk("Si").write(path)
    return path


def test_missing_structure(capsys, tmp_path, checkpoint):
    out = tmp_path / "out"
    fails(capsys, ["relax", tmp_path / "no.cif", "-m", checkpoint, "-o", out], 2, "no.cif", "no such file")
    assert not out.exists()


def test_element_the_model_does_not_know(capsys, tmp_path, checkpoint):
    path = tmp_path / "gaas.cif"
    bulk("GaAs", "zincblende", a=5.65).write(path)
    fails(capsys, ["relax", path, "-m", checkpoint, "-o", tmp_path / "out"], 3, path, "As, Ga", "Si")
    assert not (tmp_path / "out").exists()


def test_element_without_bundled_calculator(capsys, tmp_path):
    path = tmp_path / "water.xyz"
    molecule("H2O").write(path)
    fails(capsys, ["relax", path, "-o", tmp_path / "out"], 3, path, "H, O", "--model")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("coordinate", ["nan", "inf"])
def test_position_that_is_not_finite(capsys, tmp_path, checkpoint, coordinate):
    path = tmp_path / "bad.xyz"
    path.write_text(f'2\nLattice="5 0 0 0 5 0 0 0 5"\nSi 0 0 0\nSi 1 {coordinate} 0\n')
    fails(capsys, ["relax", path, "-m", checkpoint, "-o", tmp_path / "out"], 3, path, "atom 1")
    assert not (tmp_path / "out").exists()


def test_empty_structure(capsys, tmp_path, checkpoint):
    path = tmp_path / "empty.xyz"
    path.write_text("0\n\n")
    fails(capsys, ["relax", path, "-m", checkpoint, "-o", tmp_path / "out"], 3, path)
    assert not (tmp_path / "out").exists()


def test_coincident_atoms_are_named(capsys, tmp_path, checkpoint):
    path = tmp_path / "twins.xyz"
    path.write_text('2\nLattice="9 0 0 0 9 0 0 0 9"\nSi 1 1 1\nSi 1 1 1\n')
    fails(capsys, ["relax", path, "-m", checkpoint, "-o", tmp_path / "out"], 3, path, "0 and 1", "coincide")
    assert not list((tmp_path / "out").glob("*"))


def test_truncated_structure_file(capsys, tmp_path, silicon, checkpoint):
    silicon.write_text(silicon.read_text()[:-20])
    fails(capsys, ["relax", silicon, "-m", checkpoint, "-o", tmp_path / "out"], 3, silicon, "frame 0")


def test_corrupt_checkpoint(capsys, tmp_path, silicon, checkpoint):
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = tmp_path / FILE
    damaged.write_bytes(content)
    fails(capsys, ["relax", silicon, "-m", damaged, "-o", tmp_path / "out"], 4, damaged, "damaged")
    fails(capsys, ["info", damaged], 4, damaged)
    assert not (tmp_path / "out").exists()


def test_missing_checkpoint_suggests_the_nearest_name(capsys, silicon, tmp_path):
    fails(capsys, ["relax", silicon, "-m", "mlearn-sj", "-o", tmp_path], 2, "mlearn-sj", "mlearn-si")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["relaxx", "x.cif"], ["relaxx", "did you mean 'relax'"]),
        (["relax", "x.cif", "--fmaxx", "1"], ["--fmaxx", "did you mean '--fmax'"]),
        (["relax", "x.cif", "--fmax", "-1"], ["--fmax", "greater than 0"]),
        (["relax", "x.cif", "--steps", "many"], ["--steps", "many"]),
        (["relax", "x.cif", "--optimizer", "newton"], ["--optimizer", "newton"]),
        (["relax"], ["STRUCTURE"]),
        (["relax", "x.cif", "--config", "no.yaml"], ["no.yaml"]),
        (["train", "no.py"], ["no.py"]),
        (["train"], ["CONFIG"]),
    ],
)
def test_misspelt_or_wrong_flags(capsys, arguments, words):
    fails(capsys, arguments, 2, *words)


def test_misspelt_key_in_a_settings_file(capsys, tmp_path, silicon, checkpoint):
    settings = tmp_path / "settings.yaml"
    settings.write_text("fmaxx: 0.1\n")
    fails(
        capsys, ["relax", silicon, "-m", checkpoint, "--config", settings], 2, "fmaxx", "did you mean 'fmax'"
    )


def test_misspelt_key_in_a_training_config(capsys, tmp_path):
    config = tmp_path / "config.py"
    config.write_text("learning_rat = 0.1\n")
    fails(capsys, ["train", config], 2, config, "learning_rat", "did you mean 'learning_rate'")


def test_training_config_that_raises_names_its_line(capsys, tmp_path):
    config = tmp_path / "config.py"
    config.write_text("epochs = 3\nbatch_size = 1 / 0\n")
    fails(capsys, ["train", config], 2, config, "line 2", "ZeroDivisionError")


@pytest.mark.parametrize("inside", ["file", "/proc/nfflr"])
def test_unwritable_output_folder_is_refused_before_computing(capsys, tmp_path, silicon, checkpoint, inside):
    folder = Path("/proc/nfflr") if inside.startswith("/") else tmp_path / "file" / "out"
    (tmp_path / "file").write_text("not a folder")
    before = sorted(tmp_path.iterdir())
    fails(capsys, ["relax", silicon, "-m", checkpoint, "-o", folder, "--steps", "1"], 6, folder)
    assert sorted(tmp_path.iterdir()) == before


def test_existing_results_are_not_replaced_unasked(capsys, tmp_path, silicon, checkpoint):
    kept = tmp_path / "si-relax.json"
    kept.write_text("kept")
    fails(capsys, ["relax", silicon, "-m", checkpoint, "-o", tmp_path], 2, kept, "--overwrite")
    assert kept.read_text() == "kept"
    run(["relax", str(silicon), "-m", str(checkpoint), "-o", str(tmp_path), "--overwrite", "--steps", "0"])
    assert kept.read_text() != "kept"


def test_gpu_that_is_not_there(capsys, tmp_path, silicon, checkpoint, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    fails(capsys, ["relax", silicon, "-m", checkpoint, "-o", tmp_path, "--device", "cuda"], 2, "cuda", "cpu")


def test_relaxation_that_does_not_converge_exits_5_and_writes_the_last_frame(
    capsys, tmp_path, silicon, checkpoint
):
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.write(silicon)
    arguments = ["relax", silicon, "-m", checkpoint, "-o", tmp_path, "--steps", "1", "--fmax", "1e-9"]
    fails(capsys, arguments, 5, silicon, "after 1 steps")
    assert '"converged": false' in (tmp_path / "si-relax.json").read_text()
    assert (tmp_path / "si-relaxed.xyz").stat().st_size


def test_debug_shows_the_traceback(capsys, tmp_path):
    assert run(["relax", str(tmp_path / "no.cif"), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_evaluate_refuses_damaged_data(capsys, tmp_path, checkpoint):
    data = tmp_path / "data.xyz"
    data.write_text('2\nLattice="5 0 0 0 5 0 0 0 5" Properties=species:S:1:pos:R:3 energy=1\nSi 0 0 0\n')
    fails(capsys, ["evaluate", "--model", checkpoint, data, "-o", tmp_path / "out"], 3, data, "frame 0")
    assert not (tmp_path / "out").exists()
