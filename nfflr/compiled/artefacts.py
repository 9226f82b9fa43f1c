"""Compiled graphs and C++ libraries in the user's cache, named after all that they depend on."""

from __future__ import annotations

import ctypes
import hashlib
import inspect
import os
import platform
import shlex
import shutil
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

from .. import __version__
from ..models.base import Potential
from ..storage.cache import BuiltEntry, is_private, private_folder
from ..storage.files import temporary_name

ROOT = Path(__file__).parents[1]
FLAGS = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fPIC"]
FLAGS += ["-shared", "-pthread"]


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


def load_library(source: Path, defines: dict[str, object]) -> ctypes.CDLL | None:
    """The shared library made from ``source`` with these macros; compiled unless this machine has it.

    The file's name is a digest of the source, the headers beside it, macros, flags, compiler, processor and
    torch's version. It is written under a temporary name and renamed, into a folder that only the user may
    write.

    Returns:
        None if there is no compiler, it fails, or the cache cannot be written.
    """
    program = compiler()
    if program is None:
        return None
    macros = [f"-D{name}={value}" for name, value in sorted(defines.items())]
    try:
        target = _target(program, source, macros)
        if target.exists():
            with suppress(OSError):  # damaged: built anew
                if is_private(target):
                    return ctypes.CDLL(str(target))
        return _build(program, source, macros, target)
    except (OSError, subprocess.SubprocessError):
        return None


def is_built(source: Path, defines: dict[str, object]) -> bool | None:
    """Whether ``load_library`` would find the library in the cache; None if there is no compiler either."""
    program = compiler()
    if program is None:
        return None
    try:
        return _target(program, source, [f"-D{k}={v}" for k, v in sorted(defines.items())]).exists()
    except (OSError, subprocess.SubprocessError):
        return None


def _target(program: str, source: Path, macros: list[str]) -> Path:
    texts = [path.read_bytes() for path in (source, *sorted(source.parent.glob("*.h")))]
    parts = [*texts, " ".join(FLAGS + macros).encode(), _toolchain(program)]
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()
    return private_folder("kernels") / f"{source.stem}-{digest[:32]}.so"


def _build(program: str, source: Path, macros: list[str], target: Path) -> ctypes.CDLL | None:
    temporary = temporary_name(target)
    try:
        for tuned in (["-march=native"], []):  # not every compiler knows this machine
            command = [program, *FLAGS, *tuned, *macros, str(source), "-o", str(temporary)]
            if subprocess.run(command, capture_output=True, timeout=300, check=False).returncode == 0:
                temporary.chmod(0o700)
                library = ctypes.CDLL(str(temporary))  # before it gets its name: it can be loaded
                os.replace(temporary, target)
                return library
        return None
    finally:
        temporary.unlink(missing_ok=True)


@cache
def _toolchain(program: str) -> bytes:
    """Compiler, processor and torch: what decides which instructions the library may hold."""
    version = subprocess.run([program, "--version"], capture_output=True, timeout=60, check=True).stdout
    return version + device_name(torch.device("cpu")).encode() + torch.__version__.encode()
