"""JSON and JSON lines in JARVIS form, also as .gz, .bz2, .xz or .zip.

A record is ``{"jid" or "id", "atoms": {"lattice_mat", "coords", "elements", "cartesian"}, …}``; any other key
is a value that can be a target.
"""

from __future__ import annotations

import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import ase
import ase.data
import numpy as np
from ase.io.formats import get_compression, open_with_compression

from ...errors import StructureError
from ...storage.nesting import refuse_deep
from ...structures import formats
from ...structures.ase_formats import ASE_JSON
from ...structures.checks import check_structure
from . import Entry, Wanted, display_name

KEYS = {"total_energy": ("total_energy",), "forces": ("forces",), "stress": ("stresses", "stress")}
ENERGY_UNITS = None  # per cell in some files, per atom in others
BLANK = re.compile(r"\s*")
STRESS = None  # usually VASP's kbar, pressure positive, but nothing says so

UNPACKING = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)


def opens(source: object) -> bool:
    if not isinstance(source, str | Path) or not Path(source).is_file():
        return False
    if formats.find(Path(source)) is not None:  # JSON of another form
        return False
    kind = Path(_unpacked_name(Path(source))).suffix.lower()
    if kind in (".jsonl", ".ndjson"):
        return True
    return kind == ".json" and not ASE_JSON.match(_start(Path(source)))


def read(source: str | Path, wanted: Wanted = None) -> list[Entry]:
    path = Path(source)
    name = display_name(path)
    found = []
    for where, k, item in records(path):
        atoms = structure(item, where)
        ident = item.get("jid", item.get("id"))
        found.append(
            Entry(
                id=f"{name}[{k}]" if ident is None else f"{name}[{k}:{ident}]",
                group=str(item.get("group", "other")),
                atoms=atoms,
                values=values(item, wanted),
            )
        )
    if not found:
        raise StructureError(f"{path}: holds no record; expected at least one")
    return found


def values(item: dict, wanted: Wanted) -> dict:
    """What a record holds besides its structure."""
    return {k: v for k, v in item.items() if k != "atoms" and (wanted is None or k in wanted)}


def records(path: Path) -> Iterator[tuple[str, int, dict]]:
    """Name for messages, number and content of each record.

    Raises:
        StructureError: naming the line or the record that is no JSON object.
    """
    lines = Path(_unpacked_name(path)).suffix.lower() != ".json"
    text = _text(path)
    lines = lines or (text.lstrip().startswith("{") and _first_line_is_whole(text))
    for k, (where, item) in enumerate(_lines(path, text) if lines else _array(path, text)):
        if not isinstance(item, dict):
            raise StructureError(f"{where}: a record is {json.dumps(item)[:40]}, expected a JSON object")
        yield where, k, item


def _lines(path: Path, text: str) -> Iterator[tuple[str, object]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            refuse_deep(line.encode())
            yield f"{path}: line {number}", json.loads(line)
        except ValueError as error:
            reason = getattr(error, "msg", str(error))
            last = number == text.count("\n") + 1  # a line without its end, as a cut leaves it
            raise StructureError(f"{path}: line {number} is not JSON ({reason}); {_advice(last)}") from error


def _advice(ends_early: bool) -> str:
    return "the file may be truncated" if ends_early else "correct the file"


def _after_blank(text: str, at: int) -> int:
    found = BLANK.match(text, at)
    assert found is not None  # it may be empty
    return found.end()


def _array(path: Path, text: str) -> Iterator[tuple[str, object]]:
    """Elements of a JSON array one by one, so that an error has a record; a single object is its only one."""
    decoder, at = json.JSONDecoder(), _after_blank(text, 0)
    if text[at : at + 1] == "{":
        text = f"{text[:at]}[{text[at:]}]"
    if text[at : at + 1] != "[":
        raise StructureError(f"{path}: is not JSON of records; expected [{{…}}, …] or one record per line")
    at, count = _after_blank(text, at + 1), 0
    closing = text[at : at + 1] == "]"
    try:
        refuse_deep(text.encode())
    except ValueError as error:
        raise StructureError(f"{path}: is not JSON of records ({error}); correct the file") from error
    while not closing:
        try:
            item, at = decoder.raw_decode(text, at)
            at = _after_blank(text, at)
            closing = text[at : at + 1] == "]"
            if not closing and text[at : at + 1] != ",":
                raise json.JSONDecodeError("expected ',' or ']'", text, at)
        except ValueError as error:
            line = str(error)
            if isinstance(error, json.JSONDecodeError):
                line = f"line {error.lineno}: {error.msg}"
            last = at >= len(text) or getattr(error, "pos", 0) >= len(text.rstrip()) or "Unterminated" in line
            raise StructureError(f"{path}: record {count} is not JSON ({line}); {_advice(last)}") from error
        yield f"{path}: record {count}", item
        count += 1
        at = at if closing else _after_blank(text, at + 1)
    if text[at + 1 :].strip():
        raise StructureError(f"{path}: something follows record {count - 1}; expected the end of the file")


def _first_line_is_whole(text: str) -> bool:
    """Whether a file named .json has one record per line: the first line parses and is not all there is."""
    line, _, rest = text.lstrip().partition("\n")
    try:
        refuse_deep(line.encode())
        json.loads(line)
    except ValueError:
        return False
    return bool(rest.strip())


def structure(item: dict, where: str) -> ase.Atoms:
    """The ``ase.Atoms`` of a record, periodic along every axis as JARVIS has it.

    Raises:
        StructureError: something is missing or does not fit; names the record.
    """
    jid = item.get("jid", item.get("id"))
    where = where if jid is None else f"{where} ({jid})"
    atoms = item.get("atoms")
    if not isinstance(atoms, dict):
        raise StructureError(f"{where}: no structure; expected 'atoms' with lattice_mat, coords and elements")
    for key in ("lattice_mat", "coords", "elements"):
        if key not in atoms:
            raise StructureError(f"{where}: atoms without {key!r}; expected lattice_mat, coords and elements")
    cell, coords = (_array_of(atoms[key], key, where) for key in ("lattice_mat", "coords"))
    symbols = atoms["elements"]
    if not isinstance(symbols, list) or not all(isinstance(s, str) for s in symbols):
        raise StructureError(f"{where}: elements is {str(symbols)[:40]!r}; expected a list of symbols")
    for symbol in symbols:
        if symbol.strip() not in ase.data.atomic_numbers:
            raise StructureError(f"{where}: unknown element {symbol!r}; expected a chemical symbol")
    if cell.shape != (3, 3) or coords.shape != (len(symbols), 3):
        raise StructureError(
            f"{where}: lattice_mat has shape {cell.shape} and coords {coords.shape}; "
            f"expected (3, 3) and ({len(symbols)}, 3)"
        )
    numbers = [ase.data.atomic_numbers[s.strip()] for s in symbols]
    positions = coords if atoms.get("cartesian", False) else coords @ cell
    found = ase.Atoms(numbers, positions, cell=cell, pbc=True)
    check_structure(found, where)
    return found


def _array_of(value: object, key: str, where: str) -> np.ndarray:
    try:
        return np.array(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise StructureError(f"{where}: {key} is not an array of numbers; correct the record") from error


def _unpacked_name(path: Path) -> str:
    name = path.name.removesuffix(".zip")
    return get_compression(name)[0]


def _open(path: Path):
    if path.suffix != ".zip":
        return open_with_compression(str(path), "rb")
    archive = zipfile.ZipFile(path)
    members = [m for m in archive.namelist() if m.endswith((".json", ".jsonl", ".ndjson"))]
    if len(members) != 1:
        raise zipfile.BadZipFile(f"{len(members)} JSON files inside, expected one")
    return archive.open(members[0])


def _start(path: Path) -> bytes:
    try:
        with _open(path) as file:
            return file.read(200)
    except UNPACKING:
        return b""  # reading it will say what is wrong


def _text(path: Path) -> str:
    try:
        with _open(path) as file:
            return file.read().decode()
    except UNPACKING as error:
        raise StructureError(f"{path}: cannot be unpacked ({error}); the file may be truncated") from error
    except UnicodeDecodeError as error:
        raise StructureError(f"{path}: record 0 cannot be read: not UTF-8 text ({error.reason})") from error
