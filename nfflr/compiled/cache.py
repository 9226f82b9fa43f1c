"""All that a compiled graph depends on, which names its place in the user's cache."""

from __future__ import annotations

import hashlib
import inspect
import os
import platform
import shlex
import shutil
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

from .. import __version__
from ..models.base import Potential
from ..storage.cache import BuiltEntry

ROOT = Path(__file__).parents[1]


class Artefacts(BuiltEntry):
    """The place of one model's compiled graph; what lies beside a checkpoint is not looked at."""

    def __init__(self, model: Potential):
        super().__init__("compiled", identity(model), "graph.pt2")


def identity(model: Potential) -> dict[str, str]:
    """All that a compiled graph depends on."""
    return {
        "model": model_digest(model),
        "dtype": str(model.dtype),
        "device": device_name(model.device),
        "torch": torch.__version__,
        "nfflr": __version__,
        "code": code_digest(type(model)),  # type: ignore[arg-type]  # mypy takes __hash__ for the instance's
    }


def model_digest(model: Potential) -> str:
    """SHA-256 of architecture, hyper-parameters and weights."""
    digest = hashlib.sha256(f"{type(model).__qualname__} {model.config.model_dump_json()}".encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def device_name(device: torch.device) -> str:
    """What code is compiled for: the processor with its instructions, or the kind of GPU."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)} {torch.cuda.get_device_capability(device)}"
    return (
        f"cpu {platform.system()} {platform.machine()} {torch.backends.cpu.get_cpu_capability()} {_flags()}"
    )


@cache
def _flags() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return hashlib.sha256(" ".join(sorted(line.split())).encode()).hexdigest()[:16]
    return platform.processor()


@cache
def code_digest(cls: type) -> str:
    """SHA-256 of the sources that a graph is made from: models, layers, this package, the model's own."""
    files = sorted(path for room in ("models", "nn", "compiled") for path in (ROOT / room).rglob("*.py"))
    files += [ROOT / "atoms.py", ROOT / "data" / "graph.py"]
    for base in cls.__mro__:
        with suppress(TypeError, OSError):  # built in, or typed at a prompt
            files.append(Path(inspect.getfile(base)))
    digest = hashlib.sha256()
    for path in files:
        with suppress(OSError):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def compiler() -> str | None:
    """The C++ compiler that torch would call, or None."""
    words = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    return shutil.which(words[0])
