"""C++ sources built once for this machine, into the user's own cache folder."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import torch

from ..files import temporary_name, user_cache

FLAGS = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fPIC"]
FLAGS += ["-shared", "-pthread"]


def compiler() -> str | None:
    """Path of the C++ compiler: ``$CXX``, or the first of the usual names; None without one."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    return next((path for name in names if (path := shutil.which(name))), None)


def load_library(source: Path, defines: dict[str, object]) -> ctypes.CDLL | None:
    """The shared library made from ``source`` with these macros; compiled unless this machine has it.

    The file's name is a digest of source, macros, flags, compiler, processor and torch's version. It is
    written under a temporary name and renamed, into a folder that only the user may write.

    Returns:
        None if there is no compiler, it fails, or the cache cannot be written.
    """
    program = compiler()
    if program is None:
        return None
    macros = [f"-D{name}={value}" for name, value in sorted(defines.items())]
    try:
        parts = [source.read_bytes(), " ".join(FLAGS + macros).encode(), _identity(program)]
        digest = hashlib.sha256(b"\0".join(parts)).hexdigest()
        target = _private_folder() / f"{source.stem}-{digest[:32]}.so"
        if target.exists():
            with suppress(OSError):  # damaged: built anew
                return ctypes.CDLL(str(target))
        return _build(program, source, macros, target)
    except (OSError, subprocess.SubprocessError):
        return None


def _build(program: str, source: Path, macros: list[str], target: Path) -> ctypes.CDLL | None:
    temporary = temporary_name(target)
    try:
        for tuned in (["-march=native"], []):  # not every compiler knows this machine
            command = [program, *FLAGS, *tuned, *macros, str(source), "-o", str(temporary)]
            if subprocess.run(command, capture_output=True, timeout=300, check=False).returncode == 0:
                library = ctypes.CDLL(str(temporary))  # before it gets its name: it can be loaded
                os.replace(temporary, target)
                return library
        return None
    finally:
        temporary.unlink(missing_ok=True)


def _identity(program: str) -> bytes:
    """Compiler, processor and torch: what decides which instructions the library may hold."""
    version = subprocess.run([program, "--version"], capture_output=True, timeout=60, check=True).stdout
    processor = platform.machine() + platform.processor()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        kept = ("model name", "flags", "Features", "CPU part")
        processor += "".join(sorted({line for line in lines if line.startswith(kept)}))
    return version + processor.encode() + torch.__version__.encode()


def _private_folder() -> Path:
    """Folder of built libraries; one that others could write to is refused.

    Raises:
        PermissionError: somebody else owns it or may write there.
    """
    folder = user_cache() / "kernels"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        raise PermissionError(f"{folder}: others may write there")
    return folder
