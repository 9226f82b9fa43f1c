"""Torture D: what is typed or configured wrongly is told in one line, before computing or writing."""

import shutil
from pathlib import Path

import pytest
from workplace import CONFIG

from nfflr.checkpoint import FILE
from nfflr.cli.main import command_files, run
from nfflr.models.moment import MomentNetwork
from nfflr.workflows import workflow_names
from nfflr.workflows.framework.contract import find_workflow

WORKFLOWS = workflow_names()


@pytest.fixture
def nothing_computed(monkeypatch):
    """Any evaluation of a model is a failure of the test."""

    def compute(*_, **__):
        pytest.fail("a model was evaluated before the refusal")

    monkeypatch.setattr(MomentNetwork, "energies", compute)


def workflow(name: str, structure="cu.xyz", **options) -> list:
    """``nff <name>`` with as many structures as it takes."""
    structures = [structure, "other.xyz"][: len(find_workflow(name).structures)]
    flags = {"model": FILE, "out": "out", **options}
    return [name, *structures, *(part for flag, value in flags.items() for part in (f"--{flag}", value))]


# 52


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("learning_rat", "learning_rate"),
        ("batchsize", "batch_size"),
        ("epoch", "epochs"),
        ("lr", "learning_rate"),
    ],
)
def test_case_52_an_unknown_key_in_a_training_config(fails, slip, meant):
    Path("config.py").write_text(CONFIG + f"{slip} = 1\n")
    fails(["train", "config.py"], 2, "config.py", repr(slip), f"did you mean {meant!r}")


@pytest.mark.parametrize("name", WORKFLOWS)
def test_case_52_an_unknown_key_in_the_settings_of_each_workflow(fails, nothing_computed, name):
    fields = find_workflow(name).settings.model_fields
    field = max(fields, key=len, default="any")
    hint = f"did you mean {field!r}" if fields else "see --help"
    Path("settings.yaml").write_text(f"{field}x: 1\n")
    fails([*workflow(name), "--config", "settings.yaml"], 2, f"{field}x", hint)
    flag = f"--{field}".replace("_", "-")
    fails([*workflow(name), f"{flag}x", "1"], 2, f"{flag}x: no such option")


@pytest.mark.parametrize("command", command_files())
def test_case_52_a_misspelt_command(fails, command):
    fails([command + "e", "cu.xyz"], 2, f"{command}e", "did you mean")


def test_case_52_an_unknown_hyper_parameter_in_a_config(fails):
    Path("config.py").write_text(CONFIG.replace("hidden=4", "hiden=4"))
    fails(["train", "config.py"], 2, "config.py", "line 7", "hiden")


# 53


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", "'many'"),
        ("epochs", "0"),
        ("batch_size", "-1"),
        ("learning_rate", "float('nan')"),
        ("optimizer", "'adam'"),
        ("random_seed", "1.5"),
        ("model", "'moment'"),
        ("dataset", "[1, 2]"),
        ("output_dir", "3"),
    ],
)
def test_case_53_a_wrong_type_or_value_in_a_training_config(fails, field, value):
    Path("config.py").write_text(CONFIG + f"{field} = {value}\n")
    fails(["train", "config.py"], 2, "config.py", f" {field}: ")


@pytest.mark.parametrize("cutoff", ["-1.0", "0", "'wide'", "float('nan')", "float('inf')", "None"])
def test_case_53_a_wrong_cutoff_names_field_and_line(fails, cutoff):
    Path("config.py").write_text(CONFIG.replace("cutoff=3.5", f"cutoff={cutoff}"))
    fails(["train", "config.py"], 2, "config.py", "line 7", "cutoff")


@pytest.mark.parametrize("name", WORKFLOWS)
def test_case_53_a_wrong_type_in_the_settings_of_each_workflow(fails, nothing_computed, name):
    for field in find_workflow(name).settings.model_fields:
        Path("settings.yaml").write_text(f"{field}: {{a: [b]}}\n")
        line = fails([*workflow(name), "--config", "settings.yaml"], 2)
        assert f"settings.yaml: {field}: " in line


@pytest.mark.parametrize(
    ("flag", "value"),
    [("fmax", "-1"), ("fmax", "nan"), ("steps", "many"), ("steps", "1.5"), ("optimizer", "newton")],
)
def test_case_53_a_wrong_option(fails, nothing_computed, flag, value):
    fails([*workflow("relax"), f"--{flag}", value], 2, f"--{flag}")


def test_case_53_a_negative_cutoff_of_a_check(fails, nothing_computed):
    fails(["check", "--model", "ase:ase.calculators.emt:EMT", "--cutoff", "-3"], 2, "--cutoff")


# 54


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("batch_size = 1 / 0", "ZeroDivisionError"),
        ("import no_such_module", "ModuleNotFoundError"),
        ("raise SystemExit(7)", "SystemExit"),
        ("import numpy; numpy.zeros(3).reshape(2)", "ValueError"),
        ("x = = 1", "invalid syntax"),
        ("open('none.txt')", "FileNotFoundError"),
        ("raise ValueError('two\\nlines')", "two lines"),
        ("raise BaseException('bare')", "BaseException: bare"),
    ],
)
@pytest.mark.parametrize("command", ["train", "lr"])
def test_case_54_a_config_that_raises_names_the_users_own_line(fails, command, text, word):
    lines = CONFIG.splitlines()
    Path("config.py").write_text("\n".join([*lines[:6], text, *lines[6:]]) + "\n")
    fails([command, "config.py"], 2, "config.py: line 7: ", word)


def test_case_54_the_line_is_that_of_the_config_and_not_of_its_helper(fails, place):
    (place / "my_helper.py").write_text("def broken():\n\n\n\n    raise RuntimeError('deep')\n")
    Path("config.py").write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(place)!r})\n"
        "from my_helper import broken\n"
        "sys.path.pop(0)\n"
        "broken()\n"
    )
    fails(["train", "config.py"], 2, "config.py: line 5: ", "deep")


# 55


@pytest.mark.parametrize("name", WORKFLOWS)
def test_case_55_a_missing_structure_model_or_settings_file(fails, nothing_computed, name):
    fails(workflow(name, structure="none.cif"), 2, "none.cif", "no such file")
    fails(workflow(name, model="none.safetensors"), 2, "none.safetensors", "no such checkpoint")
    fails([*workflow(name), "--config", "none.yaml"], 2, "none.yaml", "no such file")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["train", "none.py"], "none.py"),
        (["train", "."], "."),
        (["lr", "none.py"], "none.py"),
        (["evaluate", "--model", "none.safetensors", "copper.xyz"], "none.safetensors"),
        (["evaluate", "--model", FILE, "none.xyz"], "none.xyz"),
        (["validate", "--model", FILE, "none"], "none"),
        (["check", "--model", "none.safetensors"], "none.safetensors"),
        (["check", "--model", FILE, "none.cif"], "none.cif"),
        (["info", "none.safetensors"], "none.safetensors"),
        (["report", "none"], "none"),
        (["init", "none.xyz", "-o", "out"], "none.xyz"),
        (["train", "config.py", "--init-from", "none.safetensors"], "none.safetensors"),
        (["train", "config.py", "--resume"], "run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_case_55_a_missing_file_of_each_other_command(fails, nothing_computed, arguments, word):
    fails(arguments, 2, word)


def test_case_55_data_that_a_config_names_and_that_are_not_there(fails, place):
    (place / "copper.xyz").unlink()
    fails(["train", "config.py"], 2, "copper.xyz", "no such file")


# 56


@pytest.mark.parametrize("name", WORKFLOWS)
def test_case_56_a_result_that_exists_is_kept(fails, nothing_computed, name):
    Path("out").mkdir()
    kept = Path("out") / f"cu-{name}.json"
    kept.write_text("kept")
    fails(workflow(name), 2, kept, "--overwrite")


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (["train", "config.py"], f"run/{FILE}"),
        (["train", "config.py"], "run/state/step-2/state.safetensors"),
        (["lr", "config.py"], "config-lr.csv"),
        (["lr", "config.py", "--write"], "config-lr.py"),
        (["evaluate", "--model", FILE, "copper.xyz"], "copper-evaluate.json"),
        (["evaluate", "--model", FILE, "copper.xyz"], "copper-evaluate.png"),
        (["check", "--model", "other.safetensors"], "other-check.json"),
        (["init", "copper.xyz"], "config.py"),
        (["init", "copper.xyz", "-o", "out"], "out/copper-init.png"),
    ],
    ids=str,
)
def test_case_56_a_file_of_each_other_command_that_exists_is_kept(fails, nothing_computed, arguments, kept):
    Path(kept).parent.mkdir(parents=True, exist_ok=True)
    if not Path(kept).exists():
        Path(kept).write_text("kept")
    fails(arguments, 2, "state/step-2" if "step" in kept else kept, "--overwrite")


def test_case_56_overwrite_replaces_it(place):
    kept = Path("cu-energy.json") if "energy" in WORKFLOWS else Path("cu-relax.json")
    kept.write_text("kept")
    name = kept.stem.removeprefix("cu-")
    assert run([*map(str, workflow(name, out=".")), "--overwrite"]) in (0, 5)
    assert kept.read_text() != "kept"


# 57

UNWRITABLE = ["/proc/nfflr", "file/out"]  # permissions do not stop root, who may run these tests


@pytest.mark.parametrize("folder", UNWRITABLE)
@pytest.mark.parametrize("name", WORKFLOWS)
def test_case_57_an_unwritable_folder_is_told_before_computing(fails, nothing_computed, name, folder):
    Path("file").write_text("not a folder")
    fails(workflow(name, out=folder), 6, folder)


@pytest.mark.parametrize("folder", UNWRITABLE)
@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "config.py"],
        ["lr", "config.py"],
        ["evaluate", "--model", FILE, "copper.xyz"],
        ["check", "--model", FILE, "cu.xyz"],
        ["init", "copper.xyz"],
    ],
    ids=lambda value: value[0],
)
def test_case_57_the_same_of_each_other_command(fails, nothing_computed, arguments, folder):
    Path("file").write_text("not a folder")
    fails([*arguments, "--out", folder], 6, folder)


# 58


@pytest.mark.filterwarnings("ignore:Glyph")  # matplotlib's font lacks them, and its figure has boxes there
def test_case_58_unicode_and_spaces_in_paths(place, capsys, monkeypatch):
    home = place / "Über Größe 硅 'q' [1] $x #2"
    home.mkdir()
    for name in (FILE, "copper.xyz", "config.py"):
        shutil.copy(name, home / name)
    structure = home / "zwölf ° Ångström.xyz"
    shutil.copy("cu.xyz", structure)
    shutil.copy(home / "copper.xyz", home / "daten ü.xyz")
    shutil.copy(home / FILE, home / "mein modell é.safetensors")
    model = home / "mein modell é.safetensors"
    out = home / "ergebnis se 結果"

    def works(*arguments) -> None:
        assert run([str(a) for a in arguments]) == 0, capsys.readouterr().err

    works("relax", structure, "-m", model, "-o", out, "--fmax", "1e6")
    assert (out / f"{structure.stem}-relax.json").is_file()
    works("evaluate", "--model", model, home / "daten ü.xyz", "-o", out)
    assert (out / "daten ü-evaluate.json").is_file()
    works("train", home / "config.py")
    works("info", home / "run")
    works("train", home / "config.py", "--resume")
    monkeypatch.chdir(home)  # relative ones too
    works("info", model.name)
    works("relax", structure.name, "-m", "run", "-o", "noch eins", "--fmax", "1e6")
    assert (home / "noch eins" / f"{structure.stem}-relax.json").is_file()


@pytest.mark.parametrize(
    "name", ["größe 硅.xyz", "a b.xyz", "-dash.xyz", "new\nline.xyz", "100%.xyz", "x:y@2.xyz"]
)
def test_case_58_a_file_of_an_unusual_name_is_told_in_one_line(fails, name):
    fails(["relax", "-m", FILE, "--", name], 2, " ".join(name.split()), "no such file")


# 59


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
@pytest.mark.parametrize("name", WORKFLOWS)
def test_case_59_cuda_asked_for_and_absent(fails, nothing_computed, no_gpu, name, device):
    fails(workflow(name, device=device), 2, "cuda", "cpu")


@pytest.mark.parametrize(
    "arguments", [["train", "config.py"], ["check", "--model", FILE]], ids=lambda value: value[0]
)
def test_case_59_the_same_of_each_other_command(fails, nothing_computed, no_gpu, arguments):
    fails([*arguments, "--device", "cuda"], 2, "cuda", "cpu")


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "", "gpu", "meta", "cuda:-1", "mps"])
def test_case_59_a_device_that_is_none(fails, nothing_computed, no_gpu, device):
    fails(workflow("relax", device=device), 2, "device")
    fails(["train", "config.py", "--device", device], 2, "device")
