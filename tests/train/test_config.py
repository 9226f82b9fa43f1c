"""Config files: what is wrong is said with field, line or nearest match, and the seed makes the weights."""

import json
import random
import sys
from itertools import count
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from nfflr.errors import ConfigError, StructureError
from nfflr.train.config import TrainingConfig, load_config
from nfflr.train.optimizer import rate_factor

GOOD = """
from builders import TinyConfig, TinyNetwork, copper_dataset

dataset = copper_dataset(4)
model = TinyNetwork(TinyConfig(elements=("Cu",)))
"""


@pytest.fixture
def write(tmp_path):
    """Write a config, the good one and what is added, under a name of its own."""
    names = (tmp_path / f"config_{tmp_path.name}_{k}.py" for k in count())

    def write(extra="", base=GOOD):
        path = next(names)
        path.write_text(base + extra)
        return path

    return write


def refused(path, overrides=None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


def place(path, text) -> str:
    return f"line {1 + path.read_text().splitlines().index(text)}: "


def test_a_good_file_gives_its_settings_and_the_defaults(write):
    config = load_config(write("epochs = 7\nforce_weight = (1.0, 0.1)\nhelper = 3\ncutoff = 4.0\n"))
    assert config.epochs == 7 and config.force_weight == (1.0, 0.1)
    assert config.batch_size == TrainingConfig.model_fields["batch_size"].default
    assert len(config.dataset) == 4 and config.model.elements == ("Cu",)


def test_every_setting_is_described():
    assert all(field.description for field in TrainingConfig.model_fields.values())


@pytest.mark.parametrize(
    "slip, meant",
    [
        ("epoch", "epochs"),
        ("batchsize", "batch_size"),
        ("learning_rat", "learning_rate"),
        ("optimiser", "optimizer"),
    ],
)
def test_a_misspelt_setting_gets_the_nearest_match(write, slip, meant):
    message = refused(write(f"{slip} = 3\n"))
    assert f"unknown setting {slip!r}" in message and f"did you mean {meant!r}?" in message


def test_names_of_the_files_own_are_its_own_business(write):
    config = load_config(write("import math\nn = 3\ntwo = 2\ndef epoch():\n    return 1\n_epoch = 5\n"))
    assert config.epochs == TrainingConfig.model_fields["epochs"].default


@pytest.mark.parametrize(
    "field, value",
    [
        ("epochs", "'many'"),
        ("epochs", "0"),
        ("epochs", "2.5"),
        ("batch_size", "-1"),
        ("learning_rate", "-0.1"),
        ("learning_rate", "0"),
        ("learning_rate", "float('nan')"),
        ("learning_rate", "float('inf')"),
        ("optimizer", "'adam'"),
        ("schedule", "'step'"),
        ("ema_decay", "1.0"),
        ("energy_weight", "(1, 2, 3)"),
        ("force_weight", "float('nan')"),
        ("stress_weight", "-1.0"),
        ("energy_scale", "0"),
        ("random_seed", "'lucky'"),
        ("random_seed", "-1"),
        ("random_seed", "1.5"),
        ("model", "'moment'"),
        ("dataset", "[1, 2]"),
        ("criterion", "'huber'"),
        ("patience", "None"),
    ],
)
def test_a_wrong_value_names_field_and_value(write, field, value):
    message = refused(write(f"{field} = {value}\n"))
    assert f": {field}: " in message
    if value not in ("None",) and "float" not in value:
        assert value.strip("'()").split(",")[0] in message


def test_a_wrong_object_is_named_in_one_line(write):
    extra = "from torch import nn\nmodel = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))\n"
    assert ": model: " in refused(write(extra))


@pytest.mark.parametrize("name", ["model", "dataset"])
def test_what_is_missing_is_named(write, name):
    base = "\n".join(line for line in GOOD.splitlines() if not line.startswith(name)) + "\n"
    message = refused(write(base=base))
    assert f": {name}: " in message and "equired" in message


def test_a_config_that_raises_names_its_own_line(write):
    path = write("x = {1: 2}\ny = x[3]\nepochs = 3\n")
    assert place(path, "y = x[3]") + "KeyError" in refused(path)


def test_an_error_deep_in_a_library_names_the_configs_line(write):
    path = write("import json\nloaded = json.loads('')\n")
    assert place(path, "loaded = json.loads('')") + "JSONDecodeError" in refused(path)


def test_an_error_with_several_lines_is_told_in_one(write):
    assert "first second" in refused(write("raise ValueError('first\\nsecond')\n"))


def test_a_syntax_error_names_the_line(write):
    path = write("epochs = = 3\n")
    assert place(path, "epochs = = 3") in refused(path)


@pytest.mark.parametrize(
    "content", [b"\x00\x01\x02", b"\xff\xfe epochs", b"\x80\x04\x95"], ids=["zeros", "utf-16", "pickle"]
)
def test_a_file_that_is_no_python_is_refused(tmp_path, content):
    path = tmp_path / "config.py"
    path.write_bytes(content)
    refused(path)


def test_unicode_in_file_and_path(tmp_path):
    path = tmp_path / "größe 銅.py"
    path.write_text(GOOD + "notes = {'Autor': 'Jürgen 東'}\n", encoding="utf-8")
    assert load_config(path).notes == {"Autor": "Jürgen 東"}


def test_nothing_of_one_config_reaches_the_next_of_the_same_name(tmp_path):
    for folder, extra in (("a", "batch_size = 3\n"), ("b", "")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same_name.py").write_text(GOOD + extra)
    assert load_config(tmp_path / "a" / "same_name.py").batch_size == 3
    assert load_config(tmp_path / "b" / "same_name.py").batch_size == 8


def test_a_config_that_was_edited_is_read_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    # Same size, same second: a cached byte code would not notice.
    path = tmp_path / "edited.py"
    for epochs in (3, 4, 5):
        path.write_text(GOOD + f"epochs = {epochs}\n")
        assert load_config(path).epochs == epochs


def test_a_config_named_like_a_module_leaves_that_module_alone(tmp_path, monkeypatch):
    module = ModuleType("bystander")
    module.epochs = "mine"
    monkeypatch.setitem(sys.modules, "bystander", module)
    path = tmp_path / "bystander.py"
    path.write_text(GOOD + "epochs = 3\n")
    assert load_config(path).epochs == 3
    assert sys.modules["bystander"] is module and module.epochs == "mine"


def test_loading_leaves_nothing_beside_the_file(write, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    load_config(write())
    assert len(list(tmp_path.iterdir())) == 1


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "no such file" in refused(tmp_path / "none.py")
    assert "no such file" in refused(tmp_path)


def test_errors_of_the_package_keep_their_kind(write):
    base = GOOD.replace("copper_dataset(4)", "copper_dataset(4, test_source=[])")
    with pytest.raises(StructureError, match="holds no structure"):
        load_config(write(base=base))


def test_a_config_that_exits_is_refused(write):
    assert "SystemExit" in refused(write("raise SystemExit(0)\n"))


# Seeds


def weights(config) -> list:
    return [p.detach().tolist() for p in config.model.parameters()]


def test_the_seed_makes_the_weights(write):
    first = weights(load_config(write("random_seed = 1\n")))
    assert weights(load_config(write("random_seed = 1\n"))) == first
    assert weights(load_config(write("random_seed = 2\n"))) != first
    assert weights(load_config(write())) == weights(load_config(write("random_seed = 42\n")))


def test_a_seed_from_outside_replaces_the_files_before_the_model_is_built(write):
    config = load_config(write("random_seed = 1\n"), {"random_seed": 2})
    assert config.random_seed == 2
    assert weights(config) == weights(load_config(write("random_seed = 2\n")))


@pytest.mark.parametrize(
    "line", ["random_seed = 3 + 4", "random_seed: int = 7", "base = 7; random_seed = base"]
)
def test_a_seed_that_is_computed_is_used_or_refused_but_not_replaced(write, line):
    try:
        config = load_config(write(line + "\n"))
    except ConfigError as error:
        assert "random_seed" in str(error)
    else:
        assert config.random_seed == 7
        assert weights(config) == weights(load_config(write("random_seed = 7\n")))


def test_other_settings_from_outside_win_too(write, tmp_path):
    config = load_config(write("epochs = 3\n"), {"epochs": 9, "output_dir": tmp_path / "run"})
    assert config.epochs == 9 and config.output_dir == tmp_path / "run"
    assert ": epochs: " in refused(write(), {"epochs": 0})


def test_the_callers_random_state_is_left_alone(write):
    for library in (torch.manual_seed, np.random.seed, random.seed):
        library(5)
    before = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()
    load_config(write("random_seed = 1\n"))
    with pytest.raises(ConfigError):
        load_config(write("epochs = 0\n"))
    assert before == (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate())


# What settings mean


def settings(**values) -> TrainingConfig:
    return TrainingConfig.model_construct(model=SimpleNamespace(is_potential=True), **values)


def test_weights_ramp_by_half_a_cosine_from_start_to_end():
    config = settings(energy_weight=(0.0, 2.0), force_weight=(3.0, 1.0), stress_weight=0.5)
    assert config.weights(0.0) == pytest.approx({"energy": 0.0, "forces": 3.0, "stress": 0.5})
    assert config.weights(0.25)["energy"] == pytest.approx(1 - 0.5**0.5, rel=1e-6)
    assert config.weights(0.5) == pytest.approx({"energy": 1.0, "forces": 2.0, "stress": 0.5})
    assert config.weights(1.0) == pytest.approx({"energy": 2.0, "forces": 1.0, "stress": 0.5})
    assert config.weights(1.7) == config.weights(1.0) and config.weights(-1) == config.weights(0.0)


def test_weights_never_leave_the_range_of_the_ramp():
    config = settings(energy_weight=(0.1, 1.0))
    values = [config.weights(k / 97)["energy"] for k in range(98)]
    assert (
        values == sorted(values) and min(values) == pytest.approx(0.1) and max(values) == pytest.approx(1.0)
    )


@pytest.mark.parametrize("schedule", ["cosine", "onecycle", "constant"])
def test_learning_rates_rise_to_the_peak_and_stay_positive(schedule):
    config = settings(schedule=schedule, warmup_steps=10)
    rates = [rate_factor(config, step, 200) for step in range(200)]
    assert all(0 < rate <= 1 for rate in rates) and max(rates) > 0.98
    assert rates[0] < 0.2
    rise = rates[: rates.index(max(rates)) + 1]
    assert rise == sorted(rise)
    assert rates[-1] == (1 if schedule == "constant" else pytest.approx(0.0, abs=0.02))


def test_the_rate_of_a_plateau_is_the_peak_until_it_falls():
    config = settings(schedule="plateau", warmup_steps=10)
    assert {rate_factor(config, step, 300) for step in range(9, 200)} == {1.0}
    falling = [rate_factor(config, step, 300, fall=200) for step in range(200, 301)]
    assert falling == sorted(falling, reverse=True)
    assert (falling[0], falling[-1]) == (pytest.approx(1.0), pytest.approx(0.01))


def test_the_settings_that_a_resume_compares_are_json_without_model_data_and_place(write):
    plain = load_config(write("energy_weight = (0.5, 1.0)\n")).plain()
    assert json.loads(json.dumps(plain)) == plain
    assert not {"model", "dataset", "output_dir", "notes"} & plain.keys()
    assert {"epochs", "learning_rate", "criterion", "random_seed", "energy_weight"} <= plain.keys()


def test_a_file_that_assigns_its_seed_first_is_run_once(write, tmp_path):
    log = tmp_path / "runs"
    count_runs = f"with open({str(log)!r}, 'a') as file:\n    file.write('x')\n"
    path = write(base="random_seed = 7\n" + count_runs + GOOD)
    assert weights(load_config(path)) == weights(load_config(write("random_seed = 7\n")))
    assert log.read_text() == "x"


def test_a_seed_from_outside_is_what_the_file_sees(write):
    config = load_config(write("random_seed = 1 + 2\nwarmup_steps = random_seed\n"), {"random_seed": 5})
    assert config.warmup_steps == 5


def test_dataclasses_and_functions_of_a_config_find_its_names(write):
    base = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    base += "@dataclass\nclass Choice:\n    size: Size = 3\nclass Size: pass\n"
    base += "def double():\n    return 2 * start\nstart = 4\n"
    config = load_config(write("batch_size = double()\nepochs = Choice().size\n", base=base + GOOD))
    assert config.batch_size == 8 and config.epochs == 3
