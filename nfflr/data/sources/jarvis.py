"""Data sets in JARVIS form: JSON and JSON lines, also compressed, or by a name such as ``dft_3d``.

A record is ``{"jid" or "id", "atoms": {"lattice_mat", "coords", "elements", "cartesian"}, …}``; any other key
is a value that can be a target. A named set is read from the user's cache; jarvis-tools (extra
``nfflr[jarvis]``) fetches it there once.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import ase
import numpy as np
from ase.data import atomic_numbers

from ...errors import StructureError
from ...storage.cache import user_cache
from ...storage.files import claim_folder
from ...structures import formats
from ...structures.ase_formats import ASE_JSON
from ...structures.checks import check_structure
from ...structures.file_text import LINES, cannot_unpack, content_of, decoded, parsed, start_of, suffix_of
from . import Entry, Wanted, display_name, file_of, kept

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
PAGE = "https://figshare.com/authors/Kamal_Choudhary/4445539"


def opens(source: object) -> bool:
    path = file_of(source)
    if path is None:
        return isinstance(source, str) and not Path(source).exists() and _address(source) is not None
    if formats.find(path) is not None:  # JSON of another form
        return False
    suffix = _suffix(path)
    return suffix in LINES or (suffix == ".json" and not ASE_JSON.match(start_of(path, 200)))


def read(source: str | Path, wanted: Wanted = None) -> list[Entry]:
    path = file_of(source) or _downloaded(str(source))
    name = display_name(path)
    entries = [entry(name, k, item, structure(item, where), wanted) for where, k, item in records(path)]
    if not entries:
        raise StructureError(f"{path}: holds no record; expected at least one")
    return entries


def entry(name: str, k: int, item: dict, atoms: ase.Atoms, wanted: Wanted) -> Entry:
    """Record ``k`` of a file of this name."""
    ident = item.get("jid", item.get("id"))
    title = f"{name}[{k}]" if ident is None else f"{name}[{k}:{ident}]"
    values = {key: value for key, value in item.items() if key != "atoms"}
    return Entry(title, str(item.get("group", "other")), atoms, kept(values, wanted))


def records(path: Path) -> Iterator[tuple[str, int, dict]]:
    """Name for messages, number and content of each record.

    Raises:
        StructureError: naming the line or the record that is no JSON object.
    """
    text = decoded(path, _content(path))
    if _suffix(path) in LINES or _first_line_is_whole(text):
        lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        items = ((f"{path}: line {number}", parsed(path, line, number)) for number, line in lines)
    else:
        document = parsed(path, text)
        document = document if isinstance(document, list) else [document]
        items = ((f"{path}: record {k}", item) for k, item in enumerate(document))
    for k, (where, item) in enumerate(items):
        if not isinstance(item, dict):
            raise StructureError(f"{where}: a record is {json.dumps(item)[:40]}, expected a JSON object")
        yield where, k, item


def _suffix(path: Path) -> str:
    return suffix_of(path.with_suffix("") if path.suffix == ".zip" else path)


def _content(path: Path) -> bytes:
    if path.suffix != ".zip":
        return content_of(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith((".json", *LINES))]
            if len(members) != 1:
                raise zipfile.BadZipFile(f"{len(members)} JSON files inside, expected one")
            return archive.read(members[0])
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise cannot_unpack(path, error) from error


def _first_line_is_whole(text: str) -> bool:
    """Whether a file named .json has one record per line: the first line parses and is not all there is."""
    line, _, others = text.lstrip().partition("\n")
    if not line.startswith("{") or not others.strip():
        return False
    try:
        parsed(Path(), line)
    except StructureError:
        return False
    return True


def structure(item: dict, where: str) -> ase.Atoms:
    """The ``ase.Atoms`` of a record, periodic along every axis as JARVIS has it.

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
    cell, coordinates = (_array(content[key], key, where) for key in keys[:2])
    symbols = content["elements"]
    if not isinstance(symbols, list) or not all(isinstance(symbol, str) for symbol in symbols):
        raise StructureError(f"{where}: elements is {str(symbols)[:40]!r}; expected a list of symbols")
    for symbol in symbols:
        if symbol.strip() not in atomic_numbers:
            raise StructureError(f"{where}: unknown element {symbol!r}; expected a chemical symbol")
    if cell.shape != (3, 3) or coordinates.shape != (len(symbols), 3):
        raise StructureError(
            f"{where}: lattice_mat has shape {cell.shape} and coords {coordinates.shape}; "
            f"expected (3, 3) and ({len(symbols)}, 3)"
        )
    positions = coordinates if content.get("cartesian", False) else coordinates @ cell
    atoms = ase.Atoms([symbol.strip() for symbol in symbols], positions, cell=cell, pbc=True)
    check_structure(atoms, where)
    return atoms


def _array(value: object, key: str, where: str) -> np.ndarray:
    try:
        return np.array(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise StructureError(f"{where}: {key} is not an array of numbers; correct the record") from error


def _downloaded(name: str) -> Path:
    """The file of a named set, which is fetched if it is not there."""
    address = _address(name)
    assert address is not None  # opens() was asked
    url, inside = address
    folder = user_cache() / "jarvis" / name
    places = [folder / inside, folder / f"{inside}.zip"]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        _fetch(name, url, inside, places[1])
    return path or places[1]


def _address(name: str) -> tuple[str, str] | None:
    """The address of a data set, and the name of the JSON file inside the archive."""
    if name in COMMON and _figshare() is None:
        number, inside = COMMON[name]
        return f"https://ndownloader.figshare.com/files/{number}", inside
    if not name.replace("_", "").replace(".", "").isalnum() or _figshare() is None:
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
    """Download an archive; it appears under its name only when it is whole.

    Raises:
        StructureError: it cannot be had; says what to download and where to put it.
    """
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
