"""F. Training faults: killed, terminated, out of disk, NaN, dead workers and ranks, two runs in one place."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import faults
import numpy as np
import pytest
import torch
from builders import TinyNetwork, copper
from kill_train import kill_many
from processes import (
    KILL,
    Ended,
    Fault,
    assert_refused,
    assert_same,
    chosen,
    contents,
    environment,
    until,
)
from small_training import write_config

from nfflr.checkpoint import FILE, load_checkpoint
from nfflr.models import registry
from nfflr.train.state import newest_state, read_state, states

# A shell lets its background jobs ignore Ctrl-C, and processes inherit that; these are to heed it.
NFF = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from nfflr.cli.main import run; sys.exit(run(sys.argv[1:]))"
)
DOUBLE = "model = tiny()"  # float64


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """The tiny network is an architecture during these tests only."""
    registry.architectures()
    monkeypatch.setitem(registry.REGISTRY, TinyNetwork.key, TinyNetwork)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data and a config."""
    place = tmp_path_factory.mktemp("training")
    write_config(place)
    return place


@pytest.fixture(scope="module")
def whole(folder, processes):
    """The files of a training that was left alone, and how many calls it made to change them."""
    done = processes.run("train", folder / "config.py", "--out", folder / "whole", fault=Fault(folder))
    assert done.code == 0, done.stderr
    return contents(folder / "whole"), sum(done.calls.values())


def nff(*arguments, **more) -> subprocess.Popen:
    """A process of its own, at the head of a group."""
    command = [sys.executable, "-c", NFF, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, env=environment(), stdout=pipe, stderr=pipe, text=True, process_group=0, **more
    )


def ended(process: subprocess.Popen, seconds: float) -> Ended:
    out, err = process.communicate(timeout=seconds)
    return Ended(process.returncode, out, err, None)


def group(process: subprocess.Popen) -> list[int]:
    """Processes of its group that are alive, from the system's table."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == process.pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return sorted(found)


def steps_taken(out: Path) -> int:
    return max((int(p.name.removeprefix("step-")) for p in states(out / "state")), default=0)


# 66, 67: killed


def check_kills(kills: int, seed: int) -> None:
    tally = kill_many(kills, seed)
    assert (tally.identical, tally.lost) == (kills, 0), str(tally)
    assert tally.mid_epoch > 0, str(tally)


def test_case_66_killed_at_random_instants_every_resume_is_bit_identical():
    check_kills(20, seed=int(time.time()))  # others every time: each of them must do


@pytest.mark.slow
def test_case_66_killed_at_200_random_instants():
    check_kills(200, seed=0)


def check_killed_saves(folder, whole, processes, every: int) -> None:
    expected, total = whole
    out = folder / "killed"
    for n in chosen(total, every):
        done = processes.run("train", folder / "config.py", "--out", out, fault=Fault(folder, n, KILL))
        assert done.code == -9
        saved = states(out / "state")
        for state in saved[-2:]:
            read_state(state)
        options = ["--resume"] if saved else ["--overwrite"] if (out / FILE).exists() else []
        done = processes.run("train", folder / "config.py", "--out", out, *options)
        assert done.code == 0, (n, done.stderr)
        assert_same(contents(out), expected)  # and no temporary file is left
        shutil.rmtree(out)


@pytest.mark.usefixtures("disk")
def test_case_67_killed_inside_a_save_the_previous_one_loads_and_temporaries_are_swept(
    folder, whole, processes
):
    check_killed_saves(folder, whole, processes, every=11)


@pytest.mark.slow
@pytest.mark.usefixtures("disk")
def test_case_67_killed_inside_every_file_operation(folder, whole, processes):
    check_killed_saves(folder, whole, processes, every=1)


# 68: signals

LONG = "epochs, validate_every, checkpoint_every = 4000, 4000, 0"  # no state but that of the signal


@pytest.mark.parametrize("signum, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"])
def test_case_68_a_signal_saves_in_mid_epoch_and_exits_with_its_code(tmp_path, processes, signum, code):
    config = write_config(tmp_path, more=LONG)
    command = processes.start("train", config)
    until((tmp_path / "run" / "run.json").exists)
    time.sleep(0.3)
    command.send(signum)
    found = command.wait()
    assert_refused(found, code, tmp_path / "run", "its state is saved", "--resume")
    assert len(found.stderr.strip().splitlines()) == 1
    step = int(re.search(r"at step (\d+)", found.last)[1])
    assert step > 0 and newest_state(tmp_path / "run" / "state")[1]["step"] == step
    assert sorted(os.listdir(tmp_path / "run")) == ["run.json", "state"]


def test_case_68_signals_one_after_another_change_nothing(folder, whole, processes):
    """Each is sent a few steps after the start, so that most stop in mid-epoch."""
    out, codes = folder / "signalled", []
    while not codes or codes[-1] != 0:
        before = steps_taken(out)
        options = ["--resume"] if before else []
        command = processes.start("train", folder / "config.py", "--out", out, *options)
        until(lambda before=before: steps_taken(out) > before or (out / "learning-curve.png").exists())
        if not (out / "learning-curve.png").exists():
            command.send(signal.SIGTERM)
        codes.append(command.wait().code)
        assert codes[-1] in (0, 143, -signal.SIGTERM) and len(codes) < 30  # the last: after all was written
    assert codes.count(143) > 1
    kept = "state.safetensors"  # a signal may have left another state beside the last one than step-16
    assert_same(contents(out, kept), contents(folder / "whole", kept))
    assert (out / "state/step-18" / kept).read_bytes() == (folder / "whole/state/step-18" / kept).read_bytes()


def test_case_68_of_two_processes_the_first_saves(tmp_path):
    config = write_config(tmp_path, more=LONG)
    process = nff("train", config, "--nproc", 2)
    until((tmp_path / "run" / "run.json").exists)
    time.sleep(1)
    process.terminate()
    assert_refused(ended(process, 60), 143, tmp_path / "run", "its state is saved")
    assert newest_state(tmp_path / "run" / "state")[1]["step"] > 0
    until(lambda: group(process) == [], seconds=10)


# 69: the disk fails


@pytest.mark.usefixtures("disk")
def test_case_69_a_full_or_failing_disk_at_any_operation(tmp_path, processes):
    faults.prepare(tmp_path)
    faults.inject(processes, tmp_path, "training", every=12)


@pytest.mark.slow
@pytest.mark.usefixtures("disk")
def test_case_69_a_full_or_failing_disk_at_every_operation(tmp_path, processes):
    faults.prepare(tmp_path)
    faults.inject(processes, tmp_path, "training")


# 70: NaN

SPOILED = """
class Spoiled(torch.nn.HuberLoss):
    calls = 0
    def forward(self, prediction, target):
        type(self).calls += 1
        loss = super().forward(prediction, target)
        return loss * float("nan") if type(self).calls > 30 else loss

criterion = Spoiled()
"""


def test_case_70_a_nan_exits_5_with_step_and_structures_and_what_is_saved_is_finite(tmp_path, processes):
    config = write_config(tmp_path, epochs=12, more=SPOILED)
    found = processes.run("train", config)
    assert_refused(found, 5, "the loss is not finite at step")
    out, step = tmp_path / "run", int(re.search(r"at step (\d+)", found.last)[1])
    assert step > 6 and len(re.findall(r"copper\.xyz\[?\d*|#\d+|\d+", found.last)) > 4
    model, metadata = load_checkpoint(out / FILE)
    assert metadata["scores"]["epoch"] <= step // 3
    for state in states(out / "state"):
        tensors, kept = read_state(state)
        assert kept["step"] <= step
        assert all(torch.isfinite(value).all() for value in tensors.values())
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_case_70_weights_that_overflow_in_the_last_step_are_not_saved(tmp_path, processes):
    more = "learning_rate, gradient_clip, optimizer, warmup_steps = 1e38, 1e38, 'sgd', 0"
    config = write_config(tmp_path, more=more + "\nbatch_size = 12")  # a step is an epoch
    found = processes.run("train", config)
    assert_refused(found, 5, "not finite at step 0", "learning_rate")
    assert not (tmp_path / "run" / FILE).exists() and states(tmp_path / "run" / "state") == []


# 71: a process that prepares batches


def test_case_71_a_killed_data_worker_exits_6_and_leaves_no_orphan(tmp_path):
    config = write_config(tmp_path, more=LONG + "\nnum_workers = 1")
    process = nff("train", config)
    until(lambda: len(group(process)) > 1)
    time.sleep(1)
    worker = next(pid for pid in group(process) if pid != process.pid)
    begun = time.monotonic()
    os.kill(worker, signal.SIGKILL)
    assert_refused(ended(process, 30), 6, "num_workers", "--resume")
    assert time.monotonic() - begun < 30
    until(lambda: group(process) == [], seconds=10)


def test_case_71_ctrl_c_to_run_and_workers_saves(tmp_path):
    config = write_config(tmp_path, more=LONG + "\nnum_workers = 1")
    process = nff("train", config)
    until(lambda: len(group(process)) > 1)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    found = ended(process, 120)
    assert_refused(found, 130, "its state is saved")
    assert newest_state(tmp_path / "run" / "state") is not None
    until(lambda: group(process) == [], seconds=10)


# 72, 75: ranks


def test_case_72_one_rank_killed_ends_all(tmp_path):
    config = write_config(tmp_path, more=LONG)
    process = nff("train", config, "--nproc", 2)
    until((tmp_path / "run" / "run.json").exists)
    time.sleep(1)
    ranks = [pid for pid in group(process) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(ranks) == 2
    begun = time.monotonic()
    os.kill(ranks[-1], signal.SIGKILL)
    assert_refused(ended(process, 60), 6, "process")
    # multiprocessing's own tracker ends when its parent has.
    until(lambda: group(process) == [], seconds=60 - (time.monotonic() - begun))


def test_case_75_a_resume_in_two_processes_follows_to_1e_9(tmp_path, processes):
    """The batches are the same; sums over ranks are in another order."""
    # SOAP's bases make ten times more of rounding.
    config = write_config(tmp_path, more=f'{DOUBLE}\noptimizer = "adamw"\n')
    assert processes.run("train", config, "--out", tmp_path / "alone").code == 0
    command = processes.start("train", config, "--out", tmp_path / "joined")
    until(lambda: steps_taken(tmp_path / "joined") >= 4)
    command.send(signal.SIGTERM)
    assert command.wait().code == 143
    stopped = steps_taken(tmp_path / "joined")
    process = nff("train", config, "--out", tmp_path / "joined", "--nproc", 2, "--resume")
    found = ended(process, 120)
    assert found.code == 0, found.stderr
    one, other = (newest_state(tmp_path / name / "state") for name in ("alone", "joined"))
    assert stopped < one[1]["step"] == other[1]["step"] == 18
    for name, value in one[0].items():
        np.testing.assert_allclose(other[0][name], value, rtol=1e-9, atol=1e-12, err_msg=name)
    for a, b in zip(one[1]["history"], other[1]["history"], strict=True):
        np.testing.assert_allclose([b[k] for k in a], list(a.values()), rtol=1e-9)


# 73: two runs in one folder


def test_case_73_the_second_run_in_a_folder_is_refused_and_names_the_first(tmp_path, processes):
    config = write_config(tmp_path, more=LONG)
    first = processes.start("train", config)
    until((tmp_path / "run" / "run.json").exists)
    before = contents(tmp_path / "run")
    for options in ([], ["--resume"], ["--overwrite"]):
        second = processes.run("train", config, *options)
        assert_refused(second, 6, tmp_path / "run", f"process {first.pid}", "in use")
    assert contents(tmp_path / "run") == before
    first.send(signal.SIGKILL)
    first.wait()
    third = processes.start("train", config)  # the lock went with the process
    until(lambda: f"process {third.pid}" in (tmp_path / "run" / ".lock").read_text())
    third.send(signal.SIGTERM)
    assert third.wait().code == 143


def test_case_73_of_several_processes_the_first_holds_the_folder(tmp_path, processes):
    config = write_config(tmp_path, more=LONG)
    process = nff("train", config, "--nproc", 2)
    until((tmp_path / "run" / "run.json").exists)
    holder = (tmp_path / "run" / ".lock").read_text()
    assert_refused(processes.run("train", config), 6, holder)
    process.terminate()
    ended(process, 60)
    assert not (tmp_path / "run" / ".lock").exists()


# 74: something changed


CHANGES = {"setting": ["learning_rate: was 0.002", "is 0.02"], "data": ["dataset", "changed"]}


@pytest.mark.parametrize("what", CHANGES)
def test_case_74_a_resume_of_something_else_shows_the_difference(folder, whole, tmp_path, processes, what):
    out = tmp_path / "run"
    shutil.copytree(folder / "whole", out)
    config = write_config(tmp_path, more="learning_rate = 0.02" if what == "setting" else "")
    if what == "data":
        ase.io.write(tmp_path / "copper.xyz", copper(16, seed=1))
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert_refused(processes.run("train", config, "--out", out, "--resume"), 2, *CHANGES[what])
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


# and its neighbours


def test_overwriting_that_is_killed_before_the_first_validation_keeps_the_old_model(folder, whole, processes):
    out = folder / "old"
    shutil.copytree(folder / "whole", out)
    model = (out / FILE).read_bytes()
    config = write_config(folder, more=LONG, name="long.py")
    command = processes.start("train", config, "--out", out, "--overwrite")
    until(lambda: states(out / "state") == [])
    assert command.kill_after(0.2).code == -9
    assert (out / FILE).read_bytes() == model and load_checkpoint(out / FILE)


def test_the_same_signal_twice_ends_at_once(tmp_path, processes):
    more = LONG + "\nclass Slow(torch.nn.HuberLoss):\n    def forward(self, *given):\n"
    more += "        import time; time.sleep(20); return super().forward(*given)\ncriterion = Slow()\n"
    config = write_config(tmp_path, more=more)
    command = processes.start("train", config)
    until((tmp_path / "run" / "run.json").exists)
    time.sleep(0.5)
    begun = time.monotonic()
    for _ in range(2):
        command.send(signal.SIGINT)
        time.sleep(0.2)
    assert_refused(command.wait(), 130, "interrupted")
    assert time.monotonic() - begun < 10
