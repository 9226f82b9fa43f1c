"""Files that ASE reads: which of its parsers may be used, and what is said where one fails."""

from __future__ import annotations

import io
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ase
import ase.db
import ase.io
import ase.io.formats

from ..errors import StructureError
from .file_text import UNPACKING, cannot_unpack, plain_name, start_of

DATABASES = (".db", ".json")
PLAIN_ONLY = (".db", ".traj", ".nc")  # of which ASE reads no compressed files
ASE_JSON = re.compile(rb'\s*\{\s*"(?:\d+|ids|nextid)"\s*:')
OTHER_FILES = "its parser opens other files that the file names"
ENDLESS = "its parser never ends on a damaged file"
NETWORK = "it stands for a database on a server"
REFUSED = {  # parsers of ASE's that must not be let loose on a file from elsewhere
    "castep-cell": "its parser starts the CASTEP program",
    "cp2k-restart": ENDLESS,
    "gamess-us-punch": ENDLESS,
    "nwchem-in": ENDLESS,
    "acemolecule-input": OTHER_FILES,
    "octopus-in": OTHER_FILES,
    "onetep-in": OTHER_FILES,
    "mysql": NETWORK,
    "postgresql": NETWORK,
}


def read_with_ase(path: Path) -> Iterator[ase.Atoms]:
    """Structures of a file in any of ASE's formats that are safe; the format follows from name and content.

    Raises:
        StructureError: the format is refused.
        Exception: whatever ASE's parser raises.
    """
    path = path.absolute()  # ASE takes names such as postgresql.db for servers
    if _needs_unpacking(path):
        with tempfile.TemporaryDirectory() as folder:
            yield from read_with_ase(_unpacked(path, Path(folder)))
        return
    if path.suffix not in DATABASES:
        source = _source(path)
        kind = format_of(path, source)
        if kind in REFUSED:
            raise StructureError(f"{path.name}: {kind} is not read, {REFUSED[kind]}; convert it to CIF")
        yield from ase.io.iread(source, index=":", format=kind, do_not_split_by_at_sign=True)
        return
    with ase.db.connect(path, serial=True) as database:  # iread would leave out what a user stored by key
        for row in database.select():
            atoms = row.toatoms(add_additional_information=True)
            atoms.info |= {**atoms.info.pop("data", {}), **atoms.info.pop("key_value_pairs", {})}
            yield atoms


def _needs_unpacking(path: Path) -> bool:
    """Whether a compressed file is of a format that ASE reads only from a plain file."""
    if plain_name(path).name == path.name:
        return False
    suffix = plain_name(path).suffix
    return suffix in PLAIN_ONLY or (suffix == ".json" and ASE_JSON.match(start_of(path)) is not None)


def _unpacked(path: Path, folder: Path) -> Path:
    """The plain file, written into a folder."""
    plain = folder / plain_name(path)
    try:
        with ase.io.formats.open_with_compression(str(path), "rb") as source, open(plain, "wb") as target:
            shutil.copyfileobj(source, target)
    except UNPACKING as error:
        raise cannot_unpack(path, error) from error
    return plain


def format_of(path: Path, source: str | io.StringIO | None = None) -> str:
    """ASE's name of the format."""
    if path.suffix in DATABASES:
        return "an ASE database"
    target = str(path.absolute()) if source is None else source
    kind: str = ase.io.formats.filetype(target, read=isinstance(target, str))
    return kind


def _source(path: Path) -> str | io.StringIO:
    """The path, or the unpacked text of a compressed XYZ file: ASE seeks, which would unpack it anew."""
    name, compression = ase.io.formats.get_compression(path.name)
    if compression is None or not name.endswith(("xyz", "exyz")):
        return str(path)
    with ase.io.formats.open_with_compression(str(path), "rb") as file:
        text = io.StringIO(file.read().decode())
    text.name = name  # ASE finds the format by it
    return text
