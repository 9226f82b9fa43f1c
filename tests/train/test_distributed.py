"""A batch shared by processes, or cut into parts, is the same update; metrics count everything once."""

import json
import os
import re
import signal
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
from builders import copper

from nfflr.errors import NumericsError, ResourceError
from nfflr.storage.files import write_json
from nfflr.train.config import load_config
from nfflr.train.distributed import is_first, launch
from nfflr.train.trainer import train

CONFIG = """
import ignite.distributed as idist
from nfflr.data.dataset import AtomsDataset
from nfflr.models.gnn.schnet import SchNet, SchNetConfig

dataset = AtomsDataset({data!r}, n_train=15, n_val=5)
model = SchNet(SchNetConfig(elements=("Cu",), cutoff=4.0)).double()
output_dir = {out!r}
random_seed = 3
progress, warmup_steps, validate_every = False, 4, 2
epochs, batch_size = {epochs}, {batch_size}
{more}
"""


SIZES = {"tail of three": 4, "tail of one": 7, "grows": "2 * idist.get_world_size()"}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Writes a config on 20 copper structures, 15 of them to train on."""
    folder = tmp_path_factory.mktemp("runs")
    ase.io.write(folder / "copper.xyz", copper(20))

    def write(name, batch_size=4, epochs=5, more="") -> Path:
        places = {"data": str(folder / "copper.xyz"), "out": str(folder / name)}
        path = folder / f"{name.replace(' ', '-')}.py"
        path.write_text(CONFIG.format(more=more, epochs=epochs, batch_size=batch_size, **places))
        return path

    return write


def follow(configs: list[Path], log: Path) -> int:
    """Train each config in this process; the first rank writes losses of the steps, and validations."""
    curves = []
    for config in configs:
        losses, rows = [], []
        train(
            load_config(config),
            on_step=lambda now, losses=losses: losses.append(now["loss"]),
            on_validation=rows.append,
        )
        curves.append({"losses": losses, "rows": rows})
    if is_first():
        write_json(log, {"curves": curves})
    return 0


def run(configs: list[Path], log: Path, nproc: int = 1) -> list[dict]:
    assert launch(follow, {"configs": configs, "log": log}, nproc) == 0
    return json.loads(log.read_text())["curves"]


@pytest.fixture(scope="module")
def curves(config, tmp_path_factory) -> dict[int, dict[str, dict]]:
    """Curves of the three batch sizes by number of processes."""
    found = {}
    for nproc in (1, 2):
        configs = [config(f"{name} {nproc}", size, epochs=7) for name, size in SIZES.items()]
        log = tmp_path_factory.mktemp("logs") / "curves.json"
        found[nproc] = dict(zip(SIZES, run(configs, log, nproc), strict=True))
    return found


def assert_same_curve(one: dict, other: dict, tolerance: float) -> None:
    assert len(one["losses"]) == len(other["losses"]) > 20
    np.testing.assert_allclose(other["losses"], one["losses"], rtol=tolerance)
    for a, b in zip(one["rows"], other["rows"], strict=True):
        np.testing.assert_allclose([b[k] for k in a], list(a.values()), rtol=tolerance)


@pytest.mark.parametrize("tail", ["tail of three", "tail of one"])
def test_two_processes_with_half_the_batch_follow_the_one_process_curve(curves, tail):
    """15 structures: batches of 4 leave a tail of 3 (two and one a process), of 7 one of 1 (one is idle)."""
    assert_same_curve(curves[1][tail], curves[2][tail], 1e-8)  # asked for: 1e-5


def test_the_batch_size_of_the_config_grows_with_the_processes(curves):
    """``2 * idist.get_world_size()`` of 15 structures: 8 steps an epoch alone, 4 in two processes."""
    assert [len(curves[n]["grows"]["losses"]) for n in (1, 2)] == [7 * 8, 7 * 4]


@pytest.mark.parametrize("parts", [2, 3, 9])
def test_a_batch_in_parts_is_the_same_update(config, curves, tmp_path, parts):
    path = config(f"in {parts}", epochs=7, more=f"accumulate = {parts}")
    assert_same_curve(curves[1]["tail of three"], run([path], tmp_path / "cut.json")[0], 1e-7)


def fail_on_the_second(config: Path) -> int:
    settings = load_config(config)
    if not is_first():
        raise NumericsError("structures[3]: made to fail")
    return train(settings) and 0


def test_one_process_that_fails_ends_all_with_its_message(config):
    path = config("fails")
    with pytest.raises(NumericsError, match=re.escape("structures[3]: made to fail")):
        launch(fail_on_the_second, {"config": path}, 2)


def die_on_the_second(config: Path) -> int:
    if not is_first():
        os.kill(os.getpid(), signal.SIGKILL)
    return train(load_config(config)) and 0


def test_one_process_that_is_killed_ends_all(config):
    path = config("dies")
    with pytest.raises(ResourceError, match="process 1: ended"):
        launch(die_on_the_second, {"config": path}, 2)


def test_adaptive_weights_of_a_float32_model_follow_the_one_process_curve(config, tmp_path):
    """The learned weights are float64, the model's gradients float32; both are summed in one message."""
    more = "adaptive_weights = True\nmodel = model.float()"
    losses = []
    for nproc in (1, 2):
        path = config(f"adaptive {nproc}", epochs=3, more=more)
        losses.append(run([path], tmp_path / f"{nproc}.json", nproc)[0]["losses"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


def train_one(config: Path) -> int:
    return train(load_config(config), overwrite=True) and 0


def test_processes_can_be_started_inside_a_slurm_job(config, monkeypatch):
    """A job of one task sets these; the processes that it starts here are none of its tasks."""
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}.items():
        monkeypatch.setenv(name, value)
    assert launch(train_one, {"config": config("slurm", epochs=1)}, 2) == 0


def test_torchrun_inside_a_slurm_job_counts_its_own_ranks(monkeypatch):
    """Two machines of two: the launchers are tasks 0 and 1, their processes ranks 0 to 3."""
    seen = {}
    torchrun = {"TORCHELASTIC_RUN_ID": "1", "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}
    job = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_NTASKS": "2"}
    job |= {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
    for name, value in {**torchrun, **job, "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("ignite.distributed.initialize", lambda backend: seen.update(os.environ))
    monkeypatch.setattr("ignite.distributed.finalize", lambda: None)
    assert launch(lambda: 0, {}, None) == 0
    assert seen["RANK"] == "3" and "SLURM_JOB_ID" not in seen  # by which ignite would take SLURM's ranks


def interrupt_the_parent(log: Path) -> int:
    if is_first():
        write_json(log, {"process": os.getpid()})
        os.kill(os.getppid(), signal.SIGINT)
    time.sleep(60)
    return 0


@pytest.fixture
def interruptible():
    """A process that was started in the background may ignore Ctrl-C; here it does not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_of_the_parent_alone_ends_the_processes(tmp_path):
    log, begin = tmp_path / "process.json", time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        launch(interrupt_the_parent, {"log": log}, 2)
    assert time.monotonic() - begin < 55
    with pytest.raises(ProcessLookupError):
        os.kill(json.loads(log.read_text())["process"], 0)
