"""Structures from files, with errors that name the file and the frame."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import ase
import ase.db
import ase.io
import ase.io.formats

from ..errors import ConfigError, StructureError
from . import formats
from .checks import check_structure

REFUSED = {  # parsers of ASE's that must not be let loose on a file from elsewhere
    "castep-cell": "its parser starts the CASTEP program",
    "cp2k-restart": "its parser never ends on a damaged file",
}


def read_structures(path: str | Path) -> list[ase.Atoms]:
    """Read every structure of a file in any format ASE knows (extended XYZ, also .xz and .gz, ASE db, CIF…).

    Raises:
        ConfigError: the file does not exist.
        StructureError: it cannot be read, is empty, or holds a structure that cannot be used; the message
            names the file and the frame.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; check the path")
    frames: list[ase.Atoms] = []
    for atoms in _frames(path):
        check_structure(atoms, f"{path}: frame {len(frames)}")
        _check_occupancy(atoms, f"{path}: frame {len(frames)}")
        frames.append(atoms)
    if not frames:
        raise StructureError(f"{path}: holds no structure; expected at least one")
    if _ends_inside_a_number(path):
        raise StructureError(
            f"{path}: frame {len(frames) - 1} cannot be read (it ends inside a number); the file is truncated"
        )
    return frames


def _ends_inside_a_number(path: Path) -> bool:
    """Whether a text file without a last newline was cut inside the last number of a table.

    Only where the line before has the same number of decimals in every other column can that be known.
    """
    if ase.io.formats.get_compression(path.name)[1] is not None:  # a cut archive does not unpack
        return False
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, 2) - 10_000))
        lines = file.read().decode("utf-8", "ignore").split("\n")[-2:]
    rows = [line.split() for line in lines]
    if len(rows) < 2 or len(rows[-1]) < 2 or len(rows[-1]) != len(rows[-2]):
        return False
    *same, last = ([_decimals(cell) for cell in column] for column in zip(*rows, strict=True))
    return all(above == below for above, below in same) and last[1] < last[0] >= 5


def _decimals(cell: str) -> int:
    """Digits behind the point of a plain decimal number; 0 for anything else."""
    whole, _, fraction = cell.partition(".")
    return len(fraction) if fraction.isdigit() and whole.lstrip("+-").isdigit() else 0


def _frames(path: Path) -> Iterator[ase.Atoms]:
    count = 0
    try:
        for atoms in _iterate(path):
            if not isinstance(atoms, ase.Atoms):  # some of ASE's parsers find nothing without a word
                raise ValueError("no structure found in it")
            yield atoms
            count += 1
    except GeneratorExit:
        raise
    except Exception as error:  # ASE's parsers raise whatever their line of code happened to raise
        if isinstance(error, StructureError):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, ase.io.formats.UnknownFileTypeError):
            reason = f"unknown file format {reason}"
        raise StructureError(
            f"{path}: frame {count} cannot be read ({reason}); the file may be truncated or damaged"
        ) from error


def _iterate(path: Path) -> Iterator[ase.Atoms]:
    reader = formats.find(path)
    if reader is not None:
        yield from reader.read(path)
        return
    if path.suffix not in (".db", ".json"):
        source = _source(path)
        kind = ase.io.formats.filetype(source, read=isinstance(source, str))
        if kind in REFUSED:
            raise StructureError(f"{path}: {kind} is not read, {REFUSED[kind]}; convert it to CIF")
        yield from ase.io.iread(source, index=":", format=kind, do_not_split_by_at_sign=True)
        return
    with ase.db.connect(path, serial=True) as database:  # iread would leave out what a user stored by key
        for row in database.select():
            atoms = row.toatoms(add_additional_information=True)
            atoms.info |= {**atoms.info.pop("data", {}), **atoms.info.pop("key_value_pairs", {})}
            yield atoms


def _source(path: Path) -> str | io.StringIO:
    """The path, or the unpacked text of a compressed XYZ file: ASE seeks, which would unpack it anew."""
    name, compression = ase.io.formats.get_compression(path.name)
    if compression is None or not name.endswith(("xyz", "exyz")):
        return str(path)
    with ase.io.formats.open_with_compression(str(path), "rb") as file:
        text = io.StringIO(file.read().decode())
    text.name = name  # ASE finds the format by it
    return text


def read_structure(path: str | Path) -> ase.Atoms:
    """Read a file that holds one structure; of several, the last (as ASE does).

    Raises:
        ConfigError, StructureError: as ``read_structures``.
    """
    return read_structures(path)[-1]


def _check_occupancy(atoms: ase.Atoms, name: str) -> None:
    for site in (atoms.info.get("occupancy") or {}).values():
        if len(site) > 1 or any(abs(share - 1) > 1e-6 for share in site.values()):
            raise StructureError(
                f"{name}: sites are partially occupied ({dict(site)}); give an ordered structure"
            )
