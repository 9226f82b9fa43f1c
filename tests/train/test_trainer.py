"""Training on copper: it learns, is repeatable to the bit across interruptions, selects and fails well."""

import csv
import errno
import math
import os
import shutil

import ase
import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from builders import CUTOFF, TinyNetwork, copper, copper_dataset, radius_graph, tiny
from pydantic import ValidationError
from torch import nn

from nfflr.calculator import NFFLrCalculator
from nfflr.checkpoint import FILE, load_checkpoint
from nfflr.data.dataset import AtomsDataset
from nfflr.errors import ConfigError, NumericsError, ResourceError, StructureError
from nfflr.models import registry
from nfflr.reports.evaluation import predict
from nfflr.train import trainer
from nfflr.train.config import TrainingConfig
from nfflr.train.initialise import initialise
from nfflr.train.state import newest_state
from nfflr.train.trainer import train

SHORT = {"epochs": 6, "validate_every": 2}


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """The tiny network is an architecture during these tests only."""
    registry.architectures()
    monkeypatch.setitem(registry.REGISTRY, TinyNetwork.key, TinyNetwork)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch, request):
    """Drawing costs more than training here; tests that ask for ``drawn`` keep it."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(trainer, "write_figure", lambda path, figure: None)


@pytest.fixture
def drawn():
    """Asks for figures."""


@pytest.fixture(scope="module")
def dataset():
    return copper_dataset(16)


def configure(out, dataset, **settings) -> TrainingConfig:
    defaults = {"epochs": 10, "batch_size": 4, "warmup_steps": 3, "validate_every": 1, "progress": False}
    defaults |= {"learning_rate": 5e-3, "ema_decay": 0.995, "force_scale": 0.05}  # for runs of few steps
    defaults |= {f"{key}_weight": 1.0 for key in ("energy", "force", "stress")}
    model = settings.pop("model", None) or tiny(dtype=torch.float32)
    return TrainingConfig(**{**defaults, "dataset": dataset, "model": model, "output_dir": out, **settings})


def metrics(out) -> list[dict[str, float]]:
    with open(out / "metrics.csv") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def assert_same_run(a, b) -> None:
    """Equal checkpoints, states and metrics, to the bit."""
    assert (a / FILE).read_bytes() == (b / FILE).read_bytes()
    (tensors, metadata), (others, other_metadata) = newest_state(a / "state"), newest_state(b / "state")
    assert metadata == other_metadata and tensors.keys() == others.keys()
    assert all(torch.equal(value, others[name]) for name, value in tensors.items())
    assert (a / "metrics.csv").read_text() == (b / "metrics.csv").read_text()


def stripped(*keys, only=None):
    """Copper without some labels, in all structures or in those of ``only``."""
    structures = copper(16)
    for k, atoms in enumerate(structures):
        for key in keys if only is None or k in only else ():
            del atoms.calc.results[key]
    return structures


# It learns


def test_the_loss_falls_fivefold_and_errors_with_it(tmp_path, dataset):
    settings = {"epochs": 60, "validate_every": 10, "learning_rate": 0.01, "optimizer": "adamw"}
    config = configure(tmp_path, dataset, **settings)
    losses = []
    path = train(config, on_step=lambda step: losses.append(step["loss"]))
    assert np.mean(losses[-6:]) < np.mean(losses[:6]) / 5
    rows = metrics(tmp_path)
    assert [row["epoch"] for row in rows] == [10, 20, 30, 40, 50, 60] and rows[-1]["step"] == 180
    assert rows[-1]["val/loss"] < rows[0]["val/loss"] / 3
    untrained = tiny(dtype=torch.float32)
    initialise(untrained, dataset)
    model, _ = load_checkpoint(path)
    before, after = (predict(m, dataset, range(16)).errors() for m in (untrained, model))
    assert after["energy_mae"] < before["energy_mae"] / 10
    assert after["forces_mae"] < before["forces_mae"] / 2
    assert after["stress_mae"] < before["stress_mae"] / 3


def test_what_is_written_is_all_there_and_nothing_else(tmp_path, dataset, drawn):
    train(configure(tmp_path, dataset, **SHORT))
    assert sorted(os.listdir(tmp_path)) == ["learning-curve.png", "metrics.csv", FILE, "run.json", "state"]
    assert sorted(os.listdir(tmp_path / "state")) == ["step-12", "step-18"]
    assert (tmp_path / "learning-curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_checkpoint_knows_data_scores_and_notes_and_works_as_calculator(tmp_path, dataset):
    path = train(configure(tmp_path, dataset, **SHORT, notes={"licence": "CC0"}))
    assert path == tmp_path / FILE
    calculator = NFFLrCalculator.load(path)
    metadata = calculator.metadata
    assert metadata["data_digest"] == dataset.digest() and metadata["notes"] == {"licence": "CC0"}
    assert {"val/loss", "val/forces_mae", "epoch"} <= metadata["scores"].keys()
    atoms = dataset.records[0].atoms.copy()
    atoms.calc = calculator
    assert abs(atoms.get_potential_energy() / len(atoms) + 3.4) < 0.2


def test_listeners_hear_every_step_and_validation(tmp_path, dataset):
    steps, rows = [], []
    train(configure(tmp_path, dataset, **SHORT), on_step=steps.append, on_validation=rows.append)
    assert [s["step"] for s in steps] == list(range(1, 19)) and {s["total"] for s in steps} == {18}
    assert all(math.isfinite(s["loss"]) for s in steps)
    assert [row["epoch"] for row in rows] == [2, 4, 6]
    losses = [s["loss"] for s in steps]
    assert [row["train/loss"] for row in rows] == pytest.approx(
        [np.mean(losses[k : k + 6]) for k in (0, 6, 12)]
    )


def test_the_last_epoch_is_validated_even_out_of_turn(tmp_path, dataset):
    train(configure(tmp_path, dataset, epochs=5, validate_every=2))
    assert [row["epoch"] for row in metrics(tmp_path)] == [2, 4, 5]


# Before the first step


@pytest.mark.parametrize("missing", [None, 3])
def test_reference_energies_are_an_independent_least_squares_of_the_training_split(missing):
    rng = np.random.default_rng(0)
    structures = copper(16, sizes=((1, 1, 2),))
    for atoms in structures:
        atoms.numbers = rng.choice([29, 79, 13], size=8)
        n = np.bincount(atoms.numbers, minlength=80)
        energy = -3.5 * n[29] - 4.0 * n[79] - 2.5 * n[13] + rng.normal()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=rng.normal(size=(8, 3)))
    if missing is not None:
        del structures[missing].calc.results["energy"]
    data = AtomsDataset(structures, n_train=12, n_val=4, allow_missing=True, transform=radius_graph)
    model = tiny(("Cu", "Au", "Al"), torch.float32)
    initialise(model, data)
    records = [r for r in data.part("train") if "total_energy" in r.labels]
    design = np.array([[np.sum(r.atoms.numbers == z) for z in (13, 29, 79)] for r in records], float)
    energy = np.array([float(r.labels["total_energy"]) for r in records])
    expected = np.linalg.solve(design.T @ design, design.T @ energy)  # the normal equations
    assert model.elements == ("Al", "Cu", "Au")
    assert model.reference_energies.numpy() == pytest.approx(expected, rel=1e-9)
    assert model.reference_energies.dtype == torch.float64
    forces = np.concatenate([r.labels["forces"] for r in data.part("train")])
    assert float(model.scale) == pytest.approx(np.sqrt(np.mean(forces**2)), rel=1e-12)


def test_elements_that_cannot_be_told_apart_still_sum_to_the_energies():
    # Equal compositions leave the least squares without a unique answer; any finite one will do.
    structures = copper(8, sizes=((1, 1, 1),))
    for atoms in structures:
        atoms.numbers[:2] = 79
    data = AtomsDataset(structures, n_train=6, n_val=2, transform=radius_graph)
    model = tiny(("Cu", "Au"), torch.float32)
    initialise(model, data)
    mean = np.mean([float(r.labels["total_energy"]) for r in data.part("train")])
    assert float(model.reference_energies.sum() * 2) == pytest.approx(mean, rel=1e-9)


def test_every_epoch_sees_all_structures_in_another_order(tmp_path, dataset, monkeypatch):
    seen, ends = [], []
    get = AtomsDataset.__getitem__
    monkeypatch.setattr(AtomsDataset, "__getitem__", lambda self, k: (seen.append(k), get(self, k))[1])
    config = configure(tmp_path, dataset, epochs=3, validate_every=3)
    train(config, on_step=lambda step: ends.append(len(seen)))
    read = seen[ends[0] - 4 : ends[-1]]  # what came before was for calibration
    epochs = [read[k : k + 12] for k in (0, 12, 24)]
    assert all(sorted(epoch) == sorted(dataset.split["train"]) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


# Repeatable to the bit


def test_the_same_run_twice_gives_the_same_bytes(tmp_path, dataset):
    for name in ("a", "b"):
        train(configure(tmp_path / name, dataset, **SHORT))
    assert_same_run(tmp_path / "a", tmp_path / "b")
    train(configure(tmp_path / "c", dataset, **SHORT, random_seed=7))
    assert (tmp_path / "c" / FILE).read_bytes() != (tmp_path / "a" / FILE).read_bytes()


def interrupted(config, **when) -> None:
    """Run until the given ``step`` or ``epoch`` of a validation, then Ctrl-C."""

    def stop(found):
        if all(found[key] == value for key, value in when.items()):
            raise KeyboardInterrupt

    listener = "on_step" if "step" in when else "on_validation"
    resume = (config.output_dir / "state").exists()
    with pytest.raises(KeyboardInterrupt):
        train(config, resume=resume, **{listener: stop})


@pytest.fixture(scope="module")
def whole(tmp_path_factory, dataset):
    """An uninterrupted run of six epochs and a fresh config for another one like it."""
    settings = {**SHORT, "energy_weight": (0.2, 1.0), "ema_decay": 0.9}
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.REGISTRY, TinyNetwork.key, TinyNetwork)
        train(configure(out, dataset, **settings))
    # Other initial weights: everything must come from the state.
    return out, lambda place: configure(
        place, copper_dataset(16), **settings, model=tiny(dtype=torch.float32, seed=5)
    )


@pytest.mark.parametrize(
    "stops",
    [
        [{"epoch": 2}],
        [{"epoch": 4}],
        [{"step": 7}],
        [{"step": 17}],
        [{"epoch": 2}, {"step": 11}, {"epoch": 4}],
    ],
    ids=str,
)
def test_a_run_stopped_and_resumed_equals_the_uninterrupted_one(tmp_path, dataset, whole, stops):
    out, fresh = whole
    settings = {**SHORT, "energy_weight": (0.2, 1.0), "ema_decay": 0.9}
    interrupted(configure(tmp_path, dataset, **settings), **stops[0])
    for stop in stops[1:]:
        interrupted(fresh(tmp_path), **stop)
    train(fresh(tmp_path), resume=True)
    assert_same_run(tmp_path, out)


def test_resuming_a_finished_run_changes_nothing(tmp_path, whole):
    out, fresh = whole
    shutil.copytree(out, tmp_path / "run")
    assert train(fresh(tmp_path / "run"), resume=True) == tmp_path / "run" / FILE
    assert_same_run(tmp_path / "run", out)


def test_a_damaged_newest_state_is_resumed_from_the_one_before(tmp_path, whole):
    out, fresh = whole
    shutil.copytree(out, tmp_path / "run")
    file = tmp_path / "run" / "state" / "step-18" / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    train(fresh(tmp_path / "run"), resume=True)
    assert_same_run(tmp_path / "run", out)


def test_a_full_disk_stops_the_run_and_it_resumes_where_it_was(tmp_path, dataset, whole, monkeypatch):
    out, fresh = whole
    settings = {**SHORT, "energy_weight": (0.2, 1.0), "ema_decay": 0.9}
    calls, replace = [], os.replace

    def full_from_the_sixth(*names):
        calls.append(names)
        if len(calls) > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(*names)

    monkeypatch.setattr(os, "replace", full_from_the_sixth)
    with pytest.raises(ResourceError, match="No space left"):
        train(configure(tmp_path, dataset, **settings))
    monkeypatch.setattr(os, "replace", replace)
    train(fresh(tmp_path), resume=True)
    assert_same_run(tmp_path, out)


@pytest.mark.parametrize(
    "optimizer, schedule", [("sgd", "constant"), ("adamw", "onecycle"), ("soap", "plateau")]
)
def test_other_optimisers_and_schedules_resume_to_the_bit_too(tmp_path, dataset, optimizer, schedule):
    settings = {**SHORT, "optimizer": optimizer, "schedule": schedule, "learning_rate": 1e-3}
    train(configure(tmp_path / "whole", dataset, **settings))
    interrupted(configure(tmp_path / "parts", dataset, **settings), epoch=4)
    train(configure(tmp_path / "parts", dataset, **settings), resume=True)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_workers_change_nothing(tmp_path, dataset):
    for workers in (0, 1):
        train(configure(tmp_path / str(workers), dataset, epochs=2, num_workers=workers))
    assert_same_run(tmp_path / "0", tmp_path / "1")


def test_the_callers_random_state_is_left_alone(tmp_path, dataset):
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()
    train(configure(tmp_path, dataset, epochs=1))
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.get_rng_state().tolist() == before[0]


# Resume refused


@pytest.mark.parametrize(
    "change, name",
    [
        ({"learning_rate": 0.1}, "learning_rate"),
        ({"epochs": 9}, "epochs"),
        ({"random_seed": 1}, "random_seed"),
        ({"criterion": nn.MSELoss()}, "criterion"),
        ({"force_weight": (1.0, 2.0)}, "force_weight"),
    ],
)
def test_a_resume_with_a_changed_setting_names_it_and_both_values(tmp_path, dataset, change, name):
    config = configure(tmp_path, dataset, **SHORT)
    interrupted(config, epoch=2)
    kept = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match=rf"^{name}: was .* is .*") as caught:
        train(configure(tmp_path, dataset, **{**SHORT, **change}), resume=True)
    assert caught.value.exit_code == 2
    then, now = config.plain()[name], configure(tmp_path, dataset, **{**SHORT, **change}).plain()[name]
    assert repr(then) in str(caught.value) and repr(now) in str(caught.value)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == kept


def test_a_resume_with_other_data_is_refused(tmp_path, dataset):
    interrupted(configure(tmp_path, dataset, **SHORT), epoch=2)
    with pytest.raises(ConfigError, match="dataset: .*changed"):
        train(configure(tmp_path, copper_dataset(16, seed=1), **SHORT), resume=True)


def test_a_resume_with_another_model_is_refused_in_words(tmp_path, dataset):
    interrupted(configure(tmp_path, dataset, **SHORT), epoch=2)
    for model in (
        tiny(dtype=torch.float32, width=4),
        tiny(dtype=torch.float64),
        tiny(("Cu", "Al"), torch.float32),
    ):
        with pytest.raises(ConfigError, match="model") as caught:
            train(configure(tmp_path, dataset, **SHORT, model=model), resume=True)
        assert "\n" not in str(caught.value)


def test_a_resume_of_nothing_is_refused(tmp_path, dataset):
    with pytest.raises(ConfigError, match="no training state to resume"):
        train(configure(tmp_path, dataset), resume=True)


# Output folders


def test_an_output_that_exists_is_refused_and_left_alone(tmp_path, dataset):
    path = train(configure(tmp_path, dataset, epochs=1))
    kept = path.read_bytes()
    with pytest.raises(ConfigError, match=rf"{FILE}: exists; use --resume, --overwrite") as caught:
        train(configure(tmp_path, dataset, epochs=1, random_seed=9))
    assert caught.value.exit_code == 2 and path.read_bytes() == kept


def test_overwriting_starts_anew_and_a_resume_continues_the_new_run(tmp_path, dataset):
    train(configure(tmp_path / "run", dataset, epochs=9))
    settings = {**SHORT, "learning_rate": 1e-3}
    with pytest.raises(KeyboardInterrupt):
        train(configure(tmp_path / "run", dataset, **settings), overwrite=True, on_validation=stop_at_once)
    train(configure(tmp_path / "run", dataset, **settings), resume=True)
    train(configure(tmp_path / "alone", dataset, **settings))
    assert_same_run(tmp_path / "run", tmp_path / "alone")


def test_a_run_that_is_refused_overwrites_nothing(tmp_path, dataset):
    train(configure(tmp_path, dataset, epochs=1))
    kept = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for wrong in ({"select_by": "val/los"}, {"model": tiny(dtype=torch.float32, cutoff=CUTOFF + 0.5)}):
        with pytest.raises(ConfigError):
            train(configure(tmp_path, dataset, **wrong), overwrite=True)
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == kept


def stop_at_once(row):
    raise KeyboardInterrupt


def test_an_output_that_cannot_be_made_is_refused_before_the_first_step(tmp_path, dataset):
    (tmp_path / "file").write_text("")
    steps = []
    with pytest.raises(ResourceError) as caught:
        train(configure(tmp_path / "file" / "run", dataset), on_step=steps.append)
    assert caught.value.exit_code == 6 and steps == []


# Selection


@pytest.mark.parametrize("metric", ["val/loss", "val/error", "val/energy_mae", "val/stress_rmse"])
def test_the_checkpoint_is_that_of_the_lowest_value(tmp_path, dataset, metric):
    # A learning rate that hurts makes validation go up and down.
    kept = {}

    def keep(row):
        kept[row["epoch"]] = row[metric]

    config = configure(
        tmp_path,
        dataset,
        optimizer="adamw",
        learning_rate=0.5,
        schedule="constant",
        ema_decay=0.0,
        select_by=metric,
    )
    path = train(config, on_validation=keep)
    best = min(kept, key=kept.get)
    assert 1 < best < config.epochs  # neither the first nor the last, or nothing was selected
    column = [row[metric] for row in metrics(tmp_path)]
    assert column.index(min(column)) + 1 == best
    model, metadata = load_checkpoint(path)
    assert metadata["scores"]["epoch"] == best and metadata["scores"][metric] == kept[best]
    errors = predict(model, dataset, dataset.split["val"]).errors()
    for name in ("energy_mae", "forces_rmse", "stress_mae"):
        assert errors[name] == pytest.approx(metadata["scores"][f"val/{name}"], rel=1e-5)


def test_a_potential_is_chosen_by_the_relative_errors_of_all_that_counts(tmp_path, dataset):
    path = train(configure(tmp_path, dataset, epochs=3, stress_weight=0.0))
    rows = metrics(tmp_path)
    expected = [math.sqrt(row["val/energy_mae"] * row["val/forces_mae"]) for row in rows]  # not stresses
    assert [row["val/error"] for row in rows] == pytest.approx(expected, rel=1e-9)
    assert load_checkpoint(path)[1]["scores"]["epoch"] == 1 + expected.index(min(expected))


def test_validation_errors_are_those_of_the_averaged_weights(tmp_path, dataset):
    path = train(configure(tmp_path, dataset, epochs=3))
    tensors, _ = newest_state(tmp_path / "state")
    model, metadata = load_checkpoint(path)
    assert metadata["scores"]["epoch"] == 3  # still falling
    for name, value in model.state_dict().items():
        assert torch.equal(value, tensors[f"ema.module.{name}"])
    assert not torch.equal(model.hidden.weight, tensors["model.hidden.weight"])


def test_training_stops_when_validation_no_longer_improves(tmp_path, dataset):
    config = configure(tmp_path, dataset, epochs=50, patience=3, learning_rate=1e-30, schedule="constant")
    train(config)
    assert [row["epoch"] for row in metrics(tmp_path)] == [1, 2, 3, 4]
    train(config, resume=True)  # and stays stopped
    assert [row["epoch"] for row in metrics(tmp_path)] == [1, 2, 3, 4]


@pytest.mark.parametrize("rate, epochs, last", [(1e-30, 50, 5), (1e-3, 6, 6)], ids=["stalls", "time is up"])
def test_a_plateau_ends_half_as_many_steps_after_it_was_seen(tmp_path, dataset, rate, epochs, last):
    settings = {"epochs": epochs, "learning_rate": rate, "warmup_steps": 1}
    config = configure(tmp_path, dataset, schedule="plateau", stall=2, **settings)
    rates = []
    train(config, on_step=lambda step: rates.append((step["epoch"], step["total"])))
    assert [row["epoch"] for row in metrics(tmp_path)] == list(range(1, last + 1))
    assert rates[-1][1] == len(rates)  # the steps that were announced in the end
    train(config, resume=True)
    assert [row["epoch"] for row in metrics(tmp_path)][-1] == last


def test_a_plateau_and_even_averages_are_refused_together(tmp_path, dataset):
    with pytest.raises(ValidationError, match="another schedule than plateau"):
        configure(tmp_path, dataset, schedule="plateau", swa_start=0.5)


def test_an_unknown_metric_is_refused_before_the_first_step(tmp_path, dataset):
    steps = []
    with pytest.raises(ConfigError, match=r"select_by: no metric 'val/los'.*val/loss"):
        train(configure(tmp_path, dataset, select_by="val/los"), on_step=steps.append)
    assert steps == []


def test_a_metric_without_labels_is_refused_rather_than_leaving_no_checkpoint(tmp_path):
    data = AtomsDataset(stripped("stress"), n_train=12, n_val=4, transform=radius_graph)
    with pytest.raises(ConfigError, match="select_by"):
        train(configure(tmp_path, data, epochs=1, select_by="val/stress_mae"))


def test_an_empty_validation_split_is_refused(tmp_path):
    data = copper_dataset(8, n_train=8, n_val=0)
    with pytest.raises(ConfigError, match="validation split is empty"):
        train(configure(tmp_path, data))


# Missing labels


def test_data_without_stress_are_trained_on(tmp_path, drawn):
    data = AtomsDataset(stripped("stress"), n_train=12, n_val=4, transform=radius_graph)
    path = train(configure(tmp_path, data, **SHORT))
    rows = metrics(tmp_path)
    assert all(math.isnan(row["val/stress_mae"]) and math.isfinite(row["val/loss"]) for row in rows)
    assert rows[-1]["val/loss"] < rows[0]["val/loss"]
    _, metadata = load_checkpoint(path)
    assert "val/stress_mae" not in metadata["scores"]


def test_a_run_without_stress_labels_resumes_too(tmp_path):
    data = AtomsDataset(stripped("stress"), n_train=12, n_val=4, transform=radius_graph)
    train(configure(tmp_path / "whole", data, **SHORT))
    interrupted(configure(tmp_path / "parts", data, **SHORT), epoch=2)
    train(configure(tmp_path / "parts", data, **SHORT), resume=True)
    assert (tmp_path / "parts" / FILE).read_bytes() == (tmp_path / "whole" / FILE).read_bytes()


@pytest.mark.parametrize("keys", [("forces",), ("stress",), ("energy", "forces")], ids=str)
def test_missing_labels_of_some_structures_are_masked(tmp_path, keys):
    data = AtomsDataset(
        stripped(*keys, only=range(0, 16, 2)), n_train=12, n_val=4, transform=radius_graph, allow_missing=True
    )
    train(configure(tmp_path, data, **SHORT))
    rows = metrics(tmp_path)
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]


def test_a_structure_without_any_label_is_harmless(tmp_path):
    data = AtomsDataset(
        stripped("energy", "forces", "stress", only=[2]),
        n_train=12,
        n_val=4,
        transform=radius_graph,
        allow_missing=True,
    )
    assert any(data.records[k].labels == {} for k in data.split["train"])  # or the seed needs changing
    train(configure(tmp_path, data, epochs=1, batch_size=1))
    assert all(math.isfinite(value) for row in metrics(tmp_path) for value in row.values())


def test_energies_alone_are_trained_on(tmp_path):
    data = AtomsDataset(
        stripped("forces", "stress"), "total_energy", n_train=12, n_val=4, transform=radius_graph
    )
    train(configure(tmp_path, data, **{**SHORT, "epochs": 40, "validate_every": 10}))
    rows = metrics(tmp_path)
    assert rows[-1]["val/energy_mae"] < rows[0]["val/energy_mae"]


def test_a_weight_of_zero_leaves_a_label_out(tmp_path):
    wrong, right = copper(16), copper(16)
    for atoms in wrong:
        atoms.calc.results["stress"] = atoms.calc.results["stress"] * 1.7
    for name, structures in (("wrong", wrong), ("right", right)):
        data = AtomsDataset(structures, n_train=12, n_val=4, transform=radius_graph)
        train(configure(tmp_path / name, data, epochs=2, stress_weight=0.0))
    assert [r["val/loss"] for r in metrics(tmp_path / "wrong")] == [
        r["val/loss"] for r in metrics(tmp_path / "right")
    ]


# Faults


def test_a_loss_that_is_nan_names_step_and_structures_and_writes_nothing(tmp_path, dataset):
    model = tiny(dtype=torch.float32)
    with torch.no_grad():
        model.hidden.weight[0, 0] = float("nan")
    with pytest.raises(NumericsError, match="not finite at step 0") as caught:
        train(configure(tmp_path, dataset, model=model))
    assert caught.value.exit_code == 5
    named = [r.id for r in dataset.part("train") if r.id in str(caught.value)]
    assert len(named) == 4 and str(caught.value).startswith("structures[")
    assert not (tmp_path / FILE).exists()


def test_a_nan_in_mid_run_leaves_the_best_and_the_last_finite(tmp_path, dataset):
    config = configure(tmp_path, dataset, **SHORT)

    def spoil(found):
        if found["step"] == 8:
            with torch.no_grad():
                config.model.readout.weight.fill_(float("nan"))

    with pytest.raises(NumericsError, match="at step 8"):
        train(config, on_step=spoil)
    model, _ = load_checkpoint(tmp_path / FILE)
    tensors, metadata = newest_state(tmp_path / "state")
    assert metadata["epoch"] == 2
    for values in (model.state_dict(), tensors):
        assert all(torch.isfinite(value).all() for value in values.values())


class SharpCorner(nn.Module):
    """Finite everywhere, but its slope at zero is not."""

    def forward(self, prediction, target):
        difference = prediction - target
        return difference.square().mean() + (0 * difference).abs().sqrt().mean()


def test_a_gradient_that_is_nan_is_an_error_before_it_reaches_the_weights(tmp_path, dataset):
    config = configure(tmp_path, dataset, criterion=SharpCorner(), batch_size=12)
    with pytest.raises(NumericsError, match="not finite"):
        train(config)
    assert all(torch.isfinite(p).all() for p in config.model.parameters())
    assert newest_state(tmp_path / "state") is None


def test_a_structure_with_an_element_the_model_lacks_is_named(tmp_path):
    structures = copper(16)
    structures[5].numbers[0] = 79
    data = AtomsDataset(structures, n_train=12, n_val=4, transform=radius_graph)
    with pytest.raises(StructureError, match="Au"):
        train(configure(tmp_path, data))


def test_data_without_any_neighbours_are_refused(tmp_path):
    structures = [ase.Atoms("Cu", positions=[[k, 0, 0]]) for k in range(8)]
    for atoms in structures:
        atoms.calc = SinglePointCalculator(atoms, energy=-3.5, forces=np.zeros((1, 3)))
    with pytest.raises(StructureError, match="neighbour|isolated"):
        data = AtomsDataset(structures, n_train=6, n_val=2, transform=radius_graph)
        train(configure(tmp_path, data, epochs=1))


def error_in_use(path, records) -> float:
    """Mean absolute energy error (eV/atom) of the calculator that a user loads."""
    found = NFFLrCalculator.load(path).evaluate([r.atoms for r in records])
    pairs = zip(found, records, strict=True)
    return np.mean([abs(f["energy"] - float(r.labels["total_energy"])) / len(r.atoms) for f, r in pairs])


@pytest.mark.parametrize("cutoff", [CUTOFF - 0.5, CUTOFF + 0.5])
def test_a_transform_that_does_not_fit_the_models_cutoff_is_refused(tmp_path, dataset, cutoff):
    with pytest.raises(ConfigError, match="cutoff"):
        train(configure(tmp_path, dataset, model=tiny(dtype=torch.float32, cutoff=cutoff), epochs=1))


def test_data_without_a_transform_take_the_cutoff_of_each_model(tmp_path):
    # Errors seen in training must be those that a user of the calculator gets.
    data = AtomsDataset(copper(16), n_train=12, n_val=4)
    for k in data.split["val"]:
        data[k]  # a graph made before the model is known must not be kept
    for cutoff in (6.0, 3.5):
        model = tiny(dtype=torch.float32, cutoff=cutoff)
        path = train(configure(tmp_path / str(cutoff), data, model=model, epochs=1))
        _, metadata = load_checkpoint(path)
        assert metadata["scores"]["val/energy_mae"] == pytest.approx(
            error_in_use(path, data.part("val")), rel=1e-4
        )


def test_predictions_on_fresh_data_use_the_models_cutoff(tmp_path):
    model = tiny(cutoff=6.0)
    data = AtomsDataset(copper(6))
    energies = [
        r["energy"] / len(x.atoms)
        for r, x in zip(
            NFFLrCalculator(model).evaluate([x.atoms for x in data.records]), data.records, strict=True
        )
    ]
    assert predict(model, data, range(6))["total_energy"].predicted == pytest.approx(energies, abs=1e-9)
