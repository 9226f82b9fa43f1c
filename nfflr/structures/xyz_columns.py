"""The table of atoms in an extended XYZ frame: what its columns mean, and their numbers.

Columns count in any case, and some by the names that other programs give them. A name that ASE knows stays
what ASE's reader makes of it. Velocities have no unit of their own in this format:

- ``momenta`` (ASE) are in ASE's unit, u^½ eV^½;
- ``vel`` (GPUMD) and ``velo`` (QUIP) are velocities in Å/fs;
- ``velocities`` and ``velocity`` are written in Å/fs (TurboGAP) or in ASE's unit, Å (eV/u)^½. Kinetic
  temperatures in the two differ by a factor of 104. The unit counts in which the first frame is between 45 K
  and 4,500 K; a note names it.

Velocities that give more than a million kelvin, or none in that range, stay where they are, with a note.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from ase import units
from ase.data import atomic_masses
from ase.io.extxyz import per_atom_properties

from .species import element
from .xyz_header import LineError, agree, number

# What a column is for, by its name in lower case; the first name of a row is that of ase.Atoms.
NAMES = {
    "symbols": ("species", "symbol", "element", "elements", "atomic_symbol", "atomic_symbols"),
    "numbers": ("z", "atomic_number", "atomic_numbers"),
    "positions": ("pos", "position", "coord", "coords", "coordinates", "xyz"),
    "masses": ("mass", "atomic_mass", "atomic_masses"),
    "momenta": ("momentum",),
    "move_mask": (),
    "vel": ("velo",),
    "velocities": ("velocity",),
    "forces": ("force",),
    "charges": ("charge",),
}
ROLES = {name: name for name in per_atom_properties}
ROLES |= {name: role for role, names in NAMES.items() for name in (role, *names)}
FALLBACK = ("type", "types", "atom_type", "atom_types", "label", "name")  # used if no column says the element
AS_ASE = {"species": "symbols", "pos": "positions", "Z": "numbers", "charge": "charges"}
REAL = {"positions": 3, "masses": 1, "momenta": 3, "vel": 3, "velocities": 3, "forces": 3}
WIDTHS = REAL | {"symbols": 1, "numbers": 1}
TRIPLET = re.compile(r"(\w*[a-z_])([RISL])(\d+)")
PLAIN = "species:S:1:pos:R:3"

PLAUSIBLE = (45.0, 4500.0)  # K; a range in which no two of the units of velocities give a temperature
HOTTEST = 1e6  # K; the unit is another one
UNUSUAL = 10_000.0  # K
TRUTH = {"t": True, "true": True, "1": True, "f": False, "false": False, "0": False}
QUIP_MASS = 1 / (units.fs**2)  # u in eV fs²/Å², the unit of masses in files of QUIP


@dataclass(frozen=True)
class Column:
    """Columns ``start`` to ``start + count`` of a table, of kind R, I, S or L; ``role`` is ASE's name."""

    name: str
    kind: str
    start: int
    count: int
    role: str

    @property
    def canonical(self) -> bool:
        """Whether the column has the name by which ASE knows it."""
        return AS_ASE.get(self.name, self.name) == self.role


@dataclass(frozen=True)
class Layout:
    """The columns of a table and their number."""

    columns: tuple[Column, ...]
    width: int
    plain: bool = False  # the header says nothing: four columns count


@lru_cache(maxsize=256)
def read_layout(properties: str | None) -> Layout:
    """The columns that the value of ``Properties`` names; those of plain XYZ for None.

    Raises:
        LineError: it is no list of name, type and number of columns, or species or positions are missing.
    """
    text = PLAIN if properties is None else properties
    fields = text.removeprefix(":").removesuffix(":").split(":")
    if len(fields) % 3 or "" in fields:
        raise LineError(_malformed(text))
    columns: list[Column] = []
    start = 0
    for name, kind, count in zip(fields[::3], fields[1::3], fields[2::3], strict=True):
        name, kind = name.strip(), kind.strip().upper()
        if kind not in ("R", "I", "S", "L") or not count.strip().isdigit() or not int(count):
            raise LineError(_malformed(text))
        if any(column.name == name for column in columns):
            raise LineError(f"Properties names the column {name} twice; rename one")
        columns.append(Column(name, kind, start, int(count), ROLES.get(name.lower(), name)))
        start += int(count)
    return Layout(tuple(_checked(columns, text)), start, properties is None)


def _malformed(text: str) -> str:
    message = (
        f"Properties={text} is no list of name:type:count; expected for example {PLAIN}:forces:R:3, with "
        "the types S, R, I and L"
    )
    for part in text.split(":"):
        if match := TRIPLET.fullmatch(part):
            return f"{message}; write {match[1]}:{match[2].upper()}:{match[3]} for {part}"
        if re.fullmatch(r"[RISL]\d+", part, re.IGNORECASE):
            return f"{message}; write {part[0].upper()}:{part[1:]} for {part}"
    return message


def _checked(columns: Sequence[Column], text: str) -> list[Column]:
    """The columns, one of which says the element and one the position.

    A column whose shape does not suit its name has another meaning: ``velocity:R:1`` is a speed.
    """
    columns = [column if _suits(column) else replace(column, role=column.name) for column in columns]
    if not any(column.role in ("symbols", "numbers") for column in columns):
        columns = [
            replace(c, role="symbols") if c.name.lower() in FALLBACK and c.count == 1 else c for c in columns
        ]
    roles = {column.role for column in columns}
    if not roles & {"symbols", "numbers"}:
        raise LineError(f"Properties={text} has no column of elements; add species:S:1")
    if "positions" not in roles:
        raise LineError(f"Properties={text} has no column of positions; add pos:R:3")
    for column in columns:
        real = column.role in REAL
        if WIDTHS.get(column.role, column.count) != column.count or (real and column.kind not in "RI"):
            raise LineError(
                f"column {column.name}:{column.kind}:{column.count} is wrong; expected "
                f"{column.name}:{'R' if real else 'S'}:{WIDTHS[column.role]}"
            )
    return columns


def _suits(column: Column) -> bool:
    """Whether the shape of a column is that of its role; names that ASE fixes are judged later."""
    if column.canonical and column.role not in ("vel", "velocities"):
        return True
    if column.role == "numbers" and column.kind == "R":
        return False
    return WIDTHS.get(column.role, column.count) == column.count


class Table:
    """Atomic numbers (N,), positions (N, 3) in Å, and other arrays of a frame as ASE's reader has them.

    Args:
        layout: meaning of the columns.
        words: the words of all lines in one list, as many of each line as the layout is wide.
        careful: whether a word may look like ``1_000``, which only Python takes for a number.
    """

    def __init__(self, layout: Layout, words: Sequence[str], careful: bool = False):
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

    def _add(self, column: Column) -> None:
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

    def _converted(self, texts: Sequence[Sequence[str]], column: Column) -> np.ndarray:
        """Numbers or truth values (N, count)."""
        kind = "numbers" if column.role == "numbers" else "R" if column.role in REAL else column.kind
        convert, dtype, meaning = CONVERSIONS[kind]
        fast = self.real if kind == "R" else convert
        values: np.ndarray = np.empty((self.count, column.count), dtype)
        for k, text in enumerate(texts):
            try:
                values[:, k] = np.fromiter(map(fast, text), dtype, self.count)
            except (ValueError, OverflowError):
                for atom, word in enumerate(text):
                    try:
                        values[atom, k] = convert(word)
                    except (ValueError, OverflowError) as error:
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


def _atomic_number(word: str) -> int:
    value = _whole(word)
    if not 0 < value < len(atomic_masses):
        raise ValueError
    return value


def _truth(word: str) -> bool:
    if word.lower() not in TRUTH:
        raise ValueError
    return TRUTH[word.lower()]


CONVERSIONS: dict[str, tuple[Callable, type, str]] = {
    "numbers": (_atomic_number, np.int64, "an atomic number"),
    "R": (number, float, "a number"),
    "I": (_whole, np.int64, "a whole number"),
    "L": (_truth, bool, "T or F"),
}


def velocity_unit(name: str, role: str, kelvin: float) -> tuple[float | None, str]:
    """The factor of velocities to ASE's unit, None where it is not clear, and a note.

    Args:
        name, role: of the column.
        kelvin: temperature of the velocities, if they were in ASE's unit.
    """
    advice = "write the column vel in Å/fs, or momenta in ASE's unit"
    per_fs = 1 / units.fs
    if role == "vel":
        kelvin *= per_fs**2
        if kelvin > HOTTEST:
            return None, (
                f"velocities in the column {name} are left out, since they give {kelvin:.2g} K in Å/fs; "
                f"write {name} in Å/fs, or momenta in ASE's unit"
            )
        message = f"velocities in the column {name} give {kelvin:.2g} K in Å/fs, its unit"
        return per_fs, message if kelvin > UNUSUAL else ""
    for unit, factor in (("Å/fs", per_fs), ("ASE's unit", 1.0)):
        if PLAUSIBLE[0] < kelvin * factor**2 < PLAUSIBLE[1]:
            return factor, (
                f"velocities in the column {name} have no fixed unit and are taken for {unit}, which gives "
                f"{kelvin * factor**2:.0f} K; to be sure, {advice}"
            )
    return None, (
        f"velocities in the column {name} have no fixed unit and are left out, since they give a usual "
        f"temperature neither in Å/fs nor in ASE's unit; {advice}"
    )
