"""Structures from files, with errors that name the file and the frame."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import ase
import ase.io
import ase.io.formats

from ..atoms import check_structure
from ..errors import ConfigError, StructureError


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
    frames = []
    for atoms in _frames(path):
        check_structure(atoms, f"{path}: frame {len(frames)}")
        _check_occupancy(atoms, f"{path}: frame {len(frames)}")
        frames.append(atoms)
    if not frames:
        raise StructureError(f"{path}: holds no structure; expected at least one")
    return frames


def _frames(path: Path) -> Iterator[ase.Atoms]:
    count = 0
    try:
        for atoms in ase.io.iread(_source(path), index=":", do_not_split_by_at_sign=True):
            yield atoms
            count += 1
    except GeneratorExit:
        raise
    except Exception as error:  # ASE's parsers raise whatever their line of code happened to raise
        if isinstance(error, StructureError):
            raise
        if isinstance(error, _CutError):
            error, count = ValueError(error.args[0]), error.args[1]
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, ase.io.formats.UnknownFileTypeError):
            reason = f"unknown file format {reason}"
        raise StructureError(
            f"{path}: frame {count} cannot be read ({reason}); the file may be truncated or damaged"
        ) from error


def _source(path: Path) -> str | io.StringIO:
    """The path, or the text of an XYZ file: ASE seeks in it, and would unpack a compressed one each time.

    Raises:
        ValueError: the last line seems to be cut in its last number.
    """
    name, _ = ase.io.formats.get_compression(path.name)
    if not name.endswith("xyz"):
        return str(path)
    with ase.io.formats.open_with_compression(str(path), "rb") as file:
        content = file.read().decode()
    lines = content.split("\n")
    if lines[-1] and len(lines) > 1:
        # A missing end of line is no damage, but fewer decimals than in the line before are.
        last, before = (line.rpartition(".")[2] for line in lines[-1:-3:-1])
        if len(last) < len(before):
            frames = sum(line.strip().isdigit() for line in lines)
            raise _CutError(f"its last number is cut to {lines[-1].split()[-1]}", max(frames - 1, 0))
    text = io.StringIO(content)
    text.name = name  # ASE finds the format by it
    return text


class _CutError(ValueError):
    """A file that ends inside a number of frame ``args[1]``."""


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
