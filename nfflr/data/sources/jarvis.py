"""Data sets in JARVIS form: JSON, a folder with ``id_prop.csv`` or ``id_prop.json``, or a name as ``dft_3d``.

A record of JSON or JSON lines, also compressed, is
``{"jid" or "id", "atoms": {"lattice_mat", "coords", "elements", "cartesian"}, …}``; any other key is a value
that can be a target. A named set is read from the user's cache; jarvis-tools (extra ``nfflr[jarvis]``)
fetches it there once.

A folder holds structure files (POSCAR, CIF, XYZ …) too. ``id_prop.csv`` has rows ``name,value[,value…]``.
With a header its columns have names. Without one the value is called ``target``; several values are a vector
of that name. In ``id_prop.json`` a record without ``atoms`` names a file by ``file``, ``jid`` or ``id``.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase

from ...errors import StructureError
from ...storage.cache import user_cache
from ...storage.files import claim_folder
from ...structures import formats
from ...structures.checks import check_structure
from ...structures.formats import LINES, cannot_unpack, documents, numbers_of, start_of, suffix_of
from ...structures.readers import ASE_JSON, read_structures
from ...structures.species import is_symbol
from . import Entry, Selection, display_name, file_of, selected

KEYS = {"total_energy": ("total_energy",), "forces": ("forces",), "stress": ("stresses", "stress")}
ENERGY_UNITS = None  # per cell in some files, per atom in others
STRESS = None  # usually VASP's kbar, pressure positive, but nothing says so

# Names for which the instructions work without jarvis-tools, as its table (2026.6) has them: figshare file
# number and the JSON file inside. With jarvis-tools installed, its own table is asked.
COMMON = {
    "dft_3d": (64391379, "jdft_3d-9-24-2025.json"),
    "dft_2d": (38521268, "d2-12-12-2022.json"),
    "dft_3d_2022": (38521619, "jdft_3d-12-12-2022.json"),
    "dft_3d_2021": (29204826, "jdft_3d-8-18-2021.json"),
    "dft_2d_2021": (26808917, "d2-3-12-2021.json"),
    "alignn_ff_db": (38522315, "id_prop.json"),
    "megnet": (26724977, "megnet.json"),
    "qm9_std_jctc": (28715319, "qm9_std_jctc.json"),
    "mlearn": (40357663, "mlearn.json"),
    "supercon_3d": (38307921, "jarvis_epc_data_figshare_1058.json"),
    "vacancydb": (52845425, "vacancydb.json"),
    "snumat": (38521736, "snumat.json"),
    "c2db": (28682010, "c2db_atoms.json"),
    "m3gnet_mpf": (41009036, "m3gnet_mpf.json"),
}
NAMES = ("id_prop.csv", "id_prop.json")
ENDINGS = ("", ".vasp", ".poscar", ".cif", ".xyz")
UNNAMED = "target"
PAGE = "https://figshare.com/authors/Kamal_Choudhary/4445539"


def opens(source: object) -> bool:
    path = file_of(source)
    if isinstance(source, str | Path) and _tables(Path(source)):
        return True
    if path is None:
        return isinstance(source, str) and not Path(source).exists() and _address(source) is not None
    if formats.find(path) is not None:  # JSON of another form
        return False
    suffix = suffix_of(path.with_suffix("") if path.suffix == ".zip" else path)
    return suffix in LINES or (suffix == ".json" and not ASE_JSON.match(start_of(path, 200)))


def read(source: str | Path, selection: Selection = None) -> list[Entry]:
    if _tables(Path(source)):
        return _read_folder(Path(source), selection)
    path = file_of(source) or _downloaded(str(source))
    name = display_name(path)
    entries = [entry(name, k, item, structure(item, where), selection) for where, k, item in records(path)]
    if not entries:
        raise StructureError(f"{path}: holds no record; expected at least one")
    return entries


def entry(name: str, k: int, item: dict, atoms: ase.Atoms, selection: Selection) -> Entry:
    """Record ``k`` of a file of this name."""
    ident = item.get("jid", item.get("id"))
    title = f"{name}[{k}]" if ident is None else f"{name}[{k}:{ident}]"
    values = {key: value for key, value in item.items() if key != "atoms"}
    return Entry(title, str(item.get("group", "other")), atoms, selected(values, selection))


def records(path: Path) -> Iterator[tuple[str, int, dict]]:
    """Name for messages, number and content of each record.

    Raises:
        StructureError: naming the line or the record that is no JSON object.
    """
    count = 0
    for where, document in documents(path, _unzipped(path) if path.suffix == ".zip" else None):
        is_file = where == str(path)
        for item in document if is_file and isinstance(document, list) else [document]:
            name = f"{path}: record {count}" if is_file else where
            if not isinstance(item, dict):
                raise StructureError(f"{name}: a record is {json.dumps(item)[:40]}, expected a JSON object")
            yield name, count, item
            count += 1


def _unzipped(path: Path) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith((".json", *LINES))]
            if len(members) != 1:
                raise zipfile.BadZipFile(f"{len(members)} JSON files inside, expected one")
            return archive.read(members[0])
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise cannot_unpack(path, error) from error


def structure(item: dict, where: str) -> ase.Atoms:
    """The ``ase.Atoms`` of a record, periodic along every axis as in JARVIS.

    Raises:
        StructureError: something is missing or does not fit; names the record.
    """
    ident = item.get("jid", item.get("id"))
    where = where if ident is None else f"{where} ({ident})"
    content, keys = item.get("atoms"), ("lattice_mat", "coords", "elements")
    if not isinstance(content, dict):
        raise StructureError(f"{where}: no structure; expected 'atoms' with lattice_mat, coords and elements")
    for key in keys:
        if key not in content:
            raise StructureError(f"{where}: atoms without {key!r}; expected lattice_mat, coords and elements")
    symbols = content["elements"]
    if not isinstance(symbols, list) or not all(isinstance(symbol, str) for symbol in symbols):
        raise StructureError(f"{where}: elements is {str(symbols)[:40]!r}; expected a list of symbols")
    for symbol in symbols:
        if not is_symbol(symbol.strip()):
            raise StructureError(f"{where}: unknown element {symbol!r}; expected a chemical symbol")
    cell = numbers_of(content["lattice_mat"], (3, 3), "lattice_mat", where)
    coordinates = numbers_of(content["coords"], (len(symbols), 3), "coords", where)
    positions = coordinates if content.get("cartesian", False) else coordinates @ cell
    atoms = ase.Atoms([symbol.strip() for symbol in symbols], positions, cell=cell, pbc=True)
    check_structure(atoms, where)
    return atoms


def _downloaded(name: str) -> Path:
    """The file of a named set, which is fetched if it is not there."""
    address = _address(name)
    assert address is not None  # opens() was asked
    url, inside = address
    folder = user_cache() / "jarvis" / name
    plain, archive = folder / inside, folder / f"{inside}.zip"
    if plain.is_file():
        return plain
    if not archive.is_file():
        _fetch(name, url, inside, archive)
    return archive


def _address(name: str) -> tuple[str, str] | None:
    """The address of a data set, and the name of the JSON file inside the archive."""
    if _figshare() is None:
        number, inside = COMMON.get(name, (None, ""))
        return None if number is None else (f"https://ndownloader.figshare.com/files/{number}", inside)
    if not name.replace("_", "").replace(".", "").isalnum():
        return None
    row = _figshare().get_db_info().get(name)
    return None if row is None else (row[0], row[1])


def _figshare():
    """jarvis-tools' module of data sets, None where that is not installed."""
    try:
        from jarvis.db import figshare
    except ImportError:
        return None
    return figshare


def _fetch(name: str, url: str, inside: str, path: Path) -> None:
    """Download an archive, or say what to download; it appears under its name only when it is whole."""
    figshare = _figshare()
    advice = (
        f"download {url} (listed on {PAGE}) and save it as {path}, or the {inside} inside it as "
        f"{path.parent / inside}"
    )
    if figshare is None:
        raise StructureError(
            f"{name}: this JARVIS data set is not on this machine; {advice}, or install nfflr[jarvis]"
        )
    claim_folder(path.parent)
    with tempfile.TemporaryDirectory(
        dir=path.parent, prefix=".download-", ignore_cleanup_errors=True
    ) as folder:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # it prints; standard output is for results
                figshare.get_request_data(js_tag=inside, url=url, store_dir=folder)
        except Exception as error:  # whatever requests, zipfile and json raise when there is no network
            with contextlib.suppress(OSError):
                shutil.rmtree(folder)
                path.parent.rmdir()  # if this made it
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise StructureError(f"{name}: cannot be downloaded ({reason}); {advice}") from error
        os.replace(Path(folder) / f"{inside}.zip", path)


def _tables(folder: Path) -> list[str]:
    return [name for name in NAMES if (folder / name).is_file()]


def _read_folder(folder: Path, selection: Selection) -> list[Entry]:
    name, *others = _tables(folder)
    if others:
        raise StructureError(f"{folder}: holds both {name} and {others[0]}; keep the one that is meant")
    entries = (_read_csv if name == "id_prop.csv" else _read_json)(folder, selection)
    if not entries:
        raise StructureError(f"{folder / name}: holds no structure; expected at least one row")
    return entries


def _read_csv(folder: Path, selection: Selection) -> list[Entry]:
    path = folder / "id_prop.csv"
    rows = _rows(path)
    first = rows[0][1] if rows else []
    header = [cell.strip() for cell in first[1:]] if first and _is_header(folder, first) else []
    entries = []
    for number, row in rows[1 if header else 0 :]:
        where, width = f"{path}: line {number}", max(len(first), 2)
        if len(row) != width:
            raise StructureError(f"{where}: {len(row)} columns, expected {width}: name,value[,value…]")
        name, *numbers = row[0].strip(), *map(_value, row[1:])
        values: dict[str, Any] = {UNNAMED: numbers[0] if len(numbers) == 1 else numbers}
        if header:
            values = dict(zip(header, numbers, strict=True))
        atoms = _structure_beside(folder, name, where)
        entries.append(Entry(f"id_prop.csv[{name}]", "other", atoms, selected(values, selection)))
    return entries


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Numbers of lines and cells of the rows that are not blank."""
    try:
        reader = csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
        return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except UnicodeDecodeError as error:
        raise StructureError(f"{path}: line 1 cannot be read: not UTF-8 text ({error.reason})") from error
    except csv.Error as error:
        line = reader.line_num
        raise StructureError(f"{path}: line {line} is not CSV ({error}); correct the line") from error


def _is_header(folder: Path, row: list[str]) -> bool:
    """Whether a first row names columns: no number in it, and its first cell is no structure file."""
    numbers = any(isinstance(_value(cell), float) for cell in row[1:])
    return not numbers and _file(folder, row[0].strip()) is None


def _value(cell: str) -> float | bool | str | None:
    text = cell.strip()
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return float(text)
    except ValueError:
        return text or None


def _read_json(folder: Path, selection: Selection) -> list[Entry]:
    entries = []
    for where, k, item in records(folder / "id_prop.json"):
        file = item.get("file", item.get("jid", item.get("id")))
        beside = "atoms" not in item and file is not None
        atoms = _structure_beside(folder, str(file), where) if beside else structure(item, where)
        entries.append(entry("id_prop.json", k, item, atoms, selection))
    return entries


def _file(folder: Path, name: str) -> Path | None:
    inside = name and Path(name).name == name  # a name, not a path that leads out of the folder
    candidates = [folder / (name + ending) for ending in ENDINGS] if inside else []
    return next((path for path in candidates if path.is_file()), None)


def _structure_beside(folder: Path, name: str, where: str) -> ase.Atoms:
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
