"""C++ sources built once for this machine, into the user's own cache folder."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

from ..storage.cache import is_private, private_folder
from ..storage.files import temporary_name
from .cache import compiler, device_name

FLAGS = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fPIC"]
FLAGS += ["-shared", "-pthread"]


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
    parts = [*texts, " ".join(FLAGS + macros).encode(), _identity(program)]
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
def _identity(program: str) -> bytes:
    """Compiler, processor and torch: what decides which instructions the library may hold."""
    version = subprocess.run([program, "--version"], capture_output=True, timeout=60, check=True).stdout
    return version + device_name(torch.device("cpu")).encode() + torch.__version__.encode()
