"""``nff`` commands in processes that start at once and can be killed, on a disk that can fail."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
TESTS, ROOT = HERE.parent, HERE.parent.parent
KILL = -1  # as the error of a fault: the process is killed in that call


@dataclass(frozen=True)
class Fault:
    """What a disk does to files below ``folder``: ``error`` (errno, or ``KILL``) in the ``n``-th call that
    changes something, and with ``all`` in every later one."""

    folder: Path
    n: int = 0
    error: int = 0
    all: bool = False


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code (or minus the signal), what it wrote, calls it made by kind."""

    code: int
    stdout: str
    stderr: str
    calls: dict[str, int] | None

    @property
    def last(self) -> str:
        """Last line on stderr."""
        return (self.stderr.strip().splitlines() or [""])[-1]


def assert_refused(ended: Ended, code: int, *parts: object) -> None:
    """The contract of a failure: its exit code, one line ``error: …`` at the end, no traceback."""
    assert ended.code == code, (ended.code, ended.stdout, ended.stderr)
    assert ended.last.startswith("error: "), ended.stderr
    assert "Traceback" not in ended.stderr and "internal:" not in ended.stderr, ended.stderr
    for part in parts:
        assert str(part) in ended.last, (part, ended.last)


def environment() -> dict[str, str]:
    """Of a process that runs the package of this tree, in one thread."""
    path = [str(ROOT), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}


@cache
def failing_disk() -> Path | None:
    """The compiled ``disk.c``; None where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    library = Path(tempfile.mkdtemp(prefix="nfflr-disk-")) / "disk.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(HERE / "disk.c"), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return library


class Processes:
    """Starts commands; a context manager, at whose end the process that they are forked from ends."""

    def __enter__(self) -> Processes:
        self.folder = Path(tempfile.mkdtemp(prefix="nfflr-processes-"))
        more = {} if failing_disk() is None else {"LD_PRELOAD": str(failing_disk())}
        self.server = subprocess.Popen(
            [sys.executable, str(HERE / "forkserver.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment() | more,
        )
        assert "ready" in json.loads(self.server.stdout.readline())
        return self

    def __exit__(self, *_) -> None:
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()
        shutil.rmtree(self.folder)

    def _ask(self, request: dict) -> dict:
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def start(self, *arguments: object, fault: Fault | None = None) -> Command:
        """Begin ``nff <arguments>``."""
        names = {name: str(self.folder / f"{name}-{time.monotonic_ns()}") for name in ("stdout", "stderr")}
        request = {"arguments": [str(a) for a in arguments], **names}
        if fault is not None:
            request["disk"] = {**vars(fault), "folder": str(fault.folder.resolve()), "all": int(fault.all)}
        return Command(self, self._ask(request)["pid"], names)

    def run(self, *arguments: object, fault: Fault | None = None) -> Ended:
        """``nff <arguments>`` to its end."""
        return self.start(*arguments, fault=fault).wait()


@dataclass(frozen=True)
class Command:
    """A command that was started."""

    processes: Processes
    pid: int
    names: dict[str, str]

    def send(self, signum: int) -> None:
        """A signal to its process; none is left to get it if it has ended."""
        os.kill(self.pid, signum)

    def kill_after(self, seconds: float) -> Ended:
        """SIGKILL at an instant, wherever the command is then."""
        time.sleep(seconds)
        self.send(signal.SIGKILL)
        return self.wait()

    def wait(self) -> Ended:
        answer = self.processes._ask({"wait": self.pid})
        texts = {}
        for name, path in self.names.items():
            texts[name] = Path(path).read_text() if Path(path).exists() else ""
            Path(path).unlink(missing_ok=True)
        return Ended(answer["code"], texts["stdout"], texts["stderr"], answer["calls"])


def until(condition, command: Command | None = None, seconds: float = 60) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def contents(folder: Path, *skip: str) -> dict[str, bytes]:
    """Bytes of the files below a folder that do not depend on time or on the command line, by name."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in skip):
        content = path.read_bytes()
        if path.suffix == ".json":
            record = json.loads(content)
            for name in ("wall_time_s", "command", "started", "finished", "resumed"):
                record.pop(name, None)
            content = json.dumps(record, sort_keys=True).encode()
        found[str(path.relative_to(folder))] = content
    return found


def assert_same(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    """Equal files, to the byte."""
    assert one.keys() == other.keys(), sorted(one.keys() ^ other.keys())
    different = [name for name in one if one[name] != other[name]]
    assert not different, different


def chosen(total: int, every: int, seed: int = 0) -> list[int]:
    """Every so many of the numbers 1 … total, beginning at a drawn one, and the last."""
    first = int(np.random.default_rng(seed).integers(1, min(every, total) + 1))
    return sorted({*range(first, total + 1, every), total})
