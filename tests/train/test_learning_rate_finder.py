"""The learning-rate finder: its curve, its suggestion, and the config it writes."""

import csv

import numpy as np
import pytest
import torch
from builders import copper_dataset, tiny

from nfflr.errors import ConfigError, NumericsError
from nfflr.train.config import TrainingConfig
from nfflr.train.learning_rate_finder import find_learning_rate, plot, suggest, with_learning_rate
from nfflr.train.trainer import train


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    out = tmp_path_factory.mktemp("lr")
    model = tiny(dtype=torch.float32)
    return TrainingConfig(
        dataset=copper_dataset(16), model=model, output_dir=out, progress=False, batch_size=4
    )


@pytest.fixture(scope="module")
def found(config):
    return find_learning_rate(config, 1e-5, 30.0, 80)


def test_rates_grow_exponentially_and_the_loss_is_lower_where_the_suggestion_is_used(config, found, tmp_path):
    ratios = [b / a for a, b in zip(found.rates, found.rates[1:], strict=False)]
    assert found.rates[0] == pytest.approx(1e-5, rel=0.5) and max(ratios) / min(ratios) < 1.01
    assert 1e-4 < found.suggestion < 1.0
    ends = {}
    for rate in (1e-5, found.suggestion):
        losses = []
        settings = {"learning_rate": rate, "epochs": 8, "output_dir": tmp_path / str(rate), "warmup_steps": 0}
        fresh = {"model": tiny(dtype=torch.float32), "schedule": "constant"}
        train(
            config.model_copy(update={**settings, **fresh}), on_step=lambda n, to=losses: to.append(n["loss"])
        )
        ends[rate] = sum(losses[-6:])
    assert ends[found.suggestion] < 0.7 * ends[1e-5]


def test_the_test_ends_where_the_loss_diverges(found):
    assert len(found.rates) < 80 or max(found.losses) > 2 * min(found.losses)


def test_the_model_of_the_config_is_left_alone(config, found):
    for name, value in tiny(dtype=torch.float32).state_dict().items():
        assert torch.equal(value, config.model.state_dict()[name]), name


def test_an_empty_range_is_refused(config):
    with pytest.raises(ConfigError, match="expected 0 < start < end"):
        find_learning_rate(config, 1.0, 0.1)


def test_a_loss_that_only_rises_suggests_nothing(config):
    with pytest.raises(NumericsError, match="less than ten times the first; start below"):
        find_learning_rate(config, 1e3, 1e6, 20)


def test_the_fall_of_the_first_steps_is_not_what_a_rate_does():
    rates = np.geomspace(1e-6, 1.0, 200)
    first = 8 * np.exp(-np.arange(200) / 10)  # of fresh weights, steeper than all that follows
    for start in (0, 40):  # wherever the test begins
        losses = np.log(rates / 0.02) ** 2 + first
        assert suggest(list(rates[start:]), list(losses[start:])) == pytest.approx(2e-3, rel=0.1)
    with pytest.raises(NumericsError, match="lowest at 0.02.*start below 0.002"):
        suggest(list(rates[120:]), list(losses[120:]))


def test_the_plot_marks_the_suggestion(found):
    axes = plot(found).axes[0]
    assert axes.get_xlabel() == "learning rate" and axes.get_xscale() == "log"
    assert axes.lines[1].get_xdata()[0] == found.suggestion


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = 1\nlearning_rate = 3e-4\nb = 2\n", "a = 1\nlearning_rate = 0.0012  # by nff lr\nb = 2\n"),
        ("learning_rate: float = (\n    1e-2\n)\nb = 2\n", "learning_rate = 0.0012  # by nff lr\nb = 2\n"),
        ("a = 1\n", "a = 1\n\nlearning_rate = 0.0012  # by nff lr\n"),
    ],
)
def test_the_rate_is_written_where_it_is_assigned_or_at_the_end(text, expected):
    assert with_learning_rate(text, 0.0012, "config.py") == expected


def test_a_rate_inside_a_block_is_left_to_the_user():
    with pytest.raises(ConfigError, match="set 0.0012 by hand"):
        with_learning_rate("if True:\n    learning_rate = 1\n", 0.0012, "config.py")


def test_curves_are_csv(found, tmp_path):
    from nfflr.train.learning_rate_finder import as_csv

    rows = list(csv.DictReader(as_csv(found).splitlines()))
    assert [float(r["learning_rate"]) for r in rows] == pytest.approx(found.rates, rel=1e-5)
    assert [float(r["loss"]) for r in rows] == pytest.approx(found.losses, rel=1e-5)
