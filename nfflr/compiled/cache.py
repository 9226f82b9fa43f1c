"""Compiled graphs and C++ libraries in a private folder, named after all that they depend on."""

from __future__ import annotations

import ctypes
import hashlib
import inspect
import json
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

import torch

from .. import __version__
from ..models.base import Potential
from ..storage.files import temporary_name, user_cache

ROOT = Path(__file__).parents[1]
GRAPH, MANIFEST = "graph.pt2", "manifest.json"
FLAGS = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fPIC"]
FLAGS += ["-shared", "-pthread"]
STALE = 86400  # seconds after which a folder of an interrupted build is removed


class Artefacts:
    """The place in the cache of one model's compiled graph; a context, at whose end leftovers go.

    Only this folder is ever read: what lies beside a checkpoint is no concern of it. It must belong to the
    user and be writable by nobody else, and the graph must have the digest that was noted when it was built.
    """

    def __init__(self, model: Potential):
        self.identity = identity(model)
        text = json.dumps(self.identity, sort_keys=True)
        self.root = user_cache() / "compiled"
        self.folder = self.root / hashlib.sha256(text.encode()).hexdigest()[:32]
        self._leftovers = ExitStack()
        self._new: Path | None = None

    def __enter__(self) -> Artefacts:
        return self

    def __exit__(self, *_) -> None:
        self._leftovers.close()

    def find(self) -> Path | None:
        """The graph if it is there and whole, else None."""
        try:
            if not all(is_private(path) for path in (self.root, self.folder, self.folder / GRAPH)):
                return None
            manifest = json.loads((self.folder / MANIFEST).read_bytes())
            whole = manifest == {"identity": self.identity, "sha256": _digest(self.folder / GRAPH)}
        except (OSError, ValueError):
            return None
        return self.folder / GRAPH if whole else None

    def discard(self) -> None:
        """Remove what is there."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def new(self) -> Iterator[Path]:
        """Where to write the graph: a folder of this process's own, in the cache if that can be written."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            _remove_stale(self.root)
            folder = tempfile.mkdtemp(prefix=".build-", dir=self.root)
        except OSError:
            folder = tempfile.mkdtemp(prefix="nfflr-")
        self._new = Path(folder)
        self._leftovers.callback(shutil.rmtree, folder, ignore_errors=True)
        yield self._new / GRAPH

    def keep(self) -> str:
        """Give the new graph its name, whole or not at all; where it is now, in words.

        Another process that was faster is not disturbed; what is damaged there is replaced.
        """
        assert self._new is not None  # new() was called
        if self._new.parent != self.root or not is_private(self.root):
            return f"for this process alone, as {self.root} is not a folder that only you can write"
        for path in self._new.iterdir():
            if path.name != GRAPH:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
        manifest = {"identity": self.identity, "sha256": _digest(self._new / GRAPH)}
        (self._new / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
        for path in self._new.iterdir():
            path.chmod(0o600)
        for _ in range(2):
            try:
                self._new.rename(self.folder)
                return str(self.folder)
            except OSError:
                if self.find():
                    return str(self.folder)
                with suppress(OSError):  # moved first, so that nobody sees half of it
                    aside = tempfile.mkdtemp(prefix=".build-", dir=self.root)
                    self._leftovers.callback(shutil.rmtree, aside, ignore_errors=True)
                    self.folder.rename(Path(aside) / "damaged")
        return "for this process alone"


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


def is_private(path: Path) -> bool:
    """Whether a file or folder is the user's own and nobody else can write to it."""
    found = path.lstat()
    mine = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    return mine and not stat.S_ISLNK(found.st_mode) and not found.st_mode & 0o022


def compiler() -> str | None:
    """The C++ compiler that torch would call, or None."""
    words = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    return shutil.which(words[0])


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _remove_stale(root: Path) -> None:
    for path in root.glob(".build-*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE:
                shutil.rmtree(path, ignore_errors=True)


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
    return _private_folder() / f"{source.stem}-{digest[:32]}.so"


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


def _private_folder() -> Path:
    """Folder of built libraries; one that others could write to is refused.

    Raises:
        PermissionError: somebody else owns it or may write there.
    """
    folder = user_cache() / "kernels"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_private(folder):
        raise PermissionError(f"{folder} is not a folder that only you can write")
    return folder
