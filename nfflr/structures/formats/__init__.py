"""File formats that NFFLr reads itself: one file each.

They are asked in the order of their names, and the first that opens a file reads it; callers check the
structures. A folder that is given whole is searched for the endings in ``structures/kinds.py``.

A format is a module with

- ``opens(path) -> bool``: whether the file is of this format, by its name or its first lines; it is cheap
  and raises nothing;
- ``read(path) -> Iterator[ase.Atoms]``: the structures in the order of the file. Labels are where ASE's
  readers leave them: results in a ``SinglePointCalculator``, other values in ``info`` and ``arrays``. Raises
  ``StructureError`` whose message names the file, the frame and the line.

ASE reads every other file. Below stands what formats share: how files begin, their text, JSON in them.
"""

from __future__ import annotations

import importlib
import lzma
import pkgutil
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import ase.io.formats
import numpy as np
from ase.io.formats import get_compression, open_with_compression
from pydantic_core import from_json

from ...errors import StructureError

START = 2**17  # bytes in which a file says what it is
LINES = (".jsonl", ".ndjson")
BYTE_ORDER_MARKS = {  # the longer first
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
UNPACKING = (OSError, EOFError, zlib.error, lzma.LZMAError)


@cache
def modules() -> tuple[ModuleType, ...]:
    """Every format of this folder, in the order of their names."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    return tuple(importlib.import_module(f"{__name__}.{name}") for name in names)


def find(path: Path) -> ModuleType | None:
    """The format that reads a file, or None where that is left to ASE."""
    return next((module for module in modules() if module.opens(path)), None)


def ase_format(path: Path) -> str | None:
    """ASE's name of the format of a file; None where it finds none."""
    try:
        return ase.io.formats.filetype(str(path))
    except Exception:  # whatever ASE's registry or an archive raises
        return None


def plain_name(path: Path) -> Path:
    """The name of the file without its folder and its compression: ``si.cif`` of ``runs/si.cif.gz``."""
    return Path(get_compression(path.name)[0])


def suffix_of(path: Path) -> str:
    """The ending of the plain name in small letters: ``.cif`` of ``SI.CIF.gz``."""
    return plain_name(path).suffix.lower()


def start_of(path: Path, size: int = START) -> bytes:
    """The first bytes, unpacked; nothing where that fails."""
    try:
        with open_with_compression(str(path), "rb") as file:
            return bytes(file.read(size))
    except UNPACKING:
        return b""


def content_of(path: Path) -> bytes:
    """All bytes, unpacked.

    Raises:
        StructureError: the file cannot be unpacked.
    """
    try:
        with open_with_compression(str(path), "rb") as file:
            return bytes(file.read())
    except UNPACKING as error:
        raise cannot_unpack(path, error) from error


def cannot_unpack(path: Path, error: BaseException) -> StructureError:
    """The error that says why a file cannot be unpacked."""
    reason = "it ends too early" if isinstance(error, EOFError) else error
    return StructureError(f"{path}: cannot be unpacked ({reason}); the file is truncated, copy it again")


def encoding_of(start: bytes) -> str:
    """The encoding of a text by its first bytes: UTF-8 unless a mark of byte order or zeros say otherwise."""
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if start.startswith(mark):
            return encoding
    for encoding, zeros in (("utf-16-le", start[1:200:2]), ("utf-16-be", start[0:200:2])):
        if zeros and not any(zeros):  # every other byte of ASCII letters is zero
            return encoding
    return "utf-8"


def is_json(path: Path) -> bool:
    """Whether the name ends as that of a JSON file, compressed or not."""
    return suffix_of(path) in (".json", *LINES)


def documents(path: Path, content: bytes | None = None) -> Iterator[tuple[str, Any]]:
    """The name in messages and the content of each JSON document: one for the file, or one a line.

    Raises:
        StructureError: the file cannot be unpacked or is no JSON; names the line.
    """
    try:
        text = (content_of(path) if content is None else content).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StructureError(f"{path}: is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    if suffix_of(path) not in LINES and not _first_line_is_whole(text):
        yield str(path), _parsed(path, text)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}: line {number}", _parsed(path, line, number)


def _first_line_is_whole(text: str) -> bool:
    """Whether a file named .json has a document a line: its first line parses and is not all there is."""
    line, _, others = text.lstrip().partition("\n")
    if not line.startswith("{") or not others.strip():
        return False
    try:
        from_json(line)
    except ValueError:
        return False
    return True


def _parsed(path: Path, text: str, first: int = 1) -> Any:
    """The content of JSON that begins in line ``first`` of the file; a StructureError where it is none."""
    try:
        return from_json(text)  # it refuses deep nesting, which would crash the parser of json
    except ValueError as error:
        reason, _, place = str(error).partition(" at line ")
        line = first - 1 + int(place.split()[0] if place else 1)
        raise StructureError(
            f"{path}: line {line} is not JSON ({reason}); the file may be truncated, or correct it"
        ) from error


def numbers_of(value: Any, shape: tuple[int, ...], name: str, where: str) -> np.ndarray:
    """An array of finite numbers of a shape; a StructureError where it is something else."""
    try:
        array = np.array(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise StructureError(f"{where}: {name} is not made of numbers; correct the file") from error
    if array.shape != shape:
        raise StructureError(f"{where}: {name} has shape {array.shape}, expected {shape}; correct the file")
    if not np.isfinite(array).all():
        raise StructureError(f"{where}: {name} is not finite; correct the file")
    return array
