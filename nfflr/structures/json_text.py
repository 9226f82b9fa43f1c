"""JSON files of records, plain or compressed: what they begin with, and their content."""

from __future__ import annotations

import json
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ase.io.formats import get_compression, open_with_compression

from ..errors import StructureError
from ..storage.nesting import refuse_deep

START = 2**17  # bytes in which a file says what it is
LINES = (".jsonl", ".ndjson")
UNPACKING = (OSError, EOFError, zlib.error, lzma.LZMAError)


def is_json(path: Path) -> bool:
    """Whether the name ends as that of a JSON file, compressed or not."""
    return Path(get_compression(path.name)[0]).suffix.lower() in (".json", *LINES)


def start_of(path: Path) -> bytes:
    """The first ``START`` bytes, unpacked; nothing where that fails."""
    try:
        with open_with_compression(str(path), "rb") as file:
            return bytes(file.read(START))
    except UNPACKING:
        return b""


def documents(path: Path) -> Iterator[tuple[str, Any]]:
    """What messages call each document of the file, and its content: one, or one a line.

    Raises:
        StructureError: the file cannot be unpacked or is no JSON; names the line.
    """
    text = _text(path)
    if Path(get_compression(path.name)[0]).suffix.lower() not in LINES:
        yield str(path), _parsed(path, text, 1)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}: line {number}", _parsed(path, line, number)


def _text(path: Path) -> str:
    try:
        with open_with_compression(str(path), "rb") as file:
            return str(file.read().decode("utf-8-sig"))
    except UNPACKING as error:
        raise StructureError(f"{path}: cannot be unpacked ({error}); the file may be truncated") from error
    except UnicodeDecodeError as error:
        raise StructureError(f"{path}: is not UTF-8 text ({error.reason}); save it as UTF-8") from error


def _parsed(path: Path, text: str, first: int) -> Any:
    try:
        refuse_deep(text.encode())
        return json.loads(text)
    except ValueError as error:
        line = first - 1 + getattr(error, "lineno", 1)
        reason = getattr(error, "msg", str(error))
        raise StructureError(
            f"{path}: line {line} is not JSON ({reason}); the file may be truncated, or correct it"
        ) from error
