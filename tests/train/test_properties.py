"""Properties are learned: scalars, vectors, classes, several at once; losses against arithmetic."""

import math
import re

import numpy as np
import pytest
import torch
from ase.build import bulk
from builders import copper, copper_dataset
from torch import nn

from nfflr.atoms import Atoms
from nfflr.calculator import NFFLrCalculator
from nfflr.checkpoint import load_checkpoint
from nfflr.cli.main import run
from nfflr.data.dataset import AtomsDataset, collate
from nfflr.data.graph import periodic_radius_graph
from nfflr.data.inputs import to_dgl, to_pyg, with_ghosts
from nfflr.errors import ConfigError
from nfflr.models.gnn.alignn_ff import ALIGNN, ALIGNNConfig
from nfflr.quantities import Quantity
from nfflr.reports.evaluation import Comparison, Predictions, predict
from nfflr.train.config import TrainingConfig
from nfflr.train.initialise import prepared
from nfflr.train.run import Run
from nfflr.train.trainer import train

NAMES = ("width", "axes", "kind")


def crystals(count: int = 24) -> list:
    """Cubic copper and silver, with the lattice constant, a vector made of it, and the element as labels."""
    structures = []
    for k in range(count):
        a = 3.5 + 0.9 * k / count
        atoms = bulk("Cu" if k % 3 else "Ag", "fcc", a=a, cubic=bool(k % 2))
        atoms.info |= {"width": 10 * a + 100.0, "axes": [a, -a, 2.0], "kind": "copper" if k % 3 else "silver"}
        structures.append(atoms)
    return structures


def model_of(**settings) -> ALIGNN:
    small = {
        "elements": ("Cu", "Ag"),
        "cutoff": 4.5,
        "hidden_features": 16,
        "alignn_layers": 1,
        "gcn_layers": 0,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ALIGNN(ALIGNNConfig(**{**small, "readout": "mean", **settings}))


OUTPUTS = {"width": 1, "axes": 3, "kind": 2}
SINGLE = {"width": 1, "axes": 3, "kind": 2}


@pytest.fixture
def configure(tmp_path):
    def make(target, **settings) -> TrainingConfig:
        dataset = settings.pop("dataset", None) or AtomsDataset(crystals(), target, n_train=16, n_val=4)
        outputs = SINGLE[target] if isinstance(target, str) else {name: OUTPUTS[name] for name in target}
        defaults = {"epochs": 40, "batch_size": 4, "validate_every": 10, "warmup_steps": 5, "progress": False}
        defaults |= {"dataset": dataset, "output_dir": tmp_path / "run", "learning_rate": 1e-2}
        return TrainingConfig(**{**defaults, "model": model_of(output_features=outputs), **settings})

    return make


def test_a_scalar_is_regressed(configure):
    config = configure("width")
    model, metadata = load_checkpoint(train(config))
    assert metadata["targets"] == {"width": {"kind": "regression"}}
    dataset = config.dataset
    errors = predict(model, dataset, dataset.split["test"]).errors()
    spread = np.std([float(r.labels["width"]) for r in dataset.records])
    assert errors["width_mae"] < 0.3 * spread
    assert model(dataset.records[0].atoms).shape == ()


def test_a_vector_is_regressed(configure):
    config = configure("axes")
    model, _ = load_checkpoint(train(config))
    errors = predict(model, config.dataset, config.dataset.split["test"]).errors()
    assert (
        errors["axes_mae"] < 0.08
    )  # the spread of the first two components is 0.27 Å, the third is constant
    assert model(config.dataset.records[0].atoms).shape == (3,)


def test_a_class_is_learned_and_its_names_are_kept(configure, capsys):
    config = configure("kind", select_by="val/kind_accuracy")
    model, metadata = load_checkpoint(train(config))
    assert run(["info", str(config.output_dir)]) == 0
    assert "kind (copper, silver)" in capsys.readouterr().out
    assert metadata["targets"] == {"kind": {"kind": "class", "classes": ["copper", "silver"]}}
    errors = predict(model, config.dataset, config.dataset.split["test"]).errors()
    assert errors == {"kind_accuracy": 1.0}


def test_several_targets_are_learned_together_each_by_its_own_loss(configure):
    criterion = {"width": nn.MSELoss(), "axes": nn.L1Loss(), "kind": nn.CrossEntropyLoss()}
    config = configure(NAMES, criterion=criterion, target_weights={"kind": 0.5}, epochs=60)
    model, metadata = load_checkpoint(train(config))
    assert set(metadata["scores"]) >= {"val/width_mae", "val/axes_rmse", "val/kind_accuracy", "val/loss"}
    errors = predict(model, config.dataset, config.dataset.split["test"]).errors()
    assert errors["width_mae"] < 1.0 and errors["axes_mae"] < 0.15 and errors["kind_accuracy"] == 1.0


def test_the_loss_of_a_batch_is_the_weighted_sum_of_the_criteria_of_scaled_errors(configure):
    criterion = {"width": nn.MSELoss(), "axes": nn.L1Loss()}
    config = prepared(configure(NAMES, criterion=criterion, target_weights={"axes": 0.25, "kind": 3.0}))
    run_ = Run(config)
    dataset, chosen = config.dataset, config.dataset.split["train"][:5]
    x, labels = collate([dataset[k] for k in chosen])
    found = run_.train_step(None, [(x, labels)])
    output = prepared(configure(NAMES)).model.train()(x)
    training = dataset.part("train")
    scales = {n: np.std([np.atleast_1d(r.labels[n]) for r in training]) for n in ("width", "axes")}
    expected = ((output["width"] - labels["width"]) / scales["width"]).square().mean()
    expected = expected + 0.25 * ((output["axes"] - labels["axes"]) / scales["axes"]).abs().mean()
    expected = expected + 3.0 * nn.functional.cross_entropy(output["kind"], labels["kind"])
    assert found == pytest.approx(expected.item(), rel=1e-6)


def test_classes_may_have_weights_and_the_update_is_still_that_of_the_whole_batch(configure):
    criterion = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0]))
    found = []
    for parts in (1, 3):
        run_ = Run(prepared(configure("kind", criterion=criterion)))
        dataset = run_.config.dataset
        chosen = np.array_split(dataset.split["train"][:8], parts)
        found.append(run_.train_step(None, [collate([dataset[k] for k in part]) for part in chosen]))
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_missing_labels_are_masked_target_by_target(configure):
    structures = crystals()
    del structures[0].info["width"]
    for atoms in structures[1:6]:
        del atoms.info["kind"]
    dataset = AtomsDataset(structures, NAMES, n_train=16, n_val=4, allow_missing=True)
    config = configure(NAMES, dataset=dataset, epochs=2)
    train(config)
    pairs = predict(config.model, dataset, range(24))
    assert np.isnan(pairs["width"].reference).sum() == 1 and (pairs["kind"].reference < 0).sum() == 5
    assert all(math.isfinite(value) for value in pairs.errors().values())


def test_errors_are_pooled_over_what_is_labelled():
    x = Comparison(Quantity("x"), np.array([1.0, 2.0, 5.0]), np.array([0.0, np.nan, 2.0]))
    scores = np.array([[0.1, 0.9], [0.8, 0.2], [0.6, 0.4]])
    c = Comparison(Quantity("c", classes=("a", "b")), scores, np.array([1, -100, 1]))
    pairs = Predictions({"x": x, "c": c}, owner=np.arange(3), groups=np.array(["g"] * 3))
    found = pairs.errors()
    assert found == {"x_mae": 2.0, "x_rmse": pytest.approx(5**0.5), "c_accuracy": 0.5}
    assert Predictions.join([pairs, pairs]).errors() == found


def test_a_property_run_resumes_to_the_bit(configure, tmp_path):
    settings = {"epochs": 6, "validate_every": 2}
    train(configure("width", **settings, output_dir=tmp_path / "whole"))

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(configure("width", **settings, output_dir=tmp_path / "parts"), on_validation=stop)
    train(configure("width", **settings, output_dir=tmp_path / "parts"), resume=True)
    names = ("model.safetensors", "metrics.csv")
    assert all((tmp_path / "whole" / n).read_bytes() == (tmp_path / "parts" / n).read_bytes() for n in names)


@pytest.mark.parametrize(
    ("target", "settings", "message"),
    [
        ("width", {"model": model_of(readout="energy")}, "readout is 'energy', the data set asks for width"),
        ("width", {"model": model_of(output_features=2)}, "width"),
        ("kind", {"model": model_of(output_features=3)}, "kind comes out as (4, 3)"),
        (NAMES, {"model": model_of(output_features={"width": 1, "axes": 3})}, "the targets are"),
        ("width", {"criterion": nn.CrossEntropyLoss()}, "criterion: width is a number, not for"),
        ("kind", {"criterion": {"kind": nn.MSELoss()}}, "criterion: kind is a class, which needs"),
        ("width", {"criterion": {"wdth": nn.MSELoss()}}, "criterion: no target 'wdth'"),
        ("width", {"target_weights": {"wdth": 1.0}}, "target_weights: no target 'wdth'"),
        ("width", {"select_by": "val/forces_mae"}, "select_by: no metric"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(configure, target, settings, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        train(configure(target, **settings))


def test_a_property_model_is_not_trained_on_forces(tmp_path):
    config = TrainingConfig(dataset=copper_dataset(8), model=model_of(), output_dir=tmp_path)
    with pytest.raises(ConfigError, match="readout is 'mean', the data set asks for an energy"):
        train(config)


def test_evaluate_reads_targets_and_classes_from_the_checkpoint(configure, tmp_path, capsys):
    import json

    import ase.io

    config = configure(("width", "kind"), epochs=3)
    train(config)
    only = [atoms for atoms in crystals() if atoms.info["kind"] == "silver"]  # alone they would be class 0
    ase.io.write(tmp_path / "silver.xyz", [a for a in only])
    assert (
        run(
            [
                "evaluate",
                "--model",
                str(config.output_dir),
                str(tmp_path / "silver.xyz"),
                "--out",
                str(tmp_path),
            ]
        )
        == 0
    )
    table = capsys.readouterr().out
    assert "width" in table and "accuracy" in table
    record = json.loads((tmp_path / "silver-evaluate.json").read_text())
    model, _ = load_checkpoint(config.output_dir)
    right = np.mean([int(model(a)["kind"].argmax()) == 1 for a in only])
    assert record["errors"]["all"]["kind_accuracy"] == pytest.approx(right)
    assert (tmp_path / "silver-evaluate.png").read_bytes().startswith(b"\x89PNG")


def test_evaluating_against_data_without_labels_is_refused(configure, tmp_path, capsys):
    import ase.io

    config = configure("width", epochs=1)
    train(config)
    ase.io.write(tmp_path / "bare.xyz", [bulk("Cu")])
    assert (
        run(
            [
                "evaluate",
                "--model",
                str(config.output_dir),
                str(tmp_path / "bare.xyz"),
                "--out",
                str(tmp_path),
            ]
        )
        == 3
    )
    assert "bare.xyz" in capsys.readouterr().err
    assert not (tmp_path / "bare-evaluate.json").exists()


def test_a_property_model_is_no_calculator(configure):
    with pytest.raises(ConfigError, match="property"):
        NFFLrCalculator(configure("width").model)


REPRESENTATIONS = {
    "dgl": lambda atoms: to_dgl(periodic_radius_graph(atoms, r=4.5)),
    "pyg": lambda atoms: to_pyg(periodic_radius_graph(atoms, r=4.5)),
    "ghosts": lambda atoms: with_ghosts(Atoms.from_ase(atoms), 4.5),
    "ase": lambda atoms: atoms,
}


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("target", [NAMES, "energy_and_forces"])
def test_every_representation_is_learned_from_batches_of_one_too(tmp_path, target, representation):
    """A DGL batch of one graph looks like a single structure; the labels still have their batch axis."""

    structures = crystals(8) if target == NAMES else copper(8)
    transform = REPRESENTATIONS[representation]
    dataset = AtomsDataset(structures, target, n_train=5, n_val=2, transform=transform)
    model = model_of(output_features=OUTPUTS) if target == NAMES else model_of(readout="energy")
    rows = []
    settings = {"epochs": 1, "batch_size": 2, "progress": False, "output_dir": tmp_path / "run"}
    train(TrainingConfig(dataset=dataset, model=model, **settings), on_validation=rows.append)
    assert all(math.isfinite(value) for value in rows[0].values())
