"""A file in the wrong place: the message says what was given and what to do with it."""

import ase.io
import pytest
import torch
from ase.build import bulk
from builders import copper

from nfflr.checkpoint import FILE, find_checkpoint, load_checkpoint, save_checkpoint
from nfflr.cli.main import run
from nfflr.errors import ConfigError
from nfflr.models.moment import MomentConfig, MomentNetwork
from nfflr.structures.kinds import kind_of

CONFIG = "epochs = 3\n"
RESULT = '{"command": "nff relax cu.cif", "result": {}, "versions": {}}'


@pytest.fixture(scope="module")
def model():
    return MomentNetwork(MomentConfig(elements=("Cu",), channels=4, hidden=4))


@pytest.fixture
def place(tmp_path, monkeypatch, model):
    """A folder with one file of each kind."""
    monkeypatch.chdir(tmp_path)
    ase.io.write("data.xyz", copper(3))
    ase.io.write("data.db", copper(3))
    ase.io.write("data.traj", copper(3))
    ase.io.write("data.xyz.xz", copper(3))
    bulk("Cu").write("cu.cif")
    bulk("Cu").write("POSCAR", format="vasp")
    for name, text in {"config.py": CONFIG, "settings.yaml": "fmax: 0.1\n", "old.json": RESULT}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "figure.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    torch.save({}, "theirs.pt")
    save_checkpoint(tmp_path / FILE, model)
    return tmp_path


def told(capsys, line: str, code: int = 2) -> str:
    assert run(line.split()) == code
    (message,) = capsys.readouterr().err.splitlines()
    return message.removeprefix("error: ")


@pytest.mark.parametrize("command", ["train", "lr"])
@pytest.mark.parametrize(
    "data", ["data.xyz", "data.db", "data.traj", "data.xyz.xz", "id", "dft_3d", "x.jsonl"]
)
def test_data_go_to_init(place, capsys, command, data):
    (place / "id").mkdir()
    (place / "id" / "id_prop.csv").write_text("")
    (place / "x.jsonl").write_text("{}\n")
    message = f"{data}: this is data, not a config; run nff init {data}, which writes a config"
    assert told(capsys, f"{command} {data}") == message
    assert not (place / "run").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train cu.cif", "cu.cif: is a structure, not a config; give labelled data to nff init"),
        ("train POSCAR", "POSCAR: is a structure, not a config"),
        ("train model.safetensors", "is a checkpoint, not a config; give it to --init-from"),
        ("train settings.yaml", "is a YAML file; give a config"),
        ("train old.json", "is a result of nff; give a config"),
        ("train figure.png", "is a picture; give a config"),
        ("train .", ".: is a folder; give the config in it, config.py"),
        ("train nowhere.py", "nowhere.py: no such file"),
        ("relax config.py", "is a Python file, not a structure; a config is for nff train"),
        ("relax model.safetensors", "is a checkpoint, not a structure; give it to --model"),
        ("relax settings.yaml", "is a YAML file, not a structure; settings go to --config"),
        ("relax old.json", "is a result of nff, not a structure"),
        ("relax theirs.pt", "is a model file of another program, not a structure"),
        ("relax figure.png", "is a picture, not a structure"),
        ("init config.py --out a", "config.py: is a Python file, not a structure"),
        ("init model.safetensors --out a", "is a checkpoint, not a structure"),
        ("report model.safetensors", "is a checkpoint; give the output folder"),
        ("report data.xyz", "is a file of structures; give the output folder"),
        ("evaluate config.py --model model.safetensors", "config.py: is a Python file, not a structure"),
    ],
)
def test_what_was_given_is_told(place, capsys, line, words):
    assert words in told(capsys, line, 3 if "not a structure" in words else 2)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("evaluate model.safetensors --model data.xyz", "a file of structures"),
        ("info cu.cif", "a structure"),
        ("relax cu.cif --model data.xyz", "a file of structures"),
        ("relax cu.cif --model config.py", "a Python file"),
        ("check --model old.json", "a result of nff"),
    ],
)
def test_a_checkpoint_is_expected(place, capsys, line, kind):
    message = told(capsys, line, 4)
    assert f"not a checkpoint but {kind}; expected a model.safetensors" in message
    assert ("the potential follows --model" in message) == ("structure" in kind)


@pytest.mark.parametrize("name", ["nowhere", ".", "a\0b", "x" * 5000])
def test_what_is_no_file_has_no_kind(place, name):
    assert kind_of(name) is None


@pytest.mark.parametrize("content", [b"", b"\0" * 50, b"PK\x03\x04", bytes(range(256)) * 40])
def test_a_file_of_no_kind(tmp_path, content):
    (tmp_path / "some.file").write_bytes(content)
    assert kind_of(tmp_path / "some.file") is None


def test_a_folder_stands_for_the_run_in_it(tmp_path, model, monkeypatch, capsys):
    run_folder = tmp_path / "mine" / "run"
    run_folder.mkdir(parents=True)
    (tmp_path / "mine" / "data").mkdir()
    save_checkpoint(run_folder / FILE, model)
    assert find_checkpoint(tmp_path / "mine") == run_folder / FILE
    assert load_checkpoint(tmp_path / "mine")[1] == load_checkpoint(run_folder)[1]
    monkeypatch.chdir(tmp_path)
    assert run(["info", "mine"]) == 0 and "mine/run/model.safetensors" in capsys.readouterr().out
    bulk("Cu").write("cu.cif")
    assert run(["energy", "cu.cif", "--model", "mine"]) == 0


def test_a_run_of_any_name_is_found_if_it_is_the_only_one(tmp_path, model):
    (tmp_path / "long").mkdir()
    save_checkpoint(tmp_path / "long" / FILE, model)
    assert find_checkpoint(tmp_path) == tmp_path / "long" / FILE


@pytest.mark.parametrize(
    "places", [("run", "long"), ("a", "b"), (".", "run")], ids=["one is called run", "two", "itself too"]
)
def test_of_several_runs_none_is_taken(tmp_path, model, places):
    for name in places:
        (tmp_path / name).mkdir(exist_ok=True)
        save_checkpoint(tmp_path / name / FILE, model)
    with pytest.raises(ConfigError, match="holds several models .*; give one of these"):
        find_checkpoint(tmp_path)


def test_a_run_keeps_its_meaning_beside_other_folders(tmp_path, model):
    for name in (".", "earlier"):
        (tmp_path / name).mkdir(exist_ok=True)
        save_checkpoint(tmp_path / name / FILE, model)
    assert find_checkpoint(tmp_path) == tmp_path / FILE


def test_a_folder_with_the_name_of_a_bundled_potential_is_not_confused_with_it(tmp_path, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlearn-cu" / "run").mkdir(parents=True)
    assert find_checkpoint("mlearn-cu").parent.parent.name == "calculators"  # there is no model yet
    save_checkpoint(tmp_path / "mlearn-cu" / "run" / FILE, model)
    with pytest.raises(ConfigError, match="is a bundled calculator, and a folder here that holds"):
        find_checkpoint("mlearn-cu")
    assert find_checkpoint("./mlearn-cu").parent.name == "run"
