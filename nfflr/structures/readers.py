"""The one door for structures from files, with errors that name the file and the frame."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import ase
import ase.io.formats

from ..errors import ConfigError, NFFLrError, StructureError
from ..notes import note
from . import formats
from .ase_formats import DATABASES, format_of, read_with_ase
from .checks import advise, check_distances, check_structure
from .kinds import OTHERS, kind_of

FRAME = re.compile(r"(.+)@(-?\d+)$")


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

    Frames count from 0, and from -1 backwards. A note says which frame was taken where nobody chose it, and
    what else about the structure may not be as meant.

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
    """The file that ``file@K`` means, and K; a file whose own name is that counts more."""
    match = FRAME.match(str(path))
    if match is None or Path(path).exists():
        return Path(path), None
    return Path(match[1]), int(match[2])


def _frames(path: Path) -> Iterator[ase.Atoms]:
    count = 0
    try:
        for atoms in _iterate(path):
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
        kind = format_of(path)
    reason = " ".join(str(error).split())
    name = type(error).__name__
    reason = f"{name}: {reason}" if reason and " " not in reason else reason or name
    return (
        f"cannot be read as {kind} (ASE's reader stopped at: {reason}); check the file, or convert it to "
        "extended XYZ or CIF"
    )


def _iterate(path: Path) -> Iterator[ase.Atoms]:
    reader = formats.find(path)
    yield from read_with_ase(path) if reader is None else reader.read(path)


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
