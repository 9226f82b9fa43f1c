"""A folder with ``id_prop.csv`` or ``id_prop.json`` and structure files (POSCAR, CIF, XYZ …) beside it.

``id_prop.csv`` has rows ``name,value[,value…]``. With a header its columns have names. Without one the value
is called ``target``; several values are a vector of that name. ``id_prop.json`` is in JARVIS form; a record
without ``atoms`` names a file by ``file``, ``jid`` or ``id``.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import ase

from ...errors import StructureError
from ...structures.readers import read_structures
from . import Entry, Wanted, jarvis, kept
from .jarvis import ENERGY_UNITS, KEYS, STRESS

__all__ = ["ENERGY_UNITS", "KEYS", "STRESS", "opens", "read"]

NAMES = ("id_prop.csv", "id_prop.json")
ENDINGS = ("", ".vasp", ".poscar", ".cif", ".xyz")
UNNAMED = "target"


def opens(source: object) -> bool:
    return isinstance(source, str | Path) and any((Path(source) / name).is_file() for name in NAMES)


def read(source: str | Path, wanted: Wanted = None) -> list[Entry]:
    folder = Path(source)
    present = [name for name in NAMES if (folder / name).is_file()]
    if len(present) == 2:
        raise StructureError(
            f"{folder}: holds both {present[0]} and {present[1]}; keep the one that is meant"
        )
    reader = {"id_prop.csv": _read_csv, "id_prop.json": _read_json}[present[0]]
    entries = reader(folder, wanted)
    if not entries:
        raise StructureError(f"{folder / present[0]}: holds no structure; expected at least one row")
    return entries


def _read_csv(folder: Path, wanted: Wanted) -> list[Entry]:
    path = folder / "id_prop.csv"
    rows = [(number, row) for number, row in _rows(path) if any(cell.strip() for cell in row)]
    header = rows[0][1] if rows and _is_header(folder, rows[0][1]) else None
    entries = []
    for number, row in rows[1 if header else 0 :]:
        where, expected = f"{path}: line {number}", len(header or rows[0][1])
        if len(row) != expected or expected < 2:
            raise StructureError(
                f"{where}: {len(row)} columns, expected {max(expected, 2)}: name,value[,value…]"
            )
        numbers = [_value(cell) for cell in row[1:]]
        if header:
            values: dict[str, Any] = dict(zip((cell.strip() for cell in header[1:]), numbers, strict=True))
        else:
            values = {UNNAMED: numbers[0] if len(numbers) == 1 else numbers}
        name = row[0].strip()
        atoms = _structure(folder, name, where)
        entries.append(Entry(f"id_prop.csv[{name}]", "other", atoms, kept(values, wanted)))
    return entries


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    try:
        reader = csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
        return [(reader.line_num, row) for row in reader]
    except UnicodeDecodeError as error:
        raise StructureError(f"{path}: line 1 cannot be read: not UTF-8 text ({error.reason})") from error
    except csv.Error as error:
        line = reader.line_num
        raise StructureError(f"{path}: line {line} is not CSV ({error}); correct the line") from error


def _is_header(folder: Path, row: list[str]) -> bool:
    """Whether a first row names columns: no number in it, and its first cell is no structure file."""
    return _file(folder, row[0].strip()) is None and not any(
        isinstance(_value(cell), float) for cell in row[1:]
    )


def _value(cell: str) -> float | bool | str | None:
    text = cell.strip()
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return float(text)
    except ValueError:
        return text or None


def _read_json(folder: Path, wanted: Wanted) -> list[Entry]:
    entries = []
    for where, k, item in jarvis.records(folder / "id_prop.json"):
        file = item.get("file", item.get("jid", item.get("id")))
        beside = "atoms" not in item and file is not None
        atoms = _structure(folder, str(file), where) if beside else jarvis.structure(item, where)
        entries.append(jarvis.entry("id_prop.json", k, item, atoms, wanted))
    return entries


def _file(folder: Path, name: str) -> Path | None:
    inside = name and Path(name).name == name  # a name, not a path that leads out of the folder
    candidates = [folder / (name + ending) for ending in ENDINGS] if inside else []
    return next((path for path in candidates if path.is_file()), None)


def _structure(folder: Path, name: str, where: str) -> ase.Atoms:
    path = _file(folder, name)
    if path is None:
        raise StructureError(f"{where}: structure file {name!r} is missing from the folder; put it there")
    try:
        frames = read_structures(path)
    except StructureError as error:
        raise StructureError(f"{where}: {error}") from error
    if len(frames) != 1:
        raise StructureError(f"{where}: {path.name} holds {len(frames)} structures; expected one")
    atoms = frames[0]
    return ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
