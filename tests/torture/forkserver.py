"""A process with everything imported that forks one for each ``nff`` command it is asked for.

It reads requests and writes answers as lines of JSON: see ``processes.py``, which starts it.
"""

import ctypes
import importlib
import io
import json
import os
import signal
import sys
import traceback
from pathlib import Path

import matplotlib.backends.backend_agg
import matplotlib.figure
import torch
import torch._dynamo

import nfflr.workflows
from nfflr.cli.main import run
from nfflr.models import registry

KINDS = ("open", "mkdir", "write", "fsync", "rename", "stdio")


def prepare() -> None:
    for path in Path(nfflr.workflows.__file__).parent.glob("*.py"):
        importlib.import_module(f"nfflr.workflows.{path.stem}")
    registry.architectures()
    figure = matplotlib.figure.Figure(layout="constrained")
    figure.subplots().set(yscale="log", xlabel="epoch", ylabel="meV/Å")
    figure.savefig(io.BytesIO(), format="png")  # fonts are read once
    torch.set_num_threads(1)


def disk():
    """The failing disk, if it was loaded before everything else."""
    return ctypes.CDLL(None) if "disk.so" in os.environ.get("LD_PRELOAD", "") else None


def start(request: dict) -> tuple[int, int]:
    """Fork; the child's number and the end of a pipe on which it tells what it counted."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    code = 70
    try:
        code = child(request, writing)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def child(request: dict, report: int) -> int:
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    for fd, name in ((0, os.devnull), (1, request["stdout"]), (2, request["stderr"])):
        flags = os.O_RDONLY if fd == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(name, flags, 0o644), fd)
    library, armed = disk(), request.get("disk")
    if armed:
        library.disk_arm(
            os.fsencode(armed["folder"]), ctypes.c_long(armed["n"]), armed["error"], armed["all"]
        )
    code = run(request["arguments"])
    if armed:
        count = {name: library.disk_calls(k) for k, name in enumerate(KINDS)}
        library.disk_arm(b"", ctypes.c_long(0), 0, 0)
        os.write(report, json.dumps(count).encode())
    return code


def serve() -> None:
    pipes: dict[int, int] = {}
    print(json.dumps({"ready": os.getpid()}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "arguments" in request:
            pid, pipes_end = start(request)
            pipes[pid] = pipes_end
            print(json.dumps({"pid": pid}), flush=True)
            continue
        pid = request["wait"]
        _, status = os.waitpid(pid, 0)
        with open(pipes.pop(pid)) as pipe:
            counted = pipe.read()
        answer = {"code": os.waitstatus_to_exitcode(status), "calls": json.loads(counted or "null")}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    prepare()
    serve()
