"""The comment line of an extended XYZ frame: cell, periodic axes, columns, and other keys.

The grammar is ASE's (``ase.io.extxyz``), which also parses every key that has no meaning here. Keys count in
any case, and some by the names that other programs give them: ``lattice`` (GPUMD, NEP), ``cell``, ``box``,
``periodic``.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase.geometry import cellpar_to_cell
from ase.io.extxyz import key_val_str_to_dict, per_config_properties

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
    spellings: dict[str, list[str]] = field(default_factory=dict)  # the keys that give stress and virial
    notes: list[str] = field(default_factory=list)


def read_header(comment: str) -> Header:
    """Read the comment line of a frame.

    Raises:
        LineError: a key can be meant in more than one way, two keys contradict each other, or a value is no
            number, cell or list of columns.
    """
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
    fits = _is_pbc_word if name in PERIODIC else _is_number
    if name == "properties" or value[:1] in OPENING or not fits(value.strip(",;")):
        return value
    while fields and fields[0][1] is None and fits(fields[0][0].strip(",;")):
        value += " " + fields.popleft()[0]
    return value


def _is_pbc_word(word: str) -> bool:
    return word.lower() in YES | NO


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
        header.spellings.setdefault(attribute, []).append(key)
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
    """Whether six numbers (6,) can be nothing but lengths and angles.

    Others are bounds (low and high edges, which begin at or below zero) and edges with tilt factors (which
    are at most half of an edge).
    """
    lengths, angles = values[:3], values[3:]
    if (lengths <= 0).any() or (angles < 20).any() or (angles > 160).any():
        return False
    tilts = (angles <= lengths.max() / 2).all()
    return not tilts and angles.sum() < 360 and bool((2 * angles < angles.sum()).all())


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
