"""The grammar of an extended XYZ frame: keys of its comment line, columns of its table, units of velocities.

The grammar of the comment line is ASE's (``ase.io.extxyz``), which also parses every key that has no meaning
here. Keys and columns count in any case, and some by the names that other programs give them: ``lattice``
(GPUMD, NEP), ``cell``, ``box``, ``periodic``. A name that ASE knows stays what ASE's reader makes of it.

Velocities have no unit of their own in this format:

- ``momenta`` (ASE) are in ASE's unit, u^½ eV^½;
- ``vel`` (GPUMD) and ``velo`` (QUIP) are velocities in Å/fs;
- ``velocities`` and ``velocity`` are written in Å/fs (TurboGAP) or in ASE's unit, Å (eV/u)^½. Kinetic
  temperatures in the two differ by a factor of 104. The unit counts in which the first frame is between 45 K
  and 4,500 K; a note names it.

Velocities that give more than a million kelvin, or none in that range, stay where they are, with a note.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from ase import units
from ase.geometry import cellpar_to_cell
from ase.io.extxyz import key_val_str_to_dict, per_atom_properties, per_config_properties

CELL = {"lattice", "cell", "box", "unit_cell", "unitcell", "lattice_vectors", "cell_vectors"}
PERIODIC = {"pbc", "periodic", "periodicity", "boundary"}
TENSORS = {"stress": "stress", "virial": "virial", "virials": "virial"}
SPECIAL = CELL | PERIODIC | {"properties"} | TENSORS.keys()
LABELS = {"properties": "Properties", "cell": "Lattice"}
NOTHING = {"none", "null", ""}
SWALLOWED = re.compile(r"\b(lattice|properties)\s*=", re.IGNORECASE)

YES = {"t", "true", ".true.", "1", "1.0", "yes", "on", "p", "pp", "periodic"}
NO = {"f", "false", ".false.", "0", "0.0", "no", "off", "none", "null", "s", "m", "ff", "ss", "mm"}
NO |= {"open", "nonperiodic", "non-periodic"}  # f, s and m stand for LAMMPS's fixed and shrink-wrapped

ATOM = r"""\\.|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\{(?:\\.|[^}\\])*\}|\[(?:\\.|[^]\\])*\]"""
NESTED = r"\[\s*\[[^][]*\](?:[\s,]*\[[^][]*\])*\s*\]|\([^()]*\)"
FIELD = re.compile(rf"((?:{ATOM}|[^\s=])++)(?:\s*=\s*((?:{NESTED})?+(?:{ATOM}|\S)*+))?+")
BRACKETS = str.maketrans("[](){}\"'\\", " " * 9)
OPENING = {'"': '"', "'": "'", "{": "}", "[": "]", "(": ")"}
FORTRAN = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:[dDeE]|\*\^|(?=[+-]\d))([+-]?\d+)", re.ASCII)

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


class LineError(ValueError):
    """What is wrong with a line of a frame: 0 is the number of atoms, 1 the comment, 2 the first atom."""

    def __init__(self, message: str, line: int = 1):
        super().__init__(message)
        self.line = line


@dataclass
class Header:
    """What a comment line says; ``info`` holds every other key, as ASE reads it."""

    cell: np.ndarray | None = None  # (3, 3) in Å, lattice vectors as rows
    pbc: np.ndarray | None = None  # (3,)
    properties: str | None = None
    stress: np.ndarray | None = None  # (3, 3) as ASE orders them, or the six numbers (6,) as they stand
    virial: np.ndarray | None = None
    info: dict[str, Any] = field(default_factory=dict)
    spellings: dict[str, Any] = field(default_factory=dict)  # stress and virial by other keys
    notes: list[str] = field(default_factory=list)


def read_header(comment: str, vectors: Sequence[str] = ()) -> Header:
    """Read the comment line of a frame; with lines VEC1 to VEC3 for the cell it is mere text, as in ASE.

    Raises:
        LineError: a key can be meant in more than one way, two keys contradict each other, or a value is no
            number, cell or list of columns.
    """
    comment = comment.strip()
    if any("\udc80" <= letter <= "\udcff" for letter in comment):  # bytes that are not UTF-8
        comment = comment.encode("utf-8", "surrogateescape").decode("latin-1")
    if vectors:
        cell, pbc = _cell_of(vectors)
        return Header(cell, pbc, info={"comment": comment})
    header, ordinary = Header(), list[str]()
    labels: dict[str, str] = {}
    fields = deque((match[1], match[2], match[0]) for match in FIELD.finditer(comment))
    while fields:
        key, value, text = fields.popleft()
        name = key.strip("\"'").lower()
        closing = OPENING.get((value or "")[:1])
        if closing and closing not in value[1:]:
            raise LineError(f"{key}={_shown(value)} opens with {value[0]} and has no {closing}; close it")
        if name in SPECIAL and value is None:  # a word of a sentence
            header.info[key] = True  # as in ASE
            continue
        if name in SPECIAL:
            value = _with_unquoted(name, value, fields)
            if not _is_ordinary(name, value):
                _take(header, name, key, value)
                continue
        ordinary.append(text)
        if name in per_config_properties and labels.setdefault(key, value) != value:
            raise LineError(f"{key} is given twice, with other values; remove one")
    for piece in ordinary:
        for name in SWALLOWED.findall(piece):  # a missing quote makes it a part of another key's value
            if (header.cell if name.lower() == "lattice" else header.properties) is None:
                raise LineError(f"{_shown(piece)} holds {name}= in its quotes; close the quotes before it")
    header.info |= _ordinary(ordinary)
    return header


def _cell_of(vectors: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Cell (3, 3) in Å and periodic axes (3,) from lines such as ``VEC1 5.4 0 0``."""
    cell = np.zeros((3, 3))
    for k, line in enumerate(vectors):
        name, *values = line.split()
        try:
            if k > 2 or name != f"VEC{k + 1}":
                raise ValueError
            cell[k] = [float(value) for value in values]
        except ValueError:
            message = f"{line.strip()!r} is no cell vector; expected VEC1, VEC2, VEC3 with three numbers each"
            raise LineError(message) from None
    return cell, np.arange(3) < len(vectors)


def number(text: str) -> float:
    """A real number, also with the exponents of Fortran (``1.0D+00``, ``1.0-100``) and Mathematica.

    Raises:
        ValueError: it is none.
    """
    plain = text.replace("\u2212", "-").replace("_", "?")  # Python alone takes 1_000 for a number
    match = FORTRAN.fullmatch(plain)
    return float(f"{match[1]}e{match[2]}" if match else plain)


def _words(text: str) -> list[str]:
    """The words of a value, whatever quotes, brackets and commas stand around them."""
    return re.sub("[,;]", " ", text.translate(BRACKETS)).split()


def _pbc(text: str) -> np.ndarray | None:
    """Which axes are periodic (3,): three words, three letters, or a word for all; None for anything else."""
    words = _words(text.lower())
    if len(words) == 1 and words[0] not in YES | NO:
        word = words[0]
        if len(word) == 3 and set(word) <= set("tfpsm10"):
            words = list(word)
        elif set(word) <= set("xyz") and len(set(word)) == len(word):  # CP2K: XYZ, XY
            words = ["t" if axis in word else "f" for axis in "xyz"]
    if len(words) not in (1, 3) or not set(words) <= YES | NO:
        return None
    return np.array([word in YES for word in words] * (3 // len(words)))


def _shown(value: str) -> str:
    return value if len(value) <= 60 else value[:57] + "..."


def _with_unquoted(name: str, value: str, fields: deque) -> str:
    """A value and the words behind it that belong to it though the quotes are missing: ``pbc=T T F``."""
    fits = (lambda word: word.lower() in YES | NO) if name in PERIODIC else _is_number
    if name == "properties" or value[:1] in OPENING or not fits(value.strip(",;")):
        return value
    while fields and fields[0][1] is None and fits(fields[0][0].strip(",;")):
        value += " " + fields.popleft()[0]
    return value


def _is_number(word: str) -> bool:
    try:
        number(word)
    except ValueError:
        return False
    return True


def _is_ordinary(name: str, value: str) -> bool:
    """Whether a value shows that a key means something else here: ``cell=primitive``."""
    if name in CELL - {"lattice"}:
        return not any(letter.isdigit() for letter in value)
    return name == "boundary" and _pbc(value) is None


def _take(header: Header, name: str, key: str, value: str) -> None:
    """Add the value of a special key to the header, where another spelling may have given it before."""
    parsed: Any
    if name in CELL:
        attribute, parsed = "cell", _cell(header, key, value)
    elif name in PERIODIC:
        attribute, parsed = "pbc", _pbc(value)
        if parsed is None:
            raise LineError(
                f"{key}={_shown(value)} does not say which axes are periodic; expected three of T and F, "
                'such as pbc="T T F"'
            )
    elif name == "properties":
        attribute, parsed = name, value.translate(BRACKETS).strip(" \t,;")
    else:
        attribute, parsed = TENSORS[name], _tensor(key, value)
        header.spellings |= {} if key == attribute or parsed is None else {key: parsed}
        if name == "stress" and np.shape(parsed) == (6,):
            header.notes.append(
                f"{key} has six numbers, whose order the format does not fix, and is read as stress6; write "
                "nine numbers, or give --stress-order voigt or vasp"
            )
    if parsed is None:
        return
    before = getattr(header, attribute)
    if before is not None and not agree(before, parsed):
        label = LABELS.get(attribute, attribute)
        raise LineError(f"{label} is given twice, the second time as {key}, with other values; remove one")
    setattr(header, attribute, parsed)


def agree(first: Any, second: Any) -> bool:
    """Whether two values are the same, apart from the digits that were written."""
    if isinstance(first, str) or isinstance(second, str):
        return bool(first == second)
    first, second = np.asarray(first), np.asarray(second)
    if first.shape != second.shape:
        return False
    if first.dtype.kind not in "fiub" or second.dtype.kind not in "fiub":
        return bool((first == second).all())
    return bool(np.allclose(first, second, rtol=1e-6, atol=1e-4, equal_nan=True))


def _cell(header: Header, key: str, value: str) -> np.ndarray | None:
    """Lattice vectors as rows (3, 3) from nine numbers, three edges, or lengths and angles."""
    if value.strip("\"'").lower() in NOTHING:
        return None
    try:
        values = np.array([number(word) for word in _words(value)])
    except ValueError:
        raise LineError(f"{key}={_shown(value)} is no cell; expected nine numbers in quotes") from None
    if not np.isfinite(values).all():
        raise LineError(f"{key}={_shown(value)} is not finite; expected nine numbers in quotes")
    if len(values) == 9:
        return values.reshape(3, 3)
    if len(values) == 3 and (values > 0).all():
        header.notes.append(f"{key} has three numbers, which are taken for the edges of a rectangular cell")
        return np.diag(values)
    if len(values) == 6 and _are_lengths_and_angles(values):
        header.notes.append(f"{key} has six numbers, which are taken for lengths in Å and angles in degrees")
        return cellpar_to_cell(values)
    raise LineError(
        f"{key} has {len(values)} number(s), which can be meant in more than one way; expected nine, the "
        'three lattice vectors in Å: Lattice="ax ay az bx by bz cx cy cz"'
    )


def _are_lengths_and_angles(values: np.ndarray) -> bool:
    """Whether six numbers (6,) can be nothing but lengths and angles."""
    lengths, angles = values[:3], values[3:]
    bounds = (lengths <= 0).any()  # low and high edges begin at or below zero
    tilts = (angles <= lengths.max() / 2).all()  # tilt factors are at most half of an edge
    triangle = angles.sum() < 360 and (2 * angles < angles.sum()).all()
    return bool(not bounds and not tilts and triangle and (angles >= 20).all() and (angles <= 160).all())


def _tensor(key: str, value: str) -> np.ndarray | None:
    """Nine numbers as ASE orders them (3, 3), or six as they stand (6,)."""
    if value.strip("\"'").lower() in NOTHING | {"nan"}:
        return None
    words = _words(value)
    if len(words) not in (6, 9) or not all(map(_is_number, words)):
        raise LineError(f"{key}={_shown(value)} is no tensor; expected nine numbers in quotes")
    values = np.array([number(word) for word in words])
    return values.reshape((3, 3), order="F") if len(values) == 9 else values


def _ordinary(pieces: Sequence[str]) -> dict[str, Any]:
    """Keys without a meaning here, as ASE reads them."""
    if not pieces:
        return {}
    text = " ".join(pieces)
    # An apostrophe would hide every key behind it.
    parts = [text] if all(text.count(quote) % 2 == 0 for quote in "\"'") else pieces
    info: dict[str, Any] = {}
    try:
        for part in parts:
            info |= key_val_str_to_dict(part)
    except (ValueError, IndexError) as error:  # JSON raises it, or ASE for a lone equals sign
        raise LineError(f"a value cannot be read ({error}); correct it or remove the key") from None
    return info


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


def velocity_unit(name: str, role: str, kelvin: float) -> tuple[float | None, str]:
    """The factor of velocities to ASE's unit, None where it is not clear, and a note.

    ``kelvin`` is the temperature of the velocities in a column of this name and role, in ASE's unit.
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
