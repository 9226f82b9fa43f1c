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
ROLES = {name: role for role in per_atom_properties for name in (role,)}
ROLES |= {name: role for role, names in NAMES.items() for name in (role, *names)}
FALLBACK = ("type", "types", "atom_type", "atom_types", "label", "name")  # where no column says the element
AS_ASE = {"species": "symbols", "pos": "positions", "Z": "numbers", "charge": "charges"}
WIDTHS = {"symbols": 1, "numbers": 1, "positions": 3, "masses": 1, "momenta": 3, "vel": 3, "velocities": 3}
WIDTHS |= {"forces": 3}
REAL = {"positions", "masses", "momenta", "vel", "velocities", "forces"}
TRUE = {"t": True, "true": True, "1": True, "f": False, "false": False, "0": False}
TRIPLET = re.compile(r"(\w*[a-z_])([RISL])(\d+)")
PLAIN = "species:S:1:pos:R:3"

QUIP_MASS = 1 / (units.fs**2)  # u in eV fs²/Å², the unit of masses in files of QUIP
PLAUSIBLE = (45.0, 4500.0)  # K; a range in which no two of the units of velocities give a temperature
HOTTEST = 1e6  # K; the unit is another one
UNUSUAL = 10_000.0  # K


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
    fields = text.strip(":").split(":") if not text.endswith("::") else text.split(":")
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
        role = ROLES.get(name.lower(), name)
        columns.append(Column(name, kind, start, int(count), role))
        start += int(count)
    return Layout(tuple(_checked(columns, text)), start, properties is None)


def _malformed(text: str) -> str:
    message = (
        f"Properties={text} is no list of name:type:count; expected for example {PLAIN}:forces:R:3, with "
        "the types S, R, I and L"
    )
    for part in text.split(":"):
        match = TRIPLET.fullmatch(part)
        if match:
            return f"{message}; write {match[1]}:{match[2].upper()}:{match[3]} for {part}"
        if re.fullmatch(r"[RISL]\d+", part, re.IGNORECASE):
            return f"{message}; write {part[0].upper()}:{part[1:]} for {part}"
    return message


def _checked(columns: Sequence[Column], text: str) -> list[Column]:
    """The columns, one of which says the element and one the position.

    A column whose shape does not suit its name has another meaning: ``velocity:R:1`` is a speed.
    """
    columns = [column if _suits(column) else replace(column, role=column.name) for column in columns]
    roles = {column.role for column in columns}
    if not roles & {"symbols", "numbers"}:
        columns = [
            replace(c, role="symbols") if c.name.lower() in FALLBACK and c.count == 1 else c for c in columns
        ]
        if not any(column.role == "symbols" for column in columns):
            raise LineError(f"Properties={text} has no column of elements; add species:S:1")
    if "positions" not in roles:
        raise LineError(f"Properties={text} has no column of positions; add pos:R:3")
    for column in columns:
        if WIDTHS.get(column.role, column.count) != column.count or (
            column.role in REAL and column.kind not in "RI"
        ):
            kind = "R" if column.role in REAL else "S"
            raise LineError(
                f"column {column.name}:{column.kind}:{column.count} is wrong; expected "
                f"{column.name}:{kind}:{WIDTHS[column.role]}"
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
    """The arrays of a frame under ASE's names, and what was noticed on the way.

    Args:
        layout: what the columns are.
        words: those of all lines, one after the other, of each as many as the layout is wide.
        careful: whether a word may hold what Python alone takes for a number (``1_000``).

    Attributes:
        numbers: atomic numbers (N,).
        positions: (N, 3) in Å.
        arrays: every other column, as ASE's reader names and types it.
        spellings: columns that hold a result under another name than ASE's, by their own names.
        notes: what the user should know.
    """

    def __init__(self, layout: Layout, words: Sequence[str], careful: bool = False):
        self.count, self.careful = len(words) // layout.width, careful
        self.columns = [words[k :: layout.width] for k in range(layout.width)]
        self.notes: list[str] = []
        self.spellings: dict[str, np.ndarray] = {}
        self.names: dict[str, str] = {}  # of each array, that of its column
        self.arrays: dict[str, Any] = {}
        self.isotopes: dict[int, float] = {}
        for column in sorted(layout.columns, key=lambda column: not column.canonical):
            self._add(column)
        symbols, numbers = (self.arrays.pop(name, None) for name in ("symbols", "numbers"))
        if symbols is not None and numbers is not None and not agree(symbols, numbers):
            atom = int(np.argmax(symbols != numbers))
            raise LineError("the columns of symbols and atomic numbers name different elements", 2 + atom)
        self.numbers = numbers if numbers is not None else symbols
        self.positions = self.arrays.pop("positions")
        self._check_finite()
        self._set_masses()

    def _add(self, column: Column) -> None:
        values = self._values(column)
        role = column.role
        if role not in self.arrays:
            self.arrays[role], self.names[role] = values, column.name
        elif not agree(self.arrays[role], values):
            raise LineError(f"two columns mean {role} and differ, {column.name} is one; remove one")
        if not column.canonical and role in per_atom_properties:
            self.spellings[column.name] = values

    def _values(self, column: Column) -> np.ndarray:
        texts = self.columns[column.start : column.start + column.count]
        if column.role == "symbols":
            return self._elements(texts[0])
        if column.role == "numbers":
            return self._convert(texts, column, _atomic_number, np.int64)[:, 0]
        if column.kind == "S":
            values = np.array(texts, dtype=object).T
        elif column.kind == "R" or column.role in REAL:
            values = self._reals(texts, column)
        elif column.kind == "I":
            values = self._convert(texts, column, _integer, np.int64)
            if np.abs(values).max(initial=0) < 2**31:
                values = values.astype(np.int32)  # as ASE has it
        else:
            values = self._convert(texts, column, _truth, bool)
        return values[:, 0] if column.count == 1 else values

    def _reals(self, texts: Sequence[Sequence[str]], column: Column) -> np.ndarray:
        """Real numbers (N, count)."""
        if self.careful:
            return self._convert(texts, column, number, float)
        values = np.empty((self.count, column.count))
        for k, text in enumerate(texts):
            try:
                values[:, k] = np.fromiter(map(float, text), float, self.count)
            except ValueError:
                return self._convert(texts, column, number, float)
        return values

    def _convert(self, texts: Sequence[Sequence[str]], column: Column, convert: Callable, dtype: type) -> Any:
        values: np.ndarray = np.empty((self.count, column.count), dtype)
        for k, text in enumerate(texts):
            for atom, word in enumerate(text):
                try:
                    values[atom, k] = convert(word)
                except (ValueError, OverflowError) as error:
                    kinds = {"I": "a whole number", "L": "T or F"}
                    kind = kinds.get(column.kind if column.role not in REAL else "R", "a number")
                    kind = "an atomic number" if column.role == "numbers" else kind
                    message = f"{word!r} in column {column.name} is not {kind}; correct it"
                    raise LineError(message, 2 + atom) from error
        return values

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
            if numbers == list(range(1, len(numbers) + 1)):  # as LAMMPS and GPUMD count types
                raise LineError(
                    f"species {', '.join(map(str, numbers))} can be types of atoms or atomic numbers; write "
                    "chemical symbols",
                    2 + labels.index(numerals[0]),
                )
            self.notes.append("species are numbers, which are taken for atomic numbers")
        isotopes = {label: mass for label, (_, mass) in meanings.items() if mass}
        if isotopes:
            self.isotopes = {k: isotopes[label] for k, label in enumerate(labels) if label in isotopes}
        return np.array([meanings[label][0] for label in labels], dtype=int)

    def _check_finite(self) -> None:
        """Refuse coordinates that are NaN or infinite."""
        finite = np.isfinite(self.positions).all(axis=1)
        if not finite.all():
            atom = int(np.argmin(finite))
            raise LineError(f"atom {atom} has a coordinate that is not finite; correct it", 2 + atom)

    def _set_masses(self) -> None:
        """Masses in u: of the column, or of the isotopes among the species."""
        masses = self.arrays.get("masses")
        if masses is None:
            if self.isotopes:
                masses = atomic_masses[self.numbers]
                masses[list(self.isotopes)] = list(self.isotopes.values())
                self.arrays["masses"] = masses
            return
        wrong = ~(np.isfinite(masses) & (masses > 0))
        if wrong.any():
            atom = int(np.argmax(wrong))
            raise LineError(f"atom {atom} has the mass {masses[atom]:g}; expected one above zero", 2 + atom)
        ratio = masses / atomic_masses[self.numbers]
        if len(masses) and np.allclose(ratio, QUIP_MASS, rtol=5e-3):
            self.arrays["masses"] = masses / QUIP_MASS
            self.notes.append("masses are in eV fs²/Å², the unit of QUIP, and are converted to u")


def _atomic_number(word: str) -> int:
    value = _integer(word)
    if not 0 < value < len(atomic_masses):
        raise ValueError
    return value


def _integer(word: str) -> int:
    if "_" in word:
        raise ValueError
    value = number(word)
    if value != int(value):
        raise ValueError
    return int(word) if word.lstrip("+-").isdigit() else int(value)


def _truth(word: str) -> bool:
    value = TRUE.get(word.lower())
    if value is None:
        raise ValueError
    return value


class Velocities:
    """Turns columns of velocities into momenta; one unit counts for all frames of a file."""

    def __init__(self) -> None:
        self.unit: float | None = None

    def momenta(self, table: Table) -> None:
        """Replace the velocities of a table by momenta where their unit is clear, or add a note."""
        arrays = table.arrays
        for role in [name for name in ("vel", "velocities") if name in arrays]:
            masses = arrays.get("masses", atomic_masses[table.numbers])[:, None]  # (N, 1)
            velocities, name = arrays.pop(role), table.names[role]
            if "momenta" in arrays:
                table.notes.append(f"the column {name} is left out, since the column momenta counts")
                continue
            unit = self._unit(name, role, velocities, masses, table.notes)
            if unit is None:
                arrays[name] = velocities
            else:
                arrays["momenta"] = masses * velocities * unit

    def _unit(
        self, name: str, role: str, velocities: np.ndarray, masses: np.ndarray, notes: list[str]
    ) -> float | None:
        """The factor to ASE's unit; None where it is not clear."""
        if not np.isfinite(velocities).all():
            notes.append(f"velocities in the column {name} are not finite and are left out")
            return None
        if not velocities.any():
            return 1.0
        if self.unit is None:
            kelvin = (masses * velocities**2).sum() / (3 * units.kB * len(velocities))  # in ASE's unit
            self.unit, message = _defined(name, kelvin) if role == "vel" else _judged(name, kelvin)
            notes += [message] * bool(message)
        return self.unit


def _defined(name: str, kelvin: float) -> tuple[float | None, str]:
    """The factor from Å/fs, and what to say of it, for velocities that give a temperature in ASE's unit."""
    kelvin /= units.fs**2
    if kelvin > HOTTEST:
        return None, (
            f"velocities in the column {name} are left out, since they give {kelvin:.2g} K in Å/fs; write "
            f"{name} in Å/fs, or momenta in ASE's unit"
        )
    if kelvin > UNUSUAL:
        return 1 / units.fs, f"velocities in the column {name} give {kelvin:.2g} K in Å/fs, its unit"
    return 1 / units.fs, ""


def _judged(name: str, kelvin: float) -> tuple[float | None, str]:
    """As ``_defined``, for a column without a unit."""
    advice = "write the column vel in Å/fs, or momenta in ASE's unit"
    for unit, factor in (("Å/fs", 1 / units.fs), ("ASE's unit", 1.0)):
        if PLAUSIBLE[0] < kelvin * factor**2 < PLAUSIBLE[1]:
            return factor, (
                f"velocities in the column {name} have no fixed unit and are taken for {unit}, which gives "
                f"{kelvin * factor**2:.0f} K; to be sure, {advice}"
            )
    return None, (
        f"velocities in the column {name} have no fixed unit and are left out, since they give a usual "
        f"temperature neither in Å/fs nor in ASE's unit; {advice}"
    )
