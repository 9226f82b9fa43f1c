"""Writing files so that they are whole or absent."""

from __future__ import annotations

import glob
import io
import json
import os
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ResourceError

if TYPE_CHECKING:  # nothing else here needs matplotlib
    from matplotlib.figure import Figure

COMPRESSIONS = {".gz", ".bz2", ".xz", ".zst"}


def stem(path: Path) -> str:
    """A file's name without its format and compression: ``si`` of ``runs/si.xyz.xz``."""
    name = Path(path.name)
    while name.suffix.lower() in COMPRESSIONS:
        name = name.with_suffix("")
    return name.stem


def write_atomically(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file under a temporary name, flush it to disk, and rename it into place.

    Args:
        path: the file; its folder must exist.
        content: its bytes.
        durable: wait until the disk has it. Without that a file is still whole or absent after a kill, but
            may be empty after a loss of power: only for what carries a digest and can be made again.

    Raises:
        ResourceError: the file cannot be written; nothing is left behind.
    """
    temporary = temporary_name(path)
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise ResourceError(f"{path}: cannot be written ({error.strerror}); check the folder") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)  # there only if something, an interrupt too, came between


@contextmanager
def all_or_none(paths: Collection[Path]) -> Iterator[None]:
    """Files that belong together: if writing one fails, or is interrupted, the others go too."""
    try:
        yield
    except BaseException:
        for path in paths:
            with suppress(OSError):
                path.unlink(missing_ok=True)  # half a result would block the next run
        raise


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that no other process or thread uses."""
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")


def sweep(paths: Iterable[Path]) -> None:
    """Remove the temporary files that killed writers of these files left; nobody may be writing them."""
    for path in paths:
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            with suppress(OSError):
                leftover.unlink()


def user_cache() -> Path:
    """The user's cache folder, ``$XDG_CACHE_HOME/nfflr`` or ``~/.cache/nfflr``; not created here."""
    given = Path(os.environ.get("XDG_CACHE_HOME") or "")
    # A relative one counts as not set, says the XDG Base Directory Specification: it would follow the user.
    return (given if given.is_absolute() else Path.home() / ".cache") / "nfflr"


def write_json(path: Path, record: dict) -> None:
    """Write JSON with sorted keys: equal results give equal bytes."""
    text = json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, text.encode())


def write_figure(path: Path, figure: Figure) -> None:
    """Write a matplotlib figure as PNG."""
    write_atomically(path, figure_bytes(figure))


def figure_bytes(figure: Figure, dpi: int = 150) -> bytes:
    """A matplotlib figure as PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    return content.getvalue()


def claim_folder(folder: Path) -> None:
    """Make a folder and prove that a file can be created in it, before anything is computed.

    Raises:
        ResourceError: it cannot.
    """
    probe = temporary_name(folder / "probe")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ResourceError(
            f"{folder}: cannot be written ({error.strerror}); choose another folder"
        ) from error
