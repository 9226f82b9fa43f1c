"""Reading of structure files, by NFFLr's own readers or by ASE; errors name the file and the frame."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import ase
import ase.db
import ase.io
import ase.io.formats

from ..errors import ConfigError, NFFLrError, StructureError
from ..notes import note
from . import formats
from .checks import advise, check_distances, check_structure
from .formats import content_of, plain_name, start_of
from .kinds import OTHERS, kind_of

FRAME = re.compile(r"(.+)@(-?\d+)$")
DATABASES = (".db", ".json")
PLAIN_ONLY = (".db", ".traj", ".nc")  # ASE reads no compressed files of these
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
    if (kind := kind_of(path, structures=False)) in OTHERS:
        raise StructureError(f"{path}: is {kind}, not a structure; {OTHERS[kind]}")
    frames: list[ase.Atoms] = []
    for atoms in _frames(path):
        check_structure(atoms, f"{path}: frame {len(frames)}")
        _check_occupancy(atoms, f"{path}: frame {len(frames)}")
        frames.append(atoms)
    if not frames:
        raise StructureError(f"{path}: holds no structure; expected at least one")
    if _ends_inside_a_number(path):
        raise StructureError(
            f"{path}: frame {len(frames) - 1} cannot be read (it seems to end inside a number: the last one "
            "has fewer decimals, and no line end follows); the file may be truncated, or add a line end"
        )
    return frames


def read_structure(path: str | Path) -> ase.Atoms:
    """Read a file for one structure: of several, the last (as ASE does), or frame K of ``file@K``.

    Frames count from 0, and from -1 backwards. A note names the frame that is used if the path names none.
    Another note gives advice about a doubtful structure.

    Raises:
        ConfigError: there is no such file or frame.
        StructureError: as ``read_structures``; or two atoms are closer than 0.3 Å.
    """
    file, index = file_and_frame(path)
    frames = read_structures(file)
    count = len(frames)
    if index is None and count > 1:
        note(f"{file}: holds {count} structures; the last is used ({file.name}@0 would be the first)")
    place = -1 if index is None else index
    if not -count <= place < count:
        raise ConfigError(f"{path}: no such frame; the file holds {count}, from 0 to {count - 1}")
    atoms = frames[place]
    check_distances(atoms, f"{file}: frame {place % count}" if count > 1 else str(file))
    advise(atoms, str(path))
    return atoms


def file_and_frame(path: str | Path) -> tuple[Path, int | None]:
    """The file and the frame K that ``file@K`` means; an existing file of that whole name is preferred."""
    match = FRAME.match(str(path))
    if match is None or Path(path).exists():
        return Path(path), None
    return Path(match[1]), int(match[2])


def _frames(path: Path) -> Iterator[ase.Atoms]:
    count, reader = 0, formats.find(path)
    try:
        for atoms in read_with_ase(path) if reader is None else reader.read(path):
            if not isinstance(atoms, ase.Atoms):  # some of ASE's parsers find nothing without a word
                raise ValueError("no structure found in it")
            yield atoms
            count += 1
    except (GeneratorExit, MemoryError, NFFLrError):
        raise
    except Exception as error:  # ASE's parsers raise whatever their line of code happened to raise
        raise StructureError(f"{path}: frame {count} {_failure(path, error)}") from error


def _failure(path: Path, error: Exception) -> str:
    """What went wrong in ASE's reader, in a sentence."""
    if isinstance(error, ase.io.formats.UnknownFileTypeError) and path.suffix not in DATABASES:
        if path.stat().st_size == 0:
            return "cannot be read (the file is empty); give a file with a structure"
        return (
            f"cannot be read (unknown file format {path.suffix or path.name!r}); name it by its format, as "
            ".xyz, .cif or .vasp, or convert it to one of these"
        )
    if isinstance(error, EOFError):
        return "cannot be read (the file ends too early); it is truncated, copy it again"
    kind = "this format"
    with suppress(Exception):  # the format of a damaged archive is not known
        kind = _ase_kind(path)
    reason = " ".join(str(error).split())
    name = type(error).__name__
    reason = f"{name}: {reason}" if reason and " " not in reason else reason or name
    return (
        f"cannot be read as {kind} (ASE's reader stopped at: {reason}); check the file, or convert it to "
        "extended XYZ or CIF"
    )


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


def _check_occupancy(atoms: ase.Atoms, name: str) -> None:
    for site in (atoms.info.get("occupancy") or {}).values():
        if len(site) > 1 or any(abs(share - 1) > 1e-6 for share in site.values()):
            raise StructureError(
                f"{name}: sites are partially occupied ({dict(site)}); give an ordered structure"
            )


def read_with_ase(path: Path) -> Iterator[ase.Atoms]:
    """Structures of a file in any of ASE's formats that are safe; the format follows from name and content.

    Raises:
        StructureError: the format is refused.
        Exception: whatever ASE's parser raises.
    """
    path = path.absolute()  # ASE takes names such as postgresql.db for servers
    if _needs_unpacking(path):
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder, plain_name(path))
            plain.write_bytes(content_of(path))
            yield from read_with_ase(plain)
        return
    if path.suffix not in DATABASES:
        kind = _ase_kind(path)
        if kind in REFUSED:
            raise StructureError(f"{path.name}: {kind} is not read, {REFUSED[kind]}; convert it to CIF")
        yield from ase.io.iread(str(path), index=":", format=kind, do_not_split_by_at_sign=True)
        return
    with ase.db.connect(path, serial=True) as database:  # iread would leave out what a user stored by key
        for row in database.select():
            atoms = row.toatoms(add_additional_information=True)
            atoms.info |= {**atoms.info.pop("data", {}), **atoms.info.pop("key_value_pairs", {})}
            yield atoms


def _needs_unpacking(path: Path) -> bool:
    """Whether a compressed file is of a format that ASE reads only from a plain file."""
    suffix = plain_name(path).suffix
    packed = plain_name(path).name != path.name
    return packed and (suffix in PLAIN_ONLY or (suffix == ".json" and bool(ASE_JSON.match(start_of(path)))))


def _ase_kind(path: Path) -> str:
    """ASE's name of the format."""
    return "an ASE database" if path.suffix in DATABASES else ase.io.formats.filetype(str(path.absolute()))
