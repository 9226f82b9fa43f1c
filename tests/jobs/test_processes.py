"""Structures spread over processes: results of one process; a dead worker costs only its structure."""

import csv
import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
from ase.build import bulk

from nfflr.cli.main import run

HERE = Path(__file__).parent
LENGTHS = {"a": 3.60, "b": 3.65, "c": 3.70, "d": 3.75}  # Å
PARSL = """
from parsl import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider

config = Config(
    executors=[
        HighThroughputExecutor(
            address="127.0.0.1", loopback_address="127.0.0.1", max_workers_per_node=1, heartbeat_period=1,
            heartbeat_threshold=5, provider=LocalProvider(init_blocks=1, max_blocks=1),
        )
    ],
    run_dir={folder!r},
    usage_tracking=0,
    initialize_logging=False,
)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Four cells of copper, rattled, and one element that EMT does not know."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parents[1])]))
    monkeypatch.syspath_prepend(HERE)
    inside = tmp_path / "in"
    inside.mkdir()
    for k, (name, a) in enumerate(LENGTHS.items()):
        atoms = bulk("Cu", a=a, cubic=True)
        atoms.rattle(0.05, seed=k)
        atoms.write(inside / f"{name}.xyz")
    return inside


def command(folder, out, *more, **calculator):
    model = "ase:dying:Dying:" + json.dumps({"folder": str(folder.parent), **calculator})
    return ["relax", str(folder), "-m", model, "--trust", "-o", str(folder.parent / out), *more]


def rows(path):
    with open(path / "relax-summary.csv", newline="") as file:
        return list(csv.DictReader(file))


def without_times(path):
    """What a folder of results holds, less what two equal runs differ in."""
    held = {}
    for file in sorted(path.iterdir()):
        content = file.read_bytes()
        if file.suffix == ".json":
            record = json.loads(content)
            for name in ("wall_time_s", "command"):
                del record[name]
            content = record
        held[file.name] = content
    return held


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def check_loss_and_resume(capsys, folder, *spread):
    """Worker of ``b`` dies, ``e`` is bad; the others are done, and a resumed run does ``b`` alone."""
    bulk("Fe").write(folder / "e.xyz")
    out = folder.parent / "many"
    asked = {"deadly": LENGTHS["b"]}
    assert run(command(folder, "many", *spread, **asked)) == 6
    captured = capsys.readouterr()
    assert len([line for line in captured.err.splitlines() if line.startswith("error: ")]) == 2
    assert "b.xyz: worker" in captured.err
    found = rows(out)
    assert [Path(r["structure"]).stem for r in found] == [*LENGTHS, "e"]
    assert [r["converged"] for r in found] == ["true", "false", "true", "true", "false"]
    assert found[1]["exit code"] == "6" and "worker" in found[1]["message"]
    assert found[4]["exit code"] not in ("0", "6")
    assert not (out / "b-relax.json").exists()
    whole = {name: (out / f"{name}-relax.json").stat().st_mtime_ns for name in "acd"}

    (folder.parent / "spared").touch()
    (folder / "e.xyz").unlink()
    assert run(command(folder, "many", *spread, "--resume", **asked)) == 0
    assert whole == {name: (out / f"{name}-relax.json").stat().st_mtime_ns for name in "acd"}
    assert run(command(folder, "alone", **asked)) == 0
    capsys.readouterr()
    assert without_times(out) == without_times(folder.parent / "alone")


def test_a_dead_worker_costs_only_its_structure(capsys, folder):
    check_loss_and_resume(capsys, folder, "--jobs", "2")


def test_workers_of_parsl(capsys, folder, monkeypatch):
    pytest.importorskip("parsl")
    # Parsl finds its programs as an activated environment does.
    monkeypatch.setenv("PATH", sysconfig.get_path("scripts"), prepend=os.pathsep)
    file = folder.parent / "cluster.py"
    file.write_text(PARSL.format(folder=str(folder.parent / "runinfo")))
    check_loss_and_resume(capsys, folder, "--cluster", str(file))


def test_output_comes_in_one_block_per_structure(capsys, folder):
    assert run(command(folder, "many", "--jobs", "2")) == 0
    lines = capsys.readouterr().out.splitlines()
    blocks = [k for k, line in enumerate(lines) if line.endswith(":")]
    names = {Path(lines[k].split(" with ")[0]).stem for k in blocks}
    assert names == set(LENGTHS)
    for start, end in zip(blocks, [*blocks[1:], len(lines)], strict=True):
        stem = Path(lines[start].split(" with ")[0]).stem
        wrote = [Path(line.split()[-1]).name for line in lines[start:end] if "wrote" in line]
        assert wrote and all(name.startswith(f"{stem}-") for name in wrote)


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_stops_the_workers(folder, signum, code):
    start = "import sys; from nfflr.cli.main import run; sys.exit(run(sys.argv[1:]))"
    line = command(folder, "many", "--jobs", "2", slow=0.05)
    process = subprocess.Popen([sys.executable, "-c", start, *line], stderr=subprocess.PIPE, text=True)
    workers = _wait_for(lambda: [p.stem for p in folder.parent.glob("*.pid")], 2)
    process.send_signal(signum)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert error.count("error: ") == 1 and "--resume" in error
    _wait_for(lambda: [w for w in workers if not alive(w)], len(workers))
    assert run([*line, "--resume"]) == 0
    assert [r["converged"] for r in rows(folder.parent / "many")] == ["true"] * len(LENGTHS)


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(folder):
    start = "import sys; from nfflr.cli.main import run; sys.exit(run(sys.argv[1:]))"
    line = command(folder, "many", "--jobs", "2", slow=5.0)
    process = subprocess.Popen([sys.executable, "-c", start, *line])
    workers = _wait_for(lambda: [p.stem for p in folder.parent.glob("*.pid")], 2)
    process.kill()
    process.wait()
    _wait_for(lambda: [w for w in workers if not alive(w)], len(workers))


def _wait_for(found, number, seconds=300):
    end = time.monotonic() + seconds
    while len(found()) < number:
        assert time.monotonic() < end
        time.sleep(0.05)
    return found()


def test_both_here_and_elsewhere_is_refused(capsys, folder):
    assert run(command(folder, "many", "--jobs", "2", "--cluster", "no.py")) == 2
    assert "--jobs" in capsys.readouterr().err
    pytest.importorskip("parsl")
    assert run(command(folder, "many", "--cluster", "no.py")) == 2
    assert "no.py: no such file" in capsys.readouterr().err
