"""Plain and extended XYZ, also compressed: a reader around the pieces of ``ase.io.extxyz``.

A good file gives what ASE's reader gives: results in a ``SinglePointCalculator``, other keys in ``info``,
other columns in ``arrays``. Files that can mean one thing only are read as well: with other names of keys and
columns (``nfflr.structures.xyz_grammar``), labels such as ``Si1`` and ``D`` (``.species``), axes in words,
blank lines between frames, marks of byte order. Other files are refused by frame (from 0) and line (from 1).

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
from collections.abc import Callable, Iterator, Sequence
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
from ase.io.extxyz import per_atom_properties, per_config_properties, set_calc_and_arrays

from ...errors import StructureError
from ...notes import note
from .. import xyz_grammar as xyz
from ..kinds import XYZ
from ..species import element
from ..xyz_grammar import LineError, agree, number, read_header, read_layout, velocity_unit
from . import ase_format, encoding_of, start_of, suffix_of

BLANK = " \t\r\n\f\v\ufeff"  # a mark of byte order stands inside where files were joined
UNFINISHED = re.compile(r"[+-]?\.?|[+-]?(\d+\.?\d*|\.\d+)[eEdD][+-]?")  # the beginning of a number, cut off
ELEMENTS = {number: number for number in range(1, len(atomic_masses))}
TRUTH = {"t": True, "true": True, "1": True, "f": False, "false": False, "0": False}
QUIP_MASS = 1 / (units.fs**2)  # u in eV fs²/Å², the unit of masses in files of QUIP


def opens(path: Path) -> bool:
    """Whether a file is XYZ: by its name, or, where the name has no ending, by its first line."""
    if suffix_of(path) or not path.is_file():
        return suffix_of(path) in XYZ
    return ase_format(path) == "extxyz"


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
        self.width = 4  # columns of the table that is being read
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
        header = read_header(comment, vectors)
        arrays = self._table(header, table)
        self._set_momenta(arrays)
        self.count_before = count
        for message in header.notes + arrays.notes:
            self._note(message)
        return _atoms(header, arrays)

    def _table(self, header: xyz.Header, lines: Sequence[str]) -> Table:
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
            if not np.isfinite(velocities).all():
                table.notes.append(f"velocities in the column {name} are not finite and are left out")
                arrays[name] = velocities
                continue
            if self.unit is None and velocities.any():
                kelvin = (masses * velocities**2).sum() / (3 * units.kB * len(velocities))
                self.unit, message = velocity_unit(name, role, kelvin)
                table.notes += [message] * bool(message)
            if self.unit is None and velocities.any():
                arrays[name] = velocities
            else:
                arrays["momenta"] = masses * velocities * (self.unit or 1.0)

    def _count(self, text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) < 10:
            return int(text)
        shown = ascii(text[:40])
        if self.count_before is not None and len(text.split()) >= 4:
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
            self._table(read_header(whole[0]), whole[1:])
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

    def _words(self, table: Sequence[str], layout: xyz.Layout) -> list[str]:
        """The words of all lines of the table, one after the other: of each as many as the layout is wide."""
        words: list[str] = []  # one list: a list per line would keep the garbage collector busy
        width = layout.width
        for line in table:
            row = line.split()
            if len(row) != width:
                return self._other_words(table, layout)
            words += row
        return words

    def _other_words(self, table: Sequence[str], layout: xyz.Layout) -> list[str]:
        """The words of plain XYZ whose lines have more columns than count; other tables are refused."""
        rows = [line.split() for line in table]
        if layout.plain and min(map(len, rows)) >= layout.width:
            k = next(k for k, words in enumerate(rows) if len(words) > layout.width)
            if rows[k][0].isdigit():
                raise LineError(
                    f"the line has {len(rows[k])} columns, of which the first is a number; expected the four "
                    f"of plain XYZ, or their names, such as Properties={xyz.PLAIN}:forces:R:3",
                    2 + k,
                )
            self._note(
                "columns behind the fourth are not read, since no Properties names them; write for example "
                f"Properties={xyz.PLAIN}:forces:R:3"
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


class Table:
    """Atomic numbers (N,), positions (N, 3) in Å, and other arrays of a frame as ASE's reader has them.

    Args:
        layout: meaning of the columns.
        words: the words of all lines in one list, as many of each line as the layout is wide.
        careful: whether a word may look like ``1_000``, which only Python takes for a number.
    """

    def __init__(self, layout: xyz.Layout, words: Sequence[str], careful: bool = False):
        self.count = len(words) // layout.width
        self.real = number if careful else float
        self.columns = [words[k :: layout.width] for k in range(layout.width)]
        self.notes: list[str] = []
        self.spellings: dict[str, np.ndarray] = {}  # results under another name than ASE's
        self.names: dict[str, str] = {}  # the column of each array
        self.arrays: dict[str, Any] = {}
        self.isotopes: list[float | None] = []
        for column in sorted(layout.columns, key=lambda column: not column.canonical):
            self._add(column)
        symbols, numbers = (self.arrays.pop(name, None) for name in ("symbols", "numbers"))
        if symbols is not None and numbers is not None and not agree(symbols, numbers):
            atom = int(np.argmax(symbols != numbers))
            raise LineError("the columns of symbols and atomic numbers name different elements", 2 + atom)
        self.numbers = numbers if numbers is not None else symbols
        self.positions = self.arrays.pop("positions")
        finite = np.isfinite(self.positions).all(axis=1)
        if not finite.all():
            atom = int(np.argmin(finite))
            raise LineError(f"atom {atom} has a coordinate that is not finite; correct it", 2 + atom)
        self._set_masses()

    def _add(self, column: xyz.Column) -> None:
        texts, role = self.columns[column.start : column.start + column.count], column.role
        if role == "symbols":
            values = self._elements(texts[0])
        elif column.kind == "S" and role != "numbers":
            values = np.array(texts, dtype=object).T
        else:
            values = self._converted(texts, column)
        if values.ndim > 1 and column.count == 1:
            values = values[:, 0]
        if role not in self.arrays:
            self.arrays[role], self.names[role] = values, column.name
        elif not agree(self.arrays[role], values):
            raise LineError(f"two columns mean {role} and differ, {column.name} is one; remove one")
        if not column.canonical and role in per_atom_properties:
            self.spellings[column.name] = values

    def _converted(self, texts: Sequence[Sequence[str]], column: xyz.Column) -> np.ndarray:
        """Numbers or truth values (N, count)."""
        kind = "numbers" if column.role == "numbers" else "R" if column.role in xyz.REAL else column.kind
        convert, dtype, meaning = CONVERSIONS[kind]
        fast = self.real if kind == "R" else convert
        values: np.ndarray = np.empty((self.count, column.count), dtype)
        for k, text in enumerate(texts):
            try:
                values[:, k] = np.fromiter(map(fast, text), dtype, self.count)
            except (LookupError, OverflowError, ValueError):
                for atom, word in enumerate(text):
                    try:
                        values[atom, k] = convert(word)
                    except (LookupError, OverflowError, ValueError) as error:
                        message = f"{word!r} in column {column.name} is not {meaning}; correct it"
                        raise LineError(message, 2 + atom) from error
        small = kind == "I" and np.abs(values).max(initial=0) < 2**31
        return values.astype(np.int32) if small else values  # ASE's type of integers

    def _elements(self, labels: Sequence[str]) -> np.ndarray:
        """Atomic numbers (N,); isotopes are kept for the masses."""
        meanings = {}
        for label in dict.fromkeys(labels):
            try:
                meanings[label] = element(label)
            except ValueError as error:
                atom = labels.index(label)
                raise LineError(f"atom {atom}: {error}", 2 + atom) from error
        numerals = [label for label in meanings if label.isdigit()]
        if numerals:
            numbers = sorted(map(int, numerals))
            if numbers == list(range(1, len(numbers) + 1)):  # LAMMPS and GPUMD count types like this
                raise LineError(
                    f"species {', '.join(map(str, numbers))} can be types of atoms or atomic numbers; write "
                    "chemical symbols",
                    2 + labels.index(numerals[0]),
                )
            self.notes.append("species are numbers, which are taken for atomic numbers")
        if any(mass for _, mass in meanings.values()):
            self.isotopes = [meanings[label][1] for label in labels]
        return np.array([meanings[label][0] for label in labels], dtype=int)

    def _set_masses(self) -> None:
        """Masses in u: of the column, or of the isotopes among the species."""
        masses, standard = self.arrays.get("masses"), atomic_masses[self.numbers]
        if masses is None:
            if self.isotopes:
                isotopes = np.array(self.isotopes, dtype=float)  # NaN for atoms that are none
                self.arrays["masses"] = np.where(np.isnan(isotopes), standard, isotopes)
            return
        wrong = ~(np.isfinite(masses) & (masses > 0))
        if wrong.any():
            atom = int(np.argmax(wrong))
            raise LineError(f"atom {atom} has the mass {masses[atom]:g}; expected one above zero", 2 + atom)
        if len(masses) and np.allclose(masses / standard, QUIP_MASS, rtol=5e-3):
            self.arrays["masses"] = masses / QUIP_MASS
            self.notes.append("masses are in eV fs²/Å², the unit of QUIP, and are converted to u")


def _whole(word: str) -> int:
    value = number(word)
    if value != int(value):
        raise ValueError
    return int(word) if word.lstrip("+-").isdigit() else int(value)


CONVERSIONS: dict[str, tuple[Callable, type, str]] = {
    "numbers": (lambda word: ELEMENTS[_whole(word)], np.int64, "an atomic number"),
    "R": (number, float, "a number"),
    "I": (_whole, np.int64, "a whole number"),
    "L": (lambda word: TRUTH[word.lower()], bool, "T or F"),
}


def _atoms(header: xyz.Header, table: Table) -> ase.Atoms:
    """The structure of a frame with its labels where ASE's reader leaves them."""
    arrays = table.arrays
    atoms = ase.Atoms(
        table.numbers,
        positions=table.positions,
        charges=arrays.pop("initial_charges", None),
        cell=header.cell,
        pbc=header.cell is not None if header.pbc is None else header.pbc,
        info=header.info,
    )
    _constrain(atoms, arrays)
    tensors = {"stress": header.stress, "virial": header.virial}
    atoms.info |= {name: value for name, value in tensors.items() if value is not None}
    spellings = table.spellings | header.spellings | _other_spellings(atoms.info)
    if np.shape(atoms.info.get("stress", ())) == (6,):
        spellings["stress6"] = atoms.info.pop("stress")
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
