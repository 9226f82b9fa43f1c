"""What the loop offers besides: decay by group, adaptive weights, SWA and SWAG, fine-tuning, event files."""

import re

import numpy as np
import pytest
import torch
from builders import CUTOFF, TinyNetwork, copper, copper_dataset, radius_graph, tiny

from nfflr.atoms import Atoms
from nfflr.calculator import NFFLrCalculator
from nfflr.checkpoint import load_checkpoint
from nfflr.data.inputs import with_ghosts
from nfflr.errors import CheckpointError, ConfigError
from nfflr.models import registry
from nfflr.reports import run_record
from nfflr.reports.evaluation import predict
from nfflr.train.config import TrainingConfig
from nfflr.train.initialise import prepared
from nfflr.train.optimizer import build_optimizer
from nfflr.train.run import Run
from nfflr.train.trainer import train


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """The tiny network is an architecture during these tests only."""
    registry.architectures()
    monkeypatch.setitem(registry.REGISTRY, TinyNetwork.key, TinyNetwork)


@pytest.fixture(scope="module")
def dataset():
    return copper_dataset(16)


@pytest.fixture
def configure(tmp_path, dataset):
    def make(**settings) -> TrainingConfig:
        defaults = {"epochs": 6, "batch_size": 4, "warmup_steps": 3, "validate_every": 2, "progress": False}
        defaults |= {"dataset": dataset, "model": tiny(), "output_dir": tmp_path / "run"}
        return TrainingConfig(**{**defaults, **settings})

    return make


# Weight decay


def decays(config) -> dict[str, float]:
    """Weight decay by parameter name."""
    names = {id(p): name for name, p in config.model.named_parameters()}
    groups = build_optimizer(config).param_groups
    return {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}


def test_a_plain_weight_decay_acts_on_matrices(configure):
    found = decays(configure(weight_decay=0.1))
    assert found == {"hidden.weight": 0.1, "readout.weight": 0.1, "hidden.bias": 0.0, "readout.bias": 0.0}


def test_the_first_pattern_that_matches_decides_and_the_rest_does_not_decay(configure):
    found = decays(configure(weight_decay={"readout.*": 0.5, "*.weight": 0.1}))
    assert found == {"hidden.weight": 0.1, "readout.weight": 0.5, "hidden.bias": 0.0, "readout.bias": 0.5}


def test_a_pattern_without_a_parameter_is_refused(configure):
    with pytest.raises(ConfigError, match=re.escape("'hiden.weight' matches no parameter; did you mean")):
        build_optimizer(configure(weight_decay={"hiden.weight": 0.1}))


def test_decay_shrinks_only_the_group_it_is_given_to(configure):
    """Without gradients AdamW's update is w ← w (1 − lr · decay)."""
    config = configure(weight_decay={"hidden.weight": 0.5}, learning_rate=0.1)
    before = {name: p.detach().clone() for name, p in config.model.named_parameters()}
    optimizer = build_optimizer(config)
    for parameter in config.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in config.model.named_parameters():
        factor = 0.95 if name == "hidden.weight" else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


# Adaptive weights


def test_adaptive_weights_settle_where_each_term_counts_by_its_inverse(configure):
    """∂/∂s (e^{−s} L + s) = 0 at s = ln L, so that e^{−s} L = 1 for every term."""
    config = configure(adaptive_weights=True, gradient_clip=1e9)
    run = Run(prepared(config))
    terms, weights = torch.tensor([0.3, 5.0, 40.0]).double(), torch.ones(3).double()
    optimizer = torch.optim.Adam([run.log_variances], lr=0.05)
    for _ in range(1500):
        optimizer.zero_grad()
        run._weigh(terms, weights, torch.ones(3)).backward()
        optimizer.step()
    torch.testing.assert_close(run.log_variances.detach(), terms.log(), atol=1e-3, rtol=0)


def test_adaptive_weights_are_learned_saved_and_resumed(configure, tmp_path):
    whole = configure(adaptive_weights=True, learning_rate=0.02, output_dir=tmp_path / "whole")
    train(whole)
    parts = tmp_path / "parts"
    half = configure(adaptive_weights=True, learning_rate=0.02, output_dir=parts)

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(half, on_validation=stop)
    again = configure(adaptive_weights=True, learning_rate=0.02, output_dir=parts)
    train(again, resume=True)
    assert (parts / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()


def test_plain_weights_leave_the_learned_ones_alone(configure):
    run = Run(prepared(configure()))
    assert len(run.optimizer.param_groups) == 2 and not run.log_variances.any()


# Averages


def test_swa_keeps_the_even_mean_of_the_weights_since_its_start(configure):
    config = configure(swa_start=0.5)  # 18 steps
    seen = []
    train(config, on_step=lambda now: seen.append(config.model.hidden.weight.detach().clone()))
    model, _ = load_checkpoint(config.output_dir)
    candidates = [torch.stack(seen[9 : 9 + n]).mean(0) for n in (3, 6, 9)]  # validated after each 6 steps
    assert min((model.hidden.weight - c).abs().max() for c in candidates) < 1e-12


def test_swag_writes_an_ensemble_with_a_spread(configure):
    config = configure(epochs=12, swa_start=0.3, swag_samples=5, learning_rate=0.02)
    train(config)
    folder = config.output_dir / "swag"
    assert sorted(p.name for p in folder.iterdir()) == [f"member-{k}.safetensors" for k in range(5)]
    atoms = copper(1)[0]
    atoms.calc = NFFLrCalculator.load(folder)
    members = [NFFLrCalculator.load(p) for p in sorted(folder.iterdir())]
    energies = [m.get_potential_energy(atoms) for m in members]
    assert atoms.get_potential_energy() == pytest.approx(np.mean(energies), abs=1e-9)
    assert (
        atoms.calc.results["energy_std"] == pytest.approx(np.std(energies, ddof=1)) and np.ptp(energies) > 0
    )
    assert atoms.calc.results["forces_std"].shape == (len(atoms),)


def test_swag_resumes_to_the_bit(configure, tmp_path):
    settings = {"swa_start": 0.3, "swag_samples": 2}
    train(configure(**settings, output_dir=tmp_path / "whole"))
    validations = []

    def stop(row):
        validations.append(row)
        if len(validations) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(configure(**settings, output_dir=tmp_path / "parts"), on_validation=stop)
    train(configure(**settings, output_dir=tmp_path / "parts"), resume=True)
    for k in range(2):
        name = f"swag/member-{k}.safetensors"
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_swag_without_swa_is_refused(configure):
    with pytest.raises(ValueError, match="swa_start below 1"):
        configure(swag_samples=3)


def test_swag_that_could_not_spread_is_refused_before_the_first_step(configure):
    with pytest.raises(ConfigError, match="two epochs after swa_start"):
        Run(prepared(configure(swa_start=0.9, swag_samples=3)))


def test_settings_that_name_no_target_are_refused_for_a_force_field(configure):
    for settings in (
        {"target_weights": {"energy": 2.0}},
        {"target_scales": {"magmoms": 2.0}},
        {"criterion": {"energy": torch.nn.MSELoss()}},
    ):
        with pytest.raises(ConfigError, match="no target '(energy|magmoms)'; the data set has"):
            Run(prepared(configure(**settings)))
    for settings in ({"target_weights": {"forces": 2.0}}, {"target_scales": {"forces": 2.0}}):
        with pytest.raises(ConfigError, match="'forces' has a setting of its own; set force_"):
            Run(prepared(configure(**settings)))


def test_forces_that_the_model_does_not_give_are_not_asked_for(configure):
    model = tiny()
    model.compute_forces = False
    with pytest.raises(ConfigError, match="compute_forces is False"):
        prepared(configure(model=model))


# Fine-tuning


@pytest.fixture
def trained(configure, tmp_path):
    return train(configure(epochs=40, learning_rate=0.02, output_dir=tmp_path / "first")).parent


def test_fine_tuning_starts_from_the_weights_and_fits_references_to_the_new_level(
    configure, trained, tmp_path
):
    """The new labels are shifted by 2 eV/atom: forces stay, energies follow before the first step."""
    shifted = copper_dataset(8, seed=5)
    for record in shifted.records:
        record.labels["total_energy"] = record.labels["total_energy"] + 2.0 * len(record.atoms)
    config = configure(dataset=shifted, init_from=trained, model=tiny(seed=9))
    old, _ = load_checkpoint(trained)
    before = predict(old, shifted, range(8))
    new = prepared(config).model
    after = predict(new, shifted, range(8))
    np.testing.assert_allclose(after["forces"].predicted, before["forces"].predicted)
    assert before.errors()["energy_mae"] > 1.5 and after.errors()["energy_mae"] < 0.1


def test_a_resume_needs_neither_the_checkpoint_it_started_from_nor_its_name(configure, trained, tmp_path):
    whole = configure(init_from=trained, output_dir=tmp_path / "whole")
    train(whole)

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(configure(init_from=trained, output_dir=tmp_path / "parts"), on_validation=stop)
    train(configure(output_dir=tmp_path / "parts"), resume=True)
    assert (tmp_path / "parts/metrics.csv").read_text() == (tmp_path / "whole/metrics.csv").read_text()


def test_frozen_parameters_do_not_move_and_others_do(configure, trained):
    config = configure(init_from=trained, freeze=("hidden.*",), model=tiny(seed=9))
    old, _ = load_checkpoint(trained)
    train(config)
    assert torch.equal(config.model.hidden.weight, old.hidden.weight)
    assert not torch.equal(config.model.readout.weight, old.readout.weight)
    new, _ = load_checkpoint(config.output_dir)
    assert torch.equal(new.hidden.weight, old.hidden.weight)


def test_a_checkpoint_of_another_shape_is_refused(configure, trained):
    with pytest.raises(CheckpointError, match="width"):
        prepared(configure(init_from=trained, model=tiny(width=4)))


def test_a_pattern_that_freezes_nothing_is_refused(configure):
    with pytest.raises(ConfigError, match="hiden"):
        prepared(configure(freeze=("hiden.*",)))


# Event files


def test_event_files_hold_every_step_and_validation(configure):
    config = configure(tensorboard=True)
    train(config)
    from tensorboardX.proto.event_pb2 import Event

    (path,) = (config.output_dir / "tensorboard").iterdir()
    tags = {}
    for event in read_events(path, Event):
        for value in event.summary.value:
            tags.setdefault(value.tag, []).append((event.step, value.simple_value))
    assert [step for step, _ in tags["train/step_loss"]] == list(range(1, 19))
    assert [step for step, _ in tags["val/forces_mae"]] == [6, 12, 18]
    assert all(np.isfinite(v) for _, v in tags["val/loss"])


def read_events(path, kind):
    """Records of a TensorBoard file: length, its checksum, content, checksum."""
    content, start = path.read_bytes(), 0
    while start < len(content):
        size = int.from_bytes(content[start : start + 8], "little")
        yield kind.FromString(content[start + 12 : start + 12 + size])
        start += 16 + size


def test_a_missing_package_is_named_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match=re.escape('pip install "nfflr[tensorboard]"')):
        run_record.event_log(tmp_path, True).__enter__()


def test_an_overwritten_run_leaves_no_samples_and_no_event_files(configure):
    first = configure(swa_start=0.3, swag_samples=2, tensorboard=True)
    train(first)
    train(configure(epochs=2), overwrite=True)
    assert not [p for p in first.output_dir.rglob("*") if p.name.startswith(("member-", "events."))]


def as_it_is(atoms):
    return atoms


def padded(atoms):
    return with_ghosts(Atoms.from_ase(atoms), CUTOFF)


@pytest.mark.parametrize("transform", [as_it_is, padded])
def test_a_transform_may_give_any_input_of_the_model(configure, transform):
    def loss(transform):
        dataset = copper_dataset(8, transform=transform)
        rows = []
        train(configure(dataset=dataset, epochs=2), overwrite=True, on_validation=rows.append)
        return rows[-1]["val/loss"]

    assert loss(transform) == pytest.approx(loss(radius_graph), rel=1e-9)
