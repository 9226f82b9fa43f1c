"""``nff train`` and ``nff lr`` as typed: several processes, refusals, what is written."""

import json
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from builders import copper
from safetensors.torch import load_file

from nfflr.checkpoint import FILE
from nfflr.cli.evaluate import _print
from nfflr.cli.main import run
from nfflr.quantities import Quantity
from nfflr.reports.run_record import columns_of

CONFIG = """
from pathlib import Path
from nfflr.data.dataset import AtomsDataset
from nfflr.models.gnn.schnet import SchNet, SchNetConfig

here = Path(__file__).parent
dataset = AtomsDataset(here / "copper.xyz", n_train=9, n_val=3)
model = SchNet(SchNetConfig(elements=("Cu",), cutoff=4.0))
output_dir = here / "run"
random_seed = 3
progress = False
epochs, batch_size = 2, 4
learning_rate = 1e-3
"""


@pytest.fixture
def config(tmp_path):
    ase.io.write(tmp_path / "copper.xyz", copper(12))
    (tmp_path / "config.py").write_text(CONFIG)
    return tmp_path / "config.py"


def last_line(capfd) -> str:
    return capfd.readouterr().err.strip().splitlines()[-1]


def test_a_mistake_is_told_once_whatever_the_number_of_processes(config, capfd):
    config.write_text(CONFIG + "epochs = -1\n")
    assert run(["train", str(config), "--nproc", "2"]) == 2
    text = capfd.readouterr().err
    assert text.count("error:") == 1 and "epochs" in text and "Traceback" not in text
    assert not (config.parent / "run").exists()


@pytest.mark.parametrize("flag", ["--compile", "--no-compile"])
def test_the_command_line_decides_whether_a_step_is_compiled(config, flag, monkeypatch):
    asked = []
    monkeypatch.setattr("nfflr.train.objective.compile_training", lambda model: asked.append(model))
    config.write_text(CONFIG + f"compile = {flag == '--no-compile'}\n")
    assert run(["train", str(config), flag, "--epochs", "1"]) == 0
    assert bool(asked) == (flag == "--compile")


NFF = "import sys; from nfflr.cli.main import run; sys.exit(run(sys.argv[1:]))"


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), **more}


def trained(config: Path, out: str):
    return load_file(config.parent / out / FILE)


@pytest.mark.slow
def test_torchrun_starts_the_same_command(config):
    """As on a cluster: torchrun's variables are all that tells the processes of each other."""
    script = config.parent / "nff.py"
    script.write_text(NFF)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, str(script), "train", str(config)], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote") == 1
    assert run(["train", str(config), "--nproc", "2", "--out", str(config.parent / "here")]) == 0
    for name, value in trained(config, "run").items():
        torch.testing.assert_close(value, trained(config, "here")[name], rtol=0, atol=0)


def _job_of_a_free_port() -> int:
    for job in range(1000, 10_000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", 15_000 + job))
            return job
    raise AssertionError("no port is free")


def test_tasks_of_slurm_train_together(config):
    """As srun starts them on one node: tasks meet at a port that follows from the job's number."""
    job = {"SLURM_JOB_ID": str(_job_of_a_free_port()), "SLURM_JOB_NUM_NODES": "1"}
    job |= {"SLURM_JOB_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}
    tasks = []
    for rank in ("0", "1"):
        own = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank}
        command = [sys.executable, "-c", NFF, "train", str(config)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        tasks.append(subprocess.Popen(command, env=environment(**job, **own), **pipes))
    told = [task.communicate(timeout=120) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], told
    assert [out.count("wrote") for out, _ in told] == [1, 0]  # the first task alone writes
    assert run(["train", str(config), "--nproc", "2", "--out", str(config.parent / "here")]) == 0
    for name, value in trained(config, "run").items():
        torch.testing.assert_close(value, trained(config, "here")[name], rtol=0, atol=0)


def test_lr_writes_a_config_that_trains(config, capsys):
    out = config.parent / "found"
    assert run(["lr", str(config), "--out", str(out), "--steps", "40", "--end", "10", "--write"]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["config-lr.csv", "config-lr.png"]
    text = (config.parent / "config-lr.py").read_text()  # beside the config, for its relative paths
    assert "# by nff lr" in text and "1e-3" not in text
    assert run(["train", str(config.parent / "config-lr.py")]) == 0


def test_lr_replaces_nothing_unasked(config, capfd):
    (config.parent / "config-lr.csv").write_text("mine")
    assert run(["lr", str(config), "--out", str(config.parent)]) == 2
    assert "exists" in last_line(capfd) and (config.parent / "config-lr.csv").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "code", "part"),
    [
        (["--start", "1", "--end", "0.1"], 2, "0 < start < end"),
        (["--start", "1e4", "--end", "1e6", "--steps", "20"], 5, "start below"),
        (["--steps", "3"], 2, "10 or more"),
    ],
)
def test_lr_refuses_a_range_in_one_line(config, capfd, options, code, part):
    assert run(["lr", str(config), "--out", str(config.parent), *options]) == code
    assert part in last_line(capfd)
    assert not list(Path(config.parent).glob("config-lr.*"))


def test_starting_from_a_checkpoint_that_does_not_fit_is_refused(config, capfd):
    assert run(["train", str(config), "--init-from", "mlearn-si-fast"]) == 4
    assert "architecture" in last_line(capfd)


def test_evaluate_takes_units_and_names_of_the_data(config, tmp_path, capsys):
    frames = copper(4)
    for atoms in frames:
        atoms.info["dft"] = atoms.get_potential_energy() / len(atoms)
        atoms.calc = None
    ase.io.write(tmp_path / "other.xyz", frames)
    assert run(["train", str(config)]) == 0
    command = [
        "evaluate",
        "--model",
        str(tmp_path / "run"),
        str(tmp_path / "other.xyz"),
        "--out",
        str(tmp_path),
    ]
    assert run([*command, "--key", "total_energy=dft", "--energy-units", "eV/atom"]) == 0
    other = json.loads((tmp_path / "other-evaluate.json").read_text())["errors"]["all"]
    ase.io.write(tmp_path / "same.xyz", copper(4))
    assert run([*command[:3], str(tmp_path / "same.xyz"), *command[4:]]) == 0
    same = json.loads((tmp_path / "same-evaluate.json").read_text())["errors"]["all"]
    assert other["energy_mae"] == pytest.approx(same["energy_mae"], rel=1e-4)
    assert other["forces_mae"] is None and same["forces_mae"] > 0


@pytest.mark.parametrize("key", ["energy", "enrgy=dft"])
def test_evaluate_refuses_a_key_that_means_nothing(config, capfd, key):
    assert (
        run(["evaluate", "--model", "mlearn-si-fast", str(config.parent / "copper.xyz"), "--key", key]) == 2
    )
    assert key.split("=")[0] in last_line(capfd)


def test_a_target_whose_name_begins_another_has_its_own_errors_only(capsys):
    names = ("gap", "gap_indirect")
    columns = columns_of(map(Quantity, names))
    errors = {column.key: float(k) for k, column in enumerate(columns)}
    assert list(errors) == ["gap_mae", "gap_rmse", "gap_indirect_mae", "gap_indirect_rmse"]
    _print({"all": {"structures": 1, **errors}}, columns, "title")
    assert capsys.readouterr().out.split()[-6:] == ["all", "1", "0", "1", "2", "3"]


def test_evaluate_takes_the_name_of_a_jarvis_data_set_and_guesses_no_unit_of_its_stress(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = tmp_path / "nfflr/jarvis/mlearn"
    place.mkdir(parents=True)
    cell = (5.4 * np.eye(3)).tolist()
    silicon = {"lattice_mat": cell, "coords": [[0, 0, 0], [1.35, 1.35, 1.35]], "elements": ["Si", "Si"]}
    record = {"jid": "a", "atoms": {**silicon, "cartesian": True}, "total_energy": -9.0}
    record |= {"forces": [[0, 0, 0.1], [0, 0, -0.1]], "stress": (0.1 * np.eye(3)).tolist()}
    (place / "mlearn.json").write_text(json.dumps([record]))
    command = [
        "evaluate",
        "--model",
        "mlearn-si-fast",
        "mlearn",
        "--energy-units",
        "eV",
        "--out",
        str(tmp_path),
    ]
    found = []
    for more in ([], ["--overwrite", "--stress-units", "kbar", "--stress-sign", "-1"]):
        assert run(command + more) == 0
        found.append(json.loads((tmp_path / "mlearn-evaluate.json").read_text())["errors"]["all"])
    assert found[0]["stress_mae"] is None and found[1]["stress_mae"] > 0
    assert found[0]["forces_mae"] == found[1]["forces_mae"]


def test_an_error_in_mid_training_is_one_line(config, capfd):
    config.write_text(CONFIG.replace("1e-3", "1e30") + "gradient_clip = 1e30\noptimizer = 'sgd'\n")
    assert run(["train", str(config)]) == 5
    assert len(capfd.readouterr().err.strip().splitlines()) == 1


def test_what_comes_next_is_told_as_commands_that_work(config, capfd, monkeypatch):
    monkeypatch.chdir(config.parent)
    assert run(["train", "config.py"]) == 0
    shown = capfd.readouterr().out
    assert "output in run" in shown and "\npreparing data and model\n" in shown
    commands = shown.split("next: ")[1].split("\n")
    assert [c.strip() for c in commands if c] == [
        "nff report run",
        "nff evaluate DATA --model run",
        "nff relax STRUCTURE --model run",
    ]
    ase.io.write("cu.cif", copper(1))
    assert run(["report", "run"]) == 0
    assert run(["evaluate", "--model", "run", "copper.xyz"]) == 0
    assert run(["energy", "cu.cif", "--model", "run"]) == 0


def test_compiling_is_announced_before_it_begins(config, monkeypatch, capfd):
    from nfflr.train.trainer import COMPILING

    shown = []
    monkeypatch.setattr(
        "nfflr.train.objective.compile_training", lambda model: shown.append(capfd.readouterr().out)
    )
    assert run(["train", str(config), "--compile", "--epochs", "1"]) == 0
    assert len(shown) == 1 and COMPILING in shown[0]
    assert run(["train", str(config), "--no-compile", "--epochs", "1", "--overwrite"]) == 0
    assert COMPILING not in capfd.readouterr().out


def test_a_wrong_hyper_parameter_is_told_by_line_and_name(config, capfd):
    config.write_text(CONFIG.replace("cutoff=4.0", "cutoff='far'"))
    assert run(["train", str(config)]) == 2
    line = last_line(capfd)
    assert "config.py: line 8: SchNetConfig.cutoff: should be a number, got 'far'" in line


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ('epochs = "ten"', "epochs: should be a whole number, got 'ten' (passes over the training split)"),
        ("learning_rate = -1", "learning_rate: should be greater than 0, got -1 (peak learning rate)"),
    ],
)
def test_a_wrong_setting_is_told_with_what_it_is(config, capfd, setting, told):
    config.write_text(CONFIG + setting + "\n")
    assert run(["train", str(config)]) == 2
    assert last_line(capfd) == f"error: {config}: {told}"
