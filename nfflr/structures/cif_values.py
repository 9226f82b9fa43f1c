"""Values of a CIF: numbers with their precision, elements of atom sites, tags whatever the dictionary."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from ase.data import atomic_numbers
from gemmi import cif

from .species import ISOTOPES

NUMBER = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)(?:[eEdD]([+-]?\d+))?(?:\((\d+)\)?)?$")
FRACTION = re.compile(r"([+-]?\d+)/(\d+)$")
LETTERS = re.compile(r"[A-Za-z]+")


class BadValue(ValueError):
    """A value that cannot be used; the message says what was expected."""


@dataclass
class Block:
    """A data block by tags: small letters, with ``_`` for the point of newer dictionaries.

    Attributes:
        name: what follows ``data_``.
        columns: values of each tag as text, one for each row of its loop, or one alone; quotes are gone and
            ``?`` and ``.`` are empty.
        lines: line of the file where each tag is given.
    """

    name: str
    columns: dict[str, list[str]] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)

    def first(self, *tags: str) -> str:
        """The first value that is given for one of these tags, or an empty text."""
        return next((value for tag in tags for value in self.columns.get(tag, ()) if value), "")

    def column(self, *tags: str) -> list[str]:
        """The values of the first of these tags that is there; empty if none is."""
        return next((self.columns[tag] for tag in tags if tag in self.columns), [])


def block_of(block: cif.Block) -> Block:
    """All tags of a block.

    Raises:
        BadValue: a tag that says what the structure is stands there twice, with two values.
    """
    result = Block(block.name.strip())
    for item in block:
        if item.pair is not None:
            tag, value = cast(Sequence[str], item.pair)
            _add(result, tag, [value], item.line_number)
        elif item.loop is not None:
            width, values = item.loop.width(), item.loop.values
            for k, tag in enumerate(item.loop.tags):
                _add(result, tag, values[k::width], item.line_number)
    return result


def _add(block: Block, tag: str, raw: list[str], line: int) -> None:
    name = tag.lower().replace(".", "_")
    values = ["" if cif.is_null(value) else cif.as_string(value).strip() for value in raw]
    if block.columns.get(name, values) != values and name.startswith(
        ("_cell_", "_symmetry_", "_space_group_", "_atom_site_")
    ):
        raise BadValue(
            f"line {line}: {tag} is given a second time, with another value; leave one of them out"
        )
    block.columns.setdefault(name, values)
    block.lines.setdefault(name, line)


def number(text: str) -> tuple[float, float]:
    """A number, and by how much its last digit or its standard uncertainty lets it be wrong.

    Whole numbers, fractions such as 1/3, and numbers of one decimal are exact.

    Raises:
        BadValue: it is no number.
    """
    if match := FRACTION.match(text):
        if not int(match[2]):
            raise BadValue(f"{text!r} divides by zero")
        return int(match[1]) / int(match[2]), 0.0
    match = NUMBER.match(text)
    if match is None:
        hint = "; write a point for the comma" if "," in text else ""
        raise BadValue(f"{text!r} is not a number{hint}")
    sign, digits, exponent, uncertainty = match.groups()
    decimals = len(digits.partition(".")[2])
    unit = 10.0 ** (int(exponent or 0) - decimals)
    error = unit * max(1, int(uncertainty or 0)) if decimals > 1 or uncertainty else 0.0
    return float(f"{sign}{digits}e{exponent or 0}"), error


def element(kind: str, label: str, formula: frozenset[str]) -> str:
    """Symbol of a site's element, ``D`` and ``T`` among them.

    Args:
        kind: ``_atom_site_type_symbol``, such as ``Si``, ``CU`` or ``O2-``; empty if not given.
        label: ``_atom_site_label``, such as ``Si1``.
        formula: elements of the formula in the file, which decide what capital letters mean; may be empty.

    Raises:
        BadValue: neither names an element.
    """
    if kind:
        letters = LETTERS.match(kind)
        symbol = letters[0].capitalize() if letters else ""
        if _is_element(symbol) or symbol in ISOTOPES:
            return symbol
        raise BadValue(
            f"its type symbol {kind!r} is no element; write one, as Si or O, in _atom_site_type_symbol"
        )
    possible = _possible(label, formula)
    if not possible:
        raise BadValue(
            f"its label {label!r} names no element; write the element, as Si or O, in _atom_site_type_symbol"
        )
    return possible[0]


def is_ambiguous(label: str, formula: frozenset[str]) -> bool:
    """Whether capital letters of a label can be an element of two letters or of one, as CA1 and HO1."""
    return len(_possible(label, formula)) > 1 and label[:2].isupper()


def _possible(label: str, formula: frozenset[str]) -> list[str]:
    """Elements that a label may name, the likeliest first: Si for si1, O for OW1, none for Wat1."""
    match = LETTERS.match(label)
    letters = match[0] if match else ""
    if letters[1:3].islower() and len(letters) > 2:  # a word such as Wat, Vac or dum
        return []
    two, one = letters[:2].capitalize(), letters[:1].capitalize()
    names = [two] * (len(letters) > 1) + [one]
    possible = [name for name in names if _is_element(name) or name == "D"]
    if letters[:2].isupper():
        possible = [name for name in possible if name in formula] or possible
    return possible


def named_by_label(label: str) -> str:
    """The element that a label in the usual form names, as ``Fe`` of ``Fe2``; empty for every other."""
    match = re.match(r"([A-Z][a-z]?)\d*$", label)
    return match[1] if match and _is_element(match[1]) else ""


def formula_of(text: str) -> dict[str, float]:
    """Counts by element of ``Si O2`` or ``C6 H12 O6``; empty if it has another form."""
    counts: dict[str, float] = {}
    for part in text.split():
        match = re.match(r"([A-Z][a-z]?)(\d*\.?\d*)$", part)
        if match is None or not (_is_element(match[1]) or match[1] in ISOTOPES):
            return {}
        counts[match[1]] = counts.get(match[1], 0) + float(match[2] or 1)
    return counts


def _is_element(symbol: str) -> bool:
    return 0 < atomic_numbers.get(symbol, 0) < 119
