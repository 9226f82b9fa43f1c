"""Validation tasks while training: cadence, budget, failures, what they select, what they leave alone."""

import csv
import json
import math
import random
from dataclasses import replace

import ase
import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk
from builders import copper, copper_dataset
from pydantic import ValidationError

from nfflr.calculator import NFFLrCalculator
from nfflr.checkpoint import FILE, load_checkpoint
from nfflr.cli.main import run as nff
from nfflr.errors import ConfigError, NumericsError
from nfflr.models.moment import MomentConfig, MomentNetwork
from nfflr.storage.files import write_json
from nfflr.train import run as training_run
from nfflr.train.config import TrainingConfig, load_config
from nfflr.train.distributed import is_first, launch
from nfflr.train.run import Run
from nfflr.train.state import newest_state
from nfflr.train.trainer import train
from nfflr.validation.reading import read_suite
from nfflr.validation.suite import Task
from nfflr.workflows.framework.contract import Workflow
from nfflr.workflows.framework.interface import Progress, Settings, silent
from nfflr.workflows.framework.results import Result
from nfflr.workflows.framework.scores import Score

SUITE = """
tasks:
  - {name: eos, workflow: eos, structure: cu.vasp, reference: eos.json}
  - name: hot
    workflow: md
    structure: cu.vasp
    scores: [lost_fraction]
    settings: {ensemble: nvt, temperature: 300, timestep: 2, steps: 20}
"""
EOS = {
    "workflow": "eos",
    "result": {"volume_per_atom": 11.8, "bulk_modulus": 140.0},
    "units": {"volume_per_atom": "Å^3", "bulk_modulus": "GPa"},
}


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    (folder / "suite.yaml").write_text(SUITE)
    (folder / "eos.json").write_text(json.dumps(EOS))
    ase.io.write(folder / "cu.vasp", bulk("Cu", cubic=True))
    return folder


@pytest.fixture(scope="module")
def dataset():
    return copper_dataset(16)


def configure(out, dataset, **settings) -> TrainingConfig:
    defaults = {"epochs": 6, "batch_size": 4, "warmup_steps": 3, "validate_every": 1, "tasks_every": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MomentNetwork(MomentConfig(elements=("Cu",), cutoff=4.0, channels=4, hidden=4))
    return TrainingConfig(**{**defaults, "dataset": dataset, "model": model, "output_dir": out, **settings})


def cells(out) -> list[dict[str, str]]:
    with open(out / "metrics.csv") as file:
        return list(csv.DictReader(file))


class ProbeSettings(Settings):
    """None."""


class ProbeResult(Result):
    """One number of the model."""

    size: float = 0.0


def probe(scores=lambda result: result.size, do=lambda atoms, calculator: None, name="probe"):
    """A task whose score and side effects are a test's own; its number is the crystal's energy."""

    def function(atoms, calculator, settings, progress: Progress = silent) -> ProbeResult:
        do(atoms, calculator)
        progress(1, 1, {}, atoms)
        return ProbeResult(converged=True, message="", size=abs(atoms.get_potential_energy()))

    workflow = Workflow(
        name="probe",
        summary="A test's own.",
        function=function,
        settings=ProbeSettings,
        result=ProbeResult,
        plot=None,
        structures=("atoms",),
        overlays=False,
        archives=False,
        scores={"size": Score("eV", lambda result, reference, settings: scores(result))},
    )
    return Task(name, workflow, (bulk("Cu", cubic=True),), ProbeSettings())


# One number, three ways


def test_log_command_and_python_give_identical_numbers(capsys, tmp_path, dataset, suite):
    settings = {
        "epochs": 30,
        "tasks_every": 10,
        "learning_rate": 0.02,
        "select_by": "val/eos/bulk_modulus_error",
    }
    config = configure(tmp_path / "run", dataset, tasks=[suite], **settings)
    rows = []
    path = train(config, on_validation=rows.append)
    best = load_checkpoint(path)[1]["scores"]
    told = [row for row in cells(tmp_path / "run") if float(row["epoch"]) == best["epoch"]]
    report = read_suite(suite).run(NFFLrCalculator.load(path))
    assert nff(["validate", "--model", str(path), str(suite), "--out", str(tmp_path)]) == 0
    written = json.loads(next(tmp_path.glob("*-validate.json")).read_text())["tasks"]
    names = [n for n in report.scores() if n.count("/") == 1 and not n.endswith("failed")]
    assert len(names) == 3  # volume, modulus, survival
    for name in names:
        task, score = name.split("/")
        logged = next(row for row in rows if row["epoch"] == best["epoch"])[f"val/{name}"]
        assert float(told[0][f"val/{name}"]) == logged == report.scores()[name]
        assert logged == written[task]["scores"][score] == best[f"val/{name}"]
    assert report.scores()["eos/bulk_modulus_error"] > 0  # and not all are a trivial zero


# When


def test_rounds_come_every_so_many_epochs_and_at_the_end(tmp_path, dataset):
    train(configure(tmp_path, dataset, epochs=7, validate_every=5, tasks_every=3, tasks=[probe()]))
    rows = cells(tmp_path)
    assert [(row["epoch"], bool(row["val/probe/size"])) for row in rows] == [
        ("3", True),
        ("5", False),
        ("6", True),
        ("7", True),
    ]
    assert all(float(row["val/tasks/coverage"]) == 1 for row in rows if row["val/probe/size"])


def test_rounds_come_by_the_clock_too(monkeypatch, tmp_path, dataset):
    clock = iter(range(0, 10**6, 45))  # every look at it is 45 s later
    monkeypatch.setattr(training_run.time, "monotonic", lambda: next(clock))
    config = configure(tmp_path, dataset, epochs=8, tasks_every=100, tasks_minutes=2, tasks=[probe()])
    train(config)
    measured = [int(row["epoch"]) for row in cells(tmp_path) if row["val/probe/size"]]
    # A round looks once when it is over; 120 s later is the third look at an epoch's end.
    assert measured == [3, 6, 8]


def test_what_does_not_fit_the_budget_is_skipped_and_said(tmp_path, dataset):
    slow = probe(do=lambda atoms, calculator: training_run.time.sleep(0.15), name="slow")
    config = configure(tmp_path, dataset, epochs=2, tasks=[slow, probe()], tasks_budget=0.1)
    train(config)
    row = cells(tmp_path)[-1]
    assert float(row["val/tasks/coverage"]) == 0 and float(row["val/tasks/skipped"]) == 2
    assert not {"val/slow/size", "val/probe/size", "val/probe/failed"} & row.keys()


# What is selected


def test_the_checkpoint_is_that_of_the_lowest_score(tmp_path, dataset):
    values = iter([5.0, 2.0, 3.0])
    config = configure(
        tmp_path, dataset, select_by="val/probe/size", tasks=[probe(lambda result: next(values))]
    )
    path = train(config)
    scores = load_checkpoint(path)[1]["scores"]
    assert scores["epoch"] == 4 and scores["val/probe/size"] == 2.0


def test_a_weighted_sum_selects(tmp_path, dataset):
    first, second = iter([1.0, 2.0, 4.0]), iter([9.0, 5.0, 4.6])
    tasks = [probe(lambda r: next(first), name="a"), probe(lambda r: next(second), name="b")]
    path = train(configure(tmp_path, dataset, tasks=tasks, select_by={"val/a/size": 1.0, "val/b/size": 0.5}))
    assert load_checkpoint(path)[1]["scores"]["epoch"] == 4  # 5.5, 4.5, 6.3


def test_rounds_without_improvement_stop_the_run_and_epochs_between_do_not_count(tmp_path, dataset):
    values = iter([1.0, 2.0, 3.0, 4.0, 5.0])
    config = configure(
        tmp_path,
        dataset,
        epochs=20,
        patience=2,
        select_by="val/probe/size",
        tasks=[probe(lambda result: next(values))],
    )
    train(config)
    assert cells(tmp_path)[-1]["epoch"] == "6"


def explode_in(rounds: set[int]):
    """A side effect that fails in some rounds, counted from one."""
    count = 0

    def do(atoms, calculator):
        nonlocal count
        count += 1
        if count in rounds:
            raise NumericsError("exploded")

    return do


def test_a_failure_is_a_result_and_never_the_best(tmp_path, dataset):
    values = iter([5.0, 3.0])  # of the rounds that do not fail
    task = probe(lambda result: next(values), explode_in({1}))
    path = train(configure(tmp_path, dataset, select_by="val/probe/size", tasks=[task]))
    measured = [row for row in cells(tmp_path) if row["val/tasks/coverage"]]
    assert [float(row["val/probe/failed"]) for row in measured] == [1, 0, 0]
    assert math.isnan(float(measured[0]["val/probe/size"]))
    assert [float(row["val/tasks/coverage"]) for row in measured] == [0, 1, 1]
    assert load_checkpoint(path)[1]["scores"]["val/probe/size"] == 3.0


def test_where_every_round_failed_the_last_weights_are_kept_and_the_run_fails(tmp_path, dataset):
    config = configure(tmp_path, dataset, select_by="val/probe/size", tasks=[probe(do=explode_in({1, 2, 3}))])
    with pytest.raises(NumericsError, match="val/probe/size was never measured"):
        train(config)
    scores = load_checkpoint(tmp_path / FILE)[1]["scores"]
    assert scores["epoch"] == 6 and scores["val/probe/failed"] == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"select_by": "val/probe/sise"}, ["'val/probe/sise'", "did you mean 'val/probe/size'"]),
        ({"select_by": "val/eos/size"}, ["'val/eos/size'", "val/probe/size"]),
        ({"tasks": "nowhere"}, ["nowhere", "suite.yaml"]),
        ({"tasks": ["twice", "twice"]}, ["two tasks are called 'probe'"]),
    ],
)
def test_what_cannot_be_is_refused_before_training(tmp_path, dataset, settings, words):
    if settings.get("tasks") == ["twice", "twice"]:
        settings = {"tasks": [probe(), probe()]}
    with pytest.raises((ConfigError, ValidationError)) as error:
        Run(configure(tmp_path, dataset, **{"tasks": [probe()], **settings}))
    assert all(word in str(error.value) for word in words), error.value


# What is left alone


def test_a_run_with_tasks_is_the_run_without_them(tmp_path, dataset):
    """Weights, random states, modes and gradients: whatever a task does to them, training goes on."""

    def disturb(atoms, calculator):
        random.random(), np.random.rand(), torch.rand(3)
        calculator.model.train()
        with torch.no_grad():
            for parameter in calculator.model.parameters():
                parameter.mul_(0.5)
        atoms.get_forces()

    outs = [tmp_path / "with", tmp_path / "without"]
    states = []
    for out, tasks in zip(outs, ([probe(do=disturb)], []), strict=True):
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        train(configure(out, dataset, tasks=tasks))
        states.append((random.random(), np.random.rand(), torch.rand(1).item()))
    (tensors, _), (others, _) = (newest_state(out / "state") for out in outs)
    assert all(torch.equal(value, others[name]) for name, value in tensors.items())
    assert states[0] == states[1]


def test_tasks_see_the_averaged_weights(tmp_path, dataset):
    seen = []
    task = probe(do=lambda atoms, calculator: seen.append(calculator.model.state_dict()))
    path = train(configure(tmp_path, dataset, epochs=2, tasks=[task], select_by="val/probe/size"))
    kept, last = load_checkpoint(path)[0].state_dict(), newest_state(tmp_path / "state")[0]
    assert all(torch.equal(value, kept[name]) for name, value in seen[-1].items())
    moved = [
        n for n, v in kept.items() if v.dtype.is_floating_point and not torch.equal(v, last[f"model.{n}"])
    ]
    assert moved  # and these are not the weights that are being trained


# Interruptions


def test_a_run_killed_within_a_task_is_continued_to_the_bit(tmp_path, dataset):
    rounds = 0

    def die(atoms, calculator):
        nonlocal rounds
        rounds += 1
        if rounds == 2:
            raise KeyboardInterrupt

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    settings = {"select_by": "val/probe/size"}
    train(configure(whole, dataset, tasks=[probe()], **settings))
    with pytest.raises(KeyboardInterrupt):
        train(configure(broken, dataset, tasks=[probe(do=die)], **settings))
    assert cells(broken)[-1]["epoch"] == "3"  # the round at epoch 4 left nothing
    train(configure(broken, dataset, tasks=[probe()], **settings), resume=True)
    assert (whole / "metrics.csv").read_text() == (broken / "metrics.csv").read_text()
    assert (whole / FILE).read_bytes() == (broken / FILE).read_bytes()


def test_a_resume_needs_the_same_tasks(tmp_path, dataset, suite):
    train(configure(tmp_path, dataset, epochs=2, tasks=[suite]))
    tasks = read_suite(suite).tasks
    moved = tasks[0].structures[0].copy()
    moved.positions[0, 0] += 0.01
    for other in [tasks[:1], (replace(tasks[0], structures=(moved,)), *tasks[1:])]:
        with pytest.raises(ConfigError, match="^tasks: "):
            train(configure(tmp_path, dataset, epochs=2, tasks=other), resume=True)


# Ranks

CONFIG = """
from nfflr.data.dataset import AtomsDataset
from nfflr.models.moment import MomentConfig, MomentNetwork

dataset = AtomsDataset({data!r}, n_train=12, n_val=4)
model = MomentNetwork(MomentConfig(elements=("Cu",), cutoff=4.0, channels=4, hidden=4)).double()
output_dir = {out!r}
progress, warmup_steps, validate_every = False, 4, 1
epochs, batch_size, learning_rate = 20, 4, 0.02
tasks, tasks_every, select_by = [{suite!r}], 20, "val/eos/bulk_modulus_error"
"""


def follow(config, log) -> int:
    """Train in this process; the first rank writes the rows and which tasks it ran."""
    rows, own = [], []
    train(load_config(config), on_validation=rows.append, on_task=own.append)
    if is_first():
        write_json(log, {"rows": rows, "own": own})
    return 0


def test_two_ranks_share_the_tasks_and_report_what_one_does(tmp_path, suite):
    ase.io.write(tmp_path / "copper.xyz", copper(16))
    found = {}
    for nproc in (1, 2):
        config, log = tmp_path / f"{nproc}.py", tmp_path / f"{nproc}.json"
        config.write_text(
            CONFIG.format(data=str(tmp_path / "copper.xyz"), out=str(tmp_path / str(nproc)), suite=str(suite))
        )
        assert launch(follow, {"config": config, "log": log}, nproc) == 0
        found[nproc] = json.loads(log.read_text())
    assert found[1]["own"] == ["eos", "hot"] and found[2]["own"] == ["eos"]
    for one, two in zip(found[1]["rows"], found[2]["rows"], strict=True):
        assert one.keys() == two.keys()
        np.testing.assert_allclose([*two.values()], [*one.values()], rtol=1e-5, atol=1e-9)
    assert found[2]["rows"][-1]["val/tasks/coverage"] == 1
    scores = load_checkpoint(tmp_path / "2" / FILE)[1]["scores"]
    report = read_suite(suite).run(NFFLrCalculator.load(tmp_path / "2" / FILE))
    assert report.scores()["eos/bulk_modulus_error"] == scores["val/eos/bulk_modulus_error"]


def test_the_outcome_of_another_rank_counts_in_the_coverage(monkeypatch, dataset):
    """What each rank computes of the parts of all: a failure and a skipped task elsewhere stay in the sum."""
    tasks = [probe(name=name) for name in ("here", "failed", "skipped")]
    elsewhere = [(name, (name, {"size": math.inf}, "why")) for name in ("failed", "skipped")]
    monkeypatch.setattr(training_run, "share", lambda items: items[:1])
    monkeypatch.setattr(training_run, "gathered", lambda item: [item, elsewhere])
    model = MomentNetwork(MomentConfig(elements=("Cu",), cutoff=4.0, channels=4, hidden=4))
    row = training_run.metrics_of(training_run.Physics(tasks, 1, 0, 60).measure(model))
    assert row["val/tasks/coverage"] == pytest.approx(1 / 3) and row["val/tasks/skipped"] == 1
    assert row["val/failed/failed"] == 1 and math.isnan(row["val/failed/size"])
    assert "val/skipped/size" not in row and math.isfinite(row["val/here/size"])
