"""Plain and extended XYZ, also compressed: a reader around the pieces of ``ase.io.extxyz``.

A good file gives what ASE's reader gives: results in a ``SinglePointCalculator``, other keys in ``info``,
other columns in ``arrays``. What can be meant in one way only is read as well: keys and columns in other
cases and by the names that other programs use (``nfflr.structures.xyz_header``, ``.xyz_columns``), labels
such as ``Si1`` and ``D`` (``.species``), axes in words, blank lines between frames, marks of byte order. The
rest is refused with the frame (counted from 0) and the line (counted from 1).

- A result in another spelling (``Energy``, ``force``) counts as the result. It stays among the results under
  its own name too, so that it can be asked for by that name.
- ``virials`` is ``virial`` in ``info``: (3, 3), or (6,) as the six numbers stand.
- Six numbers of ``stress`` have no order of their own. They are the result ``stress6`` (6,), not ``stress``.
- Velocities become ``momenta`` where their unit is clear.
"""

from __future__ import annotations

import io
import lzma
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any

import ase
import ase.io.formats
import numpy as np
from ase import units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian
from ase.data import atomic_masses
from ase.io.extxyz import per_config_properties, set_calc_and_arrays

from ...errors import StructureError
from ...notes import note
from ..kinds import XYZ
from ..xyz_columns import PLAIN, Layout, Table, read_layout, velocity_unit
from ..xyz_header import Header, LineError, agree, number, read_header
from . import encoding_of, start_of

BLANK = " \t\r\n\f\v\ufeff"  # a mark of byte order stands inside where files were joined
PLAIN_COLUMNS = ("species", "x", "y", "z")
UNFINISHED = re.compile(r"[+-]?\.?|[+-]?(\d+\.?\d*|\.\d+)[eEdD][+-]?")  # the beginning of a number, cut off


def opens(path: Path) -> bool:
    """Whether a file is XYZ: by its name, or, where the name has no ending, by its first line."""
    name = ase.io.formats.get_compression(path.name.lower())[0]
    if name.endswith(XYZ):
        return True
    if Path(name).suffix or not path.is_file():
        return False
    try:
        return ase.io.formats.filetype(str(path)) == "extxyz"
    except Exception:  # parsers and archives raise whatever they like; this only asks
        return False


def read(path: Path) -> Iterator[ase.Atoms]:
    """Read the frames of a file one by one.

    Raises:
        StructureError: a frame cannot be read; the message names the file, the frame and the line.
    """
    frame = 0
    try:
        with ase.io.formats.open_with_compression(str(path), "rb") as file:
            encoding = encoding_of(start_of(path, 4))
            errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
            text = io.TextIOWrapper(file, encoding=encoding, errors=errors)
            for atoms in Frames(path, text):
                yield atoms
                frame += 1
    except EOFError as error:
        raise StructureError(f"{path}: frame {frame} cannot be read; the archive is truncated") from error
    except (zlib.error, lzma.LZMAError, OSError) as error:
        system = getattr(error, "strerror", None)
        reason = f"{system}; check the file" if system else f"{error}; the archive is damaged, copy it again"
        raise StructureError(f"{path}: frame {frame} cannot be read: {reason}") from error
    except UnicodeDecodeError as error:
        raise StructureError(
            f"{path}: frame {frame} cannot be read as {error.encoding} text ({error.reason}); save the file "
            "as UTF-8"
        ) from error


class Frames:
    """Iterates over the frames of a text, in one pass."""

    def __init__(self, path: Path, text: IO[str]):
        self.path, self.text = path, text
        self.ahead: list[str] = []  # at most one line, which was looked at
        self.line, self.last = 0, ""  # number and content of the line that was taken last
        self.frame = 0
        self.width = len(PLAIN_COLUMNS)  # columns of the table that is being read
        self.count_before: int | None = None  # number of atoms in the frame before
        self.unit: float | None = None  # unit of velocities, the same in all frames
        self.notes: set[str] = set()

    def __iter__(self) -> Iterator[ase.Atoms]:
        while self._skip_blank():
            start = self.line + 1
            try:
                atoms = self._read()
            except LineError as error:
                raise self._error(error, start + error.line) from error
            yield atoms
            self.frame += 1

    def _take(self, count: int) -> list[str]:
        """The next lines, fewer at the end of the text."""
        lines, self.ahead = self.ahead[:count], self.ahead[count:]
        lines += islice(self.text, count - len(lines))
        self.line += len(lines)
        self.last = lines[-1] if lines else self.last
        return lines

    def _peek(self) -> str:
        """The next line, which stays; empty at the end of the text."""
        self.ahead = self.ahead or list(islice(self.text, 1))
        return self.ahead[0] if self.ahead else ""

    def _skip_blank(self) -> str:
        """The first line that is not blank, which stays."""
        while (line := self._peek()) and not line.strip(BLANK):
            self._take(1)
        return line

    def _read(self) -> ase.Atoms:
        """The next frame."""
        (first,) = self._take(1)
        count = self._count(first.strip(BLANK))
        comment, *table = self._take(1 + count) or [""]
        if len(table) < count:
            self._refuse_end([comment, *table], count)
        vectors: list[str] = []
        while self._peek().lstrip().startswith("VEC"):  # some programs write the cell in such lines
            vectors += self._take(1)
        header = _header(comment, vectors)
        arrays = self._table(header, table)
        self._set_momenta(arrays)
        self.count_before = count
        for message in header.notes + arrays.notes:
            self._note(message)
        return _atoms(header, arrays)

    def _table(self, header: Header, lines: Sequence[str]) -> Table:
        """The arrays of the lines of atoms."""
        layout = read_layout(header.properties)
        self.width = layout.width
        return Table(layout, self._words(lines, layout), careful="_" in "".join(lines))

    def _set_momenta(self, table: Table) -> None:
        """Replace the velocities of a table by momenta where their unit is clear, or add a note."""
        arrays = table.arrays
        for role in [name for name in ("vel", "velocities") if name in arrays]:
            velocities, name = arrays.pop(role), table.names[role]
            masses = arrays.get("masses", atomic_masses[table.numbers])[:, None]  # (N, 1)
            if "momenta" in arrays:
                table.notes.append(f"the column {name} is left out, since the column momenta counts")
                continue
            finite = np.isfinite(velocities).all()
            if not finite:
                table.notes.append(f"velocities in the column {name} are not finite and are left out")
            elif self.unit is None and velocities.any():
                kelvin = (masses * velocities**2).sum() / (3 * units.kB * len(velocities))
                self.unit, message = velocity_unit(name, role, kelvin)
                table.notes += [message] * bool(message)
            if finite and (self.unit is not None or not velocities.any()):
                arrays["momenta"] = masses * velocities * (self.unit or 1.0)
            else:
                arrays[name] = velocities

    def _count(self, text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) < 10:
            return int(text)
        shown = ascii(text[:40])
        if self.count_before is not None and len(text.split()) >= len(PLAIN_COLUMNS):
            raise LineError(
                f"expected the number of atoms of the next frame, got {shown}; frame {self.frame - 1} has "
                f"more lines than its count of {self.count_before}; correct the count",
                0,
            )
        if not text.isprintable():
            raise LineError("cannot be read, since it is no text; expected the number of atoms", 0)
        raise LineError(f"expected the number of atoms, got {shown}; write it, or remove the line", 0)

    def _refuse_end(self, lines: Sequence[str], count: int) -> None:
        """Say what is wrong with the lines that are there, or that the text ends within a frame."""
        whole = [line for line in lines if line.endswith("\n")]
        if whole:
            self._refuse_other_frame(whole[1:], count)
            self._table(_header(whole[0], []), whole[1:])
        raise StructureError(
            f"{self.path}: frame {self.frame} ends in line {self.line} after {max(0, len(whole) - 1)} "
            f"of its {count} atoms; the file is truncated, or the count is wrong"
        )

    def _refuse_other_frame(self, table: Sequence[str], count: int) -> None:
        for k, line in enumerate(table):
            if line.strip().isdigit():
                present = sum(bool(above.strip()) for above in table[:k])
                raise LineError(
                    f"another frame begins; frame {self.frame} has {count - present} line(s) less than its "
                    f"count of {count}; correct the count or add the atoms",
                    2 + k,
                )

    def _words(self, table: Sequence[str], layout: Layout) -> list[str]:
        """The words of all lines of the table, one after the other: of each as many as the layout is wide."""
        words: list[str] = []  # one list: a list per line would keep the garbage collector busy
        width = layout.width
        for line in table:
            row = line.split()
            if len(row) != width:
                return self._other_words(table, layout)
            words += row
        return words

    def _other_words(self, table: Sequence[str], layout: Layout) -> list[str]:
        """The words of plain XYZ whose lines have more columns than count; other tables are refused."""
        rows = [line.split() for line in table]
        if layout.plain and min(map(len, rows)) >= layout.width:
            k = next(k for k, words in enumerate(rows) if len(words) > layout.width)
            if rows[k][0].isdigit():
                raise LineError(
                    f"the line has {len(rows[k])} columns, of which the first is a number; expected the four "
                    f"of plain XYZ, or their names, such as Properties={PLAIN}:forces:R:3",
                    2 + k,
                )
            self._note(
                "columns behind the fourth are not read, since no Properties names them; write for example "
                f"Properties={PLAIN}:forces:R:3"
            )
            return [word for words in rows for word in words[: layout.width]]
        self._refuse_other_frame(table, len(table))
        fits = (lambda n: n >= layout.width) if layout.plain else (lambda n: n == layout.width)
        k = next(k for k, words in enumerate(rows) if not fits(len(words)))
        if not rows[k]:
            raise LineError(f"the line is blank; expected atom {k} of {len(table)}; remove the line", 2 + k)
        names = "plain XYZ" if layout.plain else "Properties"
        counts = f"{len(rows[k])} columns, {names} has {layout.width}"
        raise LineError(f"the line has {counts}; correct the line or Properties", 2 + k)

    def _error(self, error: LineError, line: int) -> StructureError:
        """What is wrong with a line, with its place; a last line without its newline may have been cut."""
        words = self.last.split()
        at_end = error.line > 1 and line == self.line and not self._peek() and not self.last.endswith("\n")
        if at_end and words and (len(words) < self.width or UNFINISHED.fullmatch(words[-1])):
            return StructureError(
                f"{self.path}: frame {self.frame} ends in line {line} within an atom; the file is truncated"
            )
        return StructureError(f"{self.path}: frame {self.frame}, line {line}: {error}")

    def _note(self, message: str) -> None:
        if message not in self.notes:
            self.notes.add(message)
            note(f"{self.path}: {message}")


def _header(comment: str, vectors: Sequence[str]) -> Header:
    """What the comment says, or, as in ASE, the cell of the lines VEC and the comment as it stands."""
    comment = comment.strip()
    if any("\udc80" <= letter <= "\udcff" for letter in comment):  # bytes that are not UTF-8
        comment = comment.encode("utf-8", "surrogateescape").decode("latin-1")
    if not vectors:
        return read_header(comment)
    cell, pbc = np.zeros((3, 3)), np.zeros(3, dtype=bool)
    for k, line in enumerate(vectors):  # such as VEC1 5.4 0 0
        name, *values = line.split()
        try:
            if k > 2 or name != f"VEC{k + 1}":
                raise ValueError
            cell[k] = [float(value) for value in values]
        except ValueError:
            message = f"{line.strip()!r} is no cell vector; expected VEC1, VEC2, VEC3 with three numbers each"
            raise LineError(message) from None
        pbc[k] = True
    return Header(cell, pbc, info={"comment": comment})


def _atoms(header: Header, table: Table) -> ase.Atoms:
    """The structure of a frame with its labels where ASE's reader leaves them."""
    arrays = table.arrays
    periodic = header.cell is not None if header.pbc is None else header.pbc
    atoms = ase.Atoms(
        table.numbers,
        positions=table.positions,
        charges=arrays.pop("initial_charges", None),
        cell=header.cell,
        pbc=periodic,
        info=header.info,
    )
    _constrain(atoms, arrays)
    spellings = table.spellings | _tensors(atoms.info, header) | _other_spellings(atoms.info)
    words = {key: atoms.info.pop(key) for key in per_config_properties if atoms.info.get(key) is True}
    set_calc_and_arrays(atoms, arrays)
    atoms.info |= words  # words of a sentence, in which ASE would take "energy" for a label
    if spellings:
        atoms.calc = atoms.calc or SinglePointCalculator(atoms)
        atoms.calc.results |= spellings
    return atoms


def _constrain(atoms: ase.Atoms, arrays: dict[str, Any]) -> None:
    """Fix what the column ``move_mask`` holds fixed."""
    mask = arrays.pop("move_mask", None)
    if mask is None:
        return
    mask = np.asarray(mask).astype(bool)
    if mask.ndim == 1:
        atoms.set_constraint(FixAtoms(mask=~mask))
    elif mask.shape[1] == 3:
        atoms.set_constraint([FixCartesian(atom, mask=~free) for atom, free in enumerate(mask)])
    else:
        raise LineError(f"column move_mask has {mask.shape[1]} columns; expected 1 or 3")


def _tensors(info: dict[str, Any], header: Header) -> dict[str, Any]:
    """Put stress and virial into ``info``; returns what else the header calls them."""
    others: dict[str, Any] = {}
    for name in ("stress", "virial"):
        value = getattr(header, name)
        if value is None:
            continue
        others |= {key: value for key in header.spellings[name] if key != name}
        if name == "stress" and value.shape == (6,):
            others["stress6"] = value
        else:
            info[name] = value
    return others


def _other_spellings(info: dict[str, Any]) -> dict[str, Any]:
    """Take results in another case out of ``info``, where each counts under ASE's name; returns them."""
    others = {}
    for key in list(info):
        name = key.lower()
        if name not in per_config_properties:
            continue
        with suppress(ValueError):  # a text such as 1.0D+00
            info[key] = number(info[key]) if isinstance(info[key], str) else info[key]
        value = info[key]
        if name == key or isinstance(value, bool | str | list):
            continue
        if name in info and not agree(info[name], value):
            raise LineError(f"{name} and {key} differ; remove one")
        info.setdefault(name, value)
        others[key] = info.pop(key)
    return others
