"""YAML configs: the same run as the Python config, names that are refused, and a schema that agrees."""

import json
from inspect import signature

import ase.io
import pytest
import torch
import yaml
from builders import copper

from nfflr.cli.main import run
from nfflr.data.dataset import AtomsDataset, DatasetConfig
from nfflr.errors import ConfigError
from nfflr.train.config import TrainingConfig, load_config
from nfflr.train.config_files import json_schema

YAML = """
dataset:
  source: copper.xyz
  n_train: 8
  n_val: 2
  seed: 3
model:
  architecture: schnet
  elements: [Cu]
  cutoff: 4.0
random_seed: 7
learning_rate: 1e-3
energy_weight: [0.5, 1.0]
criterion: mse
output_dir: run
epochs: 2
progress: false
"""
PYTHON = """
from pathlib import Path
from torch import nn
from nfflr.data.dataset import AtomsDataset
from nfflr.models.gnn.schnet import SchNet, SchNetConfig

here = Path(__file__).parent
random_seed = 7
dataset = AtomsDataset(here / "copper.xyz", n_train=8, n_val=2, seed=3)
model = SchNet(SchNetConfig(elements=("Cu",), cutoff=4.0))
learning_rate, energy_weight, criterion = 1e-3, (0.5, 1.0), nn.MSELoss()
output_dir, epochs, progress = here / "run", 2, False
"""


@pytest.fixture
def folder(tmp_path):
    ase.io.write(tmp_path / "copper.xyz", copper(12))
    (tmp_path / "config.yaml").write_text(YAML)
    (tmp_path / "config.py").write_text(PYTHON)
    return tmp_path


def test_yaml_and_python_are_the_same_run_to_the_last_bit(folder):
    declared, programmed = (load_config(folder / f"config.{suffix}") for suffix in ("yaml", "py"))
    assert declared.plain() == programmed.plain() and declared.output_dir == programmed.output_dir
    assert declared.dataset.digest() == programmed.dataset.digest()
    assert declared.dataset.origin == programmed.dataset.origin
    for ours, theirs in zip(declared.model.parameters(), programmed.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_options_replace_what_the_yaml_says(folder):
    first, other = (load_config(folder / "config.yaml", {"random_seed": seed}) for seed in (7, 8))
    assert other.random_seed == 8
    assert torch.equal(*(next(load_config(folder / "config.yaml").model.parameters()) for _ in range(2)))
    assert not torch.equal(next(first.model.parameters()), next(other.model.parameters()))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("epochs: 2", "epoch: 2", "unknown setting 'epoch'; did you mean 'epochs'?"),
        ("n_train", "n_trian", "dataset: unknown setting 'n_trian'; did you mean 'n_train'?"),
        ("cutoff", "cut_of", "model: unknown setting 'cut_of'; did you mean 'cutoff'?"),
        ("schnet", "shnet", "model: architecture: unknown architecture 'shnet'"),
        ("copper.xyz", "lead.xyz", "no such file"),
        ("cutoff: 4.0", "cutoff: -1", "model: cutoff: should be greater than 0, got -1"),
        ("criterion: mse", "criterion: msle", "criterion: got 'msle'; expected one of huber, mse, mae"),
        ("learning_rate: 1e-3", "learning_rate: fast", "learning_rate: should be a number, got 'fast'"),
        ("epochs: 2", "epochs: [", "not valid YAML"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(folder, old, new, expected):
    (folder / "config.yaml").write_text(YAML.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load_config(folder / "config.yaml")
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_structures_can_be_left_out(folder):
    (folder / "config.yaml").write_text(YAML.replace("  seed: 3", "  seed: 3\n  left_out: [0, 11]"))
    assert len(load_config(folder / "config.yaml").dataset) == 10


def test_the_schema_knows_every_setting_and_every_architecture():
    schema = json_schema(TrainingConfig)
    assert schema["properties"].keys() == TrainingConfig.model_fields.keys()
    assert all("description" in field for field in schema["properties"].values())
    keys = schema["properties"]["model"]["discriminator"]["mapping"]
    assert {"moment", "alignn", "schnet", "painn"} <= keys.keys()
    assert "cutoff" in schema["$defs"]["moment"]["properties"]
    assert (
        schema["additionalProperties"] is False and yaml.safe_load(YAML).keys() <= schema["properties"].keys()
    )


def test_the_command_trains_a_yaml_file_and_prints_the_schema(folder, capsys):
    assert run(["train", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema(TrainingConfig)
    assert run(["train", str(folder / "config.yaml")]) == 0
    assert (folder / "run" / "model.safetensors").is_file()


def test_the_options_of_a_data_set_are_those_of_the_class_that_reads_it():
    options = {name: p.default for name, p in signature(AtomsDataset).parameters.items()}
    fields = DatasetConfig.model_fields
    assert options.keys() - fields.keys() == {"source", "test_source", "transform"}
    assert fields.keys() <= options.keys()
    for name, field in fields.items():
        assert (options[name] or None) == (field.get_default(call_default_factory=True) or None), name
