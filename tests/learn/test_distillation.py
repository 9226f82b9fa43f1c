"""Copper from EMT's labels: the physics of what comes out, the account of calls, and a run that is killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from nfflr.calculator import NFFLrCalculator
from nfflr.cards import read_card
from nfflr.cli.distill import speed_text
from nfflr.cli.main import run
from nfflr.storage.archives import StoredFrames
from nfflr.validation.reading import read_suite
from nfflr.workflows.molecular_dynamics import MdSettings, md
from nfflr.workflows.phonon_dispersion import PhononsSettings, phonons

EMT_NAME = "ase:ase.calculators.emt:EMT"
QUICK = ["--temperature", "600", "--md-reference", "6", "--walk-steps", "20"]
QUICK += ["--length", "0.06", "--committee-length", "0.4"]
TINY = [*QUICK, "--length", "0.003", "--budget", "40", "--supercell", "1", "1", "1", "--no-relax"]


def nff(*arguments):
    return run([str(a) for a in arguments])


@pytest.fixture(scope="module")
def structure(tmp_path_factory):
    path = tmp_path_factory.mktemp("structure") / "cu.cif"
    bulk("Cu", a=3.55, cubic=True).write(path)  # EMT's own is 3.59 Å
    return path


@pytest.fixture(scope="module")
def done(structure):
    """A folder with a finished distillation."""
    out = structure.parent / "cu"
    limits = ["--force-limit", 12, "--phonon-limit", 1]
    options = ["--budget", 60, "--supercell", 2, 2, 2, *limits]
    assert nff("distill", structure, "--model", EMT_NAME, "--out", out, *QUICK, *options) == 0
    return out


@pytest.fixture(scope="module")
def record(done):
    return json.loads((done / "distill.json").read_text())


def test_forces_are_the_teachers_on_molecular_dynamics_of_its_own(done):
    start = bulk("Cu", a=3.6, cubic=True).repeat(2)
    settings = MdSettings(temperature=500, timestep=4, steps=100, interval=20, thermostat_time=50, seed=7)
    frames = md(start, EMT(), settings).trajectory[1:]
    theirs = np.array([frame.get_forces() for frame in frames])
    student = NFFLrCalculator.load(done)
    ours = np.array([student.get_forces(frame.copy()) for frame in frames])
    assert theirs.std() > 0.2  # eV/Å: it is hot
    assert np.sqrt(np.mean((ours - theirs) ** 2)) < 0.15 * theirs.std()


def test_phonons_are_the_teachers(done):
    settings = PhononsSettings(supercell=(2, 2, 2), mesh=(4, 4, 4), band_points=5, t_step=500, fmax=1e-3)
    ours, theirs = (phonons(bulk("Cu", cubic=True), c, settings) for c in (NFFLrCalculator.load(done), EMT()))
    assert 6 < theirs.highest_frequency < 9  # THz; copper's is 7.2
    assert ours.stable and np.abs(ours.band_frequencies - theirs.band_frequencies).max() < 1


def test_calls_are_counted_and_bounded_and_kept(done, record):
    data, test = (ase.io.read(done / name, ":") for name in ("data.xyz", "test.xyz"))
    assert record["calls"] == len(data) == sum(record["calls_by_use"].values()) <= 60
    drawn = [f for path in (done / "rounds").glob("*-test-*.traj") for f in StoredFrames(path)]
    assert record["calls_by_use"]["test"] == len(test)
    assert len(test) == len(drawn) or (len(test) < len(drawn) and record["calls"] == 60)  # none was left
    check = data[5].copy()
    check.calc = EMT()
    np.testing.assert_allclose(data[5].get_forces(), check.get_forces(), atol=1e-6)
    trained = ase.io.read(next(done.glob("rounds/*/final/data.xyz")), ":")
    assert len(trained) == record["structures_trained_on"]
    assert not [
        f for f in trained for t in test if len(f) == len(t) and np.allclose(f.positions, t.positions)
    ]
    assert {f.info["config_type"] for f in trained} >= {
        "relaxation",
        "strained",
        "rattled",
    }  # the first at rest
    assert record["good"] and record["force_error_percent"] < 12 and record["speed"]["teacher_ms"] > 0


def test_the_card_tells_of_the_checkpoint_and_its_commands_run(done, record, tmp_path):
    card = read_card(done).model_dump()
    for file in ("card.yaml", "suite/suite.yaml"):
        assert (done / file).read_text("utf-8").startswith("version: 1\n")
    assert card["elements"] == ["Cu"] and card["sha256"] == record["digest"]
    assert nff("evaluate", "--model", done, done / "test.xyz", "--out", tmp_path) == 0
    evaluated = json.loads(next(tmp_path.glob("*.json")).read_text())["errors"]["all"]["forces_mae"]
    assert card["test"]["force_mae"] == pytest.approx(1e3 * evaluated, rel=1e-3)
    names = [task.name for task in read_suite(done / "suite").tasks]
    assert names == ["phonons", "eos", "elastic", "md"]
    assert nff("validate", "--model", done, done / "suite", "--task", "eos", "--out", tmp_path) == 0
    assert (done / "distill.png").stat().st_size > 10_000


def test_a_finished_one_is_not_done_again(structure, done, capsys):
    assert nff("distill", structure, "--model", EMT_NAME, "--out", done) == 2
    assert "this distillation is done" in capsys.readouterr().err


MORTAL = """
import os, signal
from pathlib import Path
from ase.calculators.emt import EMT

class Mortal(EMT):
    def calculate(self, *arguments, **keywords):
        calls = Path(os.environ["CALLS"])
        with calls.open("a") as file:
            file.write("x")
        if calls.stat().st_size == int(os.environ.get("DIES_AT", -1)):
            os.kill(os.getpid(), signal.SIGKILL)
        super().calculate(*arguments, **keywords)
"""
PROGRAM = "import sys; from nfflr.cli.main import run; sys.exit(run(sys.argv[1:]))"


def distil_mortally(structure: Path, out: Path, dies_at: int, *more: str) -> int:
    """In a process of its own, whose teacher kills it at a call."""
    (structure.parent / "mortal.py").write_text(MORTAL)
    where = os.pathsep.join([str(structure.parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": where, "CALLS": f"{out}-calls", "DIES_AT": str(dies_at)}
    command = [sys.executable, "-c", PROGRAM, "distill", str(structure), "-m", "ase:mortal:Mortal"]
    command += [*TINY, "--out", str(out), *more]
    return subprocess.run(command, env=environment, check=False, capture_output=True).returncode


@pytest.mark.parametrize("dies_at", [pytest.param(10, marks=pytest.mark.slow), 29])
def test_a_killed_run_goes_on_to_the_same_bytes_without_asking_again(structure, tmp_path, capsys, dies_at):
    assert distil_mortally(structure, tmp_path / "whole", -1) == 5  # so short a training meets no limit
    assert distil_mortally(structure, tmp_path / "killed", dies_at) == -signal.SIGKILL
    labels = StoredFrames(tmp_path / "killed" / "labels.traj")
    assert len(labels) == dies_at - 1  # every answer that was given
    assert nff("distill", structure, "-m", EMT_NAME, *TINY, "--out", tmp_path / "killed") == 2
    assert "a distillation was begun here; use --resume" in capsys.readouterr().err
    assert distil_mortally(structure, tmp_path / "killed", -1, "--resume") == 5
    calls = json.loads((tmp_path / "killed" / "distill.json").read_text())["calls"]
    assert dies_at < calls <= 40 and os.path.getsize(f"{tmp_path}/whole-calls") == calls
    assert os.path.getsize(f"{tmp_path}/killed-calls") == calls + 1  # the one that was killed
    for name in ("data.xyz", "test.xyz", "config.py", "model.safetensors"):
        whole, killed = ((tmp_path / run / name).read_bytes() for run in ("whole", "killed"))
        assert whole == killed, name


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-m", "nowhere"], "nowhere"),
        (["-m", "ase:ase.calculators.emt:EMTT"], "EMTT"),
        (["-m", EMT_NAME, "--budget", "3"], "--budget"),
        (["-m", EMT_NAME, "--out", "."], "is not what the run to resume had"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(structure, tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.json").write_text('{"teacher": "chgnet"}')
    more = ["--resume"] if "--out" in arguments else []
    assert nff("distill", structure, *arguments, *more) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(0.6, "0.6 × as fast"), (0.043, "0.043 × as fast"), (1.26, "1.3 ×"), (9.4, "9.4 ×"), (316.4, "316 ×")],
)
def test_a_loss_of_speed_does_not_read_as_a_gain(ratio, expected):
    assert speed_text(ratio) == expected
