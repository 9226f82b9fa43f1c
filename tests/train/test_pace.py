"""Atoms per second of a training: counted of the batches that are trained on, and nothing else is changed."""

import time

import pytest
from builders import copper, radius_graph, tiny

from nfflr.data.dataset import AtomsDataset
from nfflr.errors import ConfigError
from nfflr.train.config import TrainingConfig
from nfflr.train.run import Run
from nfflr.train.trainer import WARM_UP, training_pace


@pytest.fixture
def config(tmp_path):
    dataset = AtomsDataset(copper(16), n_train=12, n_val=4, transform=radius_graph)
    return TrainingConfig(dataset=dataset, model=tiny(), output_dir=tmp_path / "run", batch_size=4)


def test_atoms_and_time_are_those_of_the_steps(config, monkeypatch):
    taken, step = [], Run.train_step

    def slow(self, engine, parts):
        taken.append(sum(int(labels["n_atoms"].sum()) for _, labels in parts))
        time.sleep(0.1)
        return step(self, engine, parts)

    monkeypatch.setattr(Run, "train_step", slow)
    found = training_pace(config, steps=4)
    assert len(taken) == 4 + WARM_UP  # more than the three batches of an epoch
    counted = taken[WARM_UP:]
    assert found["atoms_per_step"] == sum(counted) / 4
    assert 100 < found["step_ms"] < 1000
    slowest, fastest = min(counted) / 1.0, max(counted) / 0.1
    assert slowest < found["atoms_per_s"] < fastest


def test_model_and_folder_are_left_alone(config):
    before = {name: value.clone() for name, value in config.model.state_dict().items()}
    training_pace(config, steps=1)
    assert all(value.equal(before[name]) for name, value in config.model.state_dict().items())
    assert not config.output_dir.exists()


def test_at_least_one_step(config):
    with pytest.raises(ConfigError, match=r"^steps: got 0"):
        training_pace(config, steps=0)
