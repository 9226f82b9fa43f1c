"""The atom sites of a CIF: elements, coordinates with their precision, and which sites hold an atom."""

from __future__ import annotations

import re
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from string import ascii_letters

import numpy as np
from gemmi import cif

from .species import element_of, is_symbol

FRACTIONAL = tuple(f"_atom_site_fract_{axis}" for axis in "xyz")
CARTESIAN = tuple(f"_atom_site_cartn_{axis}" for axis in "xyz")
MULTIPLICITY = ("_atom_site_symmetry_multiplicity", "_atom_site_site_symmetry_multiplicity")
DECISIVE = ("_cell_", "_symmetry_", "_space_group_", "_atom_site_")
NUMBER = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)(?:[eEdD]([+-]?\d+))?(?:\((\d+)\)?)?$")
FRACTION = re.compile(r"([+-]?\d+)/(\d+)$")
USUAL = re.compile(r"[A-Z][a-z]?(?![A-Za-z])")  # what ASE's reader finds elements in


class BadValue(ValueError):
    """A value that cannot be used; the message says what was expected."""


class Block:
    """A data block by tags: small letters, with ``_`` for the point of newer dictionaries.

    Attributes:
        name: what follows ``data_``.
        columns: values of each tag as text, one for each row of its loop, or one alone; quotes are gone and
            ``?`` and ``.`` are empty.

    Raises:
        BadValue: a tag that says what the structure is stands there twice, with two values.
    """

    def __init__(self, content: cif.Block):
        self.name = content.name.strip()
        self.columns: dict[str, list[str]] = {}
        for item in content:
            if item.loop is not None:
                tags, cells = item.loop.tags, item.loop.values
            elif item.pair is not None:
                tags, cells = [item.pair[0]], [item.pair[1]]
            else:
                continue
            for k, tag in enumerate(tags):
                name = tag.lower().replace(".", "_")
                column = cells[k :: len(tags)]
                values = ["" if cif.is_null(text) else cif.as_string(text).strip() for text in column]
                if self.columns.setdefault(name, values) != values and name.startswith(DECISIVE):
                    raise BadValue(
                        f"line {item.line_number}: {tag} is given a second time, with another value; leave "
                        "one of them out"
                    )

    def first(self, *tags: str) -> str:
        """The first value that is given for one of these tags, or an empty text."""
        return next((value for tag in tags for value in self.columns.get(tag, ()) if value), "")

    def column(self, *tags: str) -> list[str]:
        """The values of the first of these tags that is there; empty if none is."""
        return next((self.columns[tag] for tag in tags if tag in self.columns), [])

    def has_coordinates(self, tags: tuple[str, ...]) -> bool:
        """Whether these coordinates of at least one atom are there."""
        return all(self.column(tag) for tag in tags) and any(self.first(tag) for tag in tags)


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


def formula_of(block: Block) -> dict[str, float]:
    """Counts by element of a formula such as ``Si O2`` or ``C6 H12 O6``; empty if it has another form."""
    counts: dict[str, float] = {}
    for part in block.first("_chemical_formula_sum").split():
        match = re.match(r"([A-Z][a-z]?)(\d*\.?\d*)$", part)
        if match is None or not element_of(match[1]):
            return {}
        counts[match[1]] = counts.get(match[1], 0) + float(match[2] or 1)
    return counts


def _symbol(kind: str, label: str, formula: frozenset[str]) -> str:
    """Symbol of a site's element, ``D`` and ``T`` among them.

    Args:
        kind: ``_atom_site_type_symbol``, such as ``Si``, ``CU`` or ``O2-``; empty if not given.
        label: ``_atom_site_label``, such as ``Si1``.
        formula: elements of the formula in the file, which decide what capital letters mean; may be empty.

    Raises:
        BadValue: neither names an element.
    """
    symbol = _letters(kind).capitalize() if kind else next(iter(_possible(label, formula)), "")
    if not element_of(symbol):
        wrong = f"type symbol {kind!r} is no" if kind else f"label {label!r} names no"
        which = "one" if kind else "the element"
        raise BadValue(f"its {wrong} element; write {which}, as Si or O, in _atom_site_type_symbol")
    return symbol


def _letters(text: str) -> str:
    return text[: len(text) - len(text.lstrip(ascii_letters))]


def _possible(label: str, formula: frozenset[str]) -> list[str]:
    """Elements that a label may name, the likeliest first: Si for si1, O for OW1, none for Wat1."""
    letters = _letters(label)
    if letters[1:3].islower() and len(letters) > 2:  # a word such as Wat, Vac or dum
        return []
    names = dict.fromkeys((letters[:2].capitalize(), letters[:1].capitalize()))
    possible = [name for name in names if name != "T" and element_of(name)]
    if letters[:2].isupper():
        possible = [name for name in possible if name in formula] or possible
    return possible


@dataclass(frozen=True)
class Site:
    """An atom site.

    Attributes:
        label: its name in the file.
        symbol: of its element, ``D`` and ``T`` among them.
        position: (3,) fractional, or Å in a file with Cartesian coordinates.
        error: (3,) by which rounding may have changed the position.
        multiplicity: number of images in a cell, if the file says it.
    """

    label: str
    symbol: str
    position: np.ndarray
    error: np.ndarray
    multiplicity: float | None


@dataclass
class Sites:
    """The sites of a block, whether their coordinates are fractional, and what a user should know."""

    sites: list[Site]
    fractional: bool
    notes: list[str] = field(default_factory=list)
    usual: bool = True  # whether every element is written as in Si or Si1


def sites_of(block: Block) -> Sites:
    """The fully occupied sites of a block.

    Raises:
        BadValue: a site has no element or coordinates, is partially occupied, or excludes another.
    """
    fractional = block.has_coordinates(FRACTIONAL) or not block.has_coordinates(CARTESIAN)
    columns = [block.column(tag) for tag in (FRACTIONAL if fractional else CARTESIAN)]
    count = len(columns[0])
    labels, kinds = block.column("_atom_site_label"), block.column("_atom_site_type_symbol")
    if not labels and not kinds:
        raise BadValue("no atom has an element; give _atom_site_type_symbol")
    labels = labels or [f"{kind}{k + 1}" for k, kind in enumerate(kinds)]
    kinds = kinds or [""] * count
    if any(len(column) != count for column in (*columns, labels, kinds)):
        raise BadValue("the columns of its atom sites differ in length; give them in one loop")
    result = Sites([], fractional)
    occupied = _occupied(block, labels, result.notes)
    _check_disorder(block, labels, occupied)
    formula = frozenset(formula_of(block))
    multiplicities = block.column(*MULTIPLICITY) or [""] * count
    for k in occupied:
        label = labels[k] or kinds[k]
        try:
            symbol = _symbol(kinds[k], label, formula)
            position, errors = np.array([_coordinate(column[k]) for column in columns]).T
        except BadValue as error:
            raise BadValue(f"atom {label or k}: {error}") from error
        multiplicity = None
        with suppress(BadValue):
            multiplicity = number(multiplicities[k])[0]
        result.sites.append(Site(label, symbol, position, errors, multiplicity))
    result.usual = all(USUAL.match(kinds[k] or labels[k]) for k in occupied)
    result.notes += _doubts(result.sites, [kinds[k] for k in occupied], formula)
    return result


def _coordinate(text: str) -> tuple[float, float]:
    if not text:
        raise BadValue("a coordinate is unknown ('?' or '.'); give it, or leave the atom out")
    return number(text)


def _occupied(block: Block, labels: list[str], notes: list[str]) -> list[int]:
    """Places of the sites that hold an atom."""
    tags = ("_atom_site_occupancy", "_atom_site_calc_flag", "_atom_site_attached_hydrogens")
    shares, flags, hydrogens = (block.column(tag) or [""] * len(labels) for tag in tags)
    occupied, empty, partial = [], [], []
    for k, text in enumerate(shares):
        try:
            share = number(text)[0] if text else 1.0
        except BadValue as error:
            raise BadValue(f"atom {labels[k]}: occupancy {error}") from error
        if flags[k].lower() == "dum" or share == 0:
            empty.append(labels[k])
            continue
        if abs(share - 1) > 1e-6:
            partial.append(f"{labels[k]} {text}")
        if hydrogens[k].isdecimal() and int(hydrogens[k]):
            raise BadValue(
                f"atom {labels[k]} has {hydrogens[k]} hydrogen atoms without coordinates "
                "(_atom_site_attached_hydrogens); give them as sites"
            )
        occupied.append(k)
    if partial:
        raise BadValue(f"sites are partially occupied ({_some(partial)}); give an ordered structure")
    if empty:
        notes.append(f"sites without an atom are left out ({_some(empty)})")
    if not occupied:
        raise BadValue("no site holds an atom; expected at least one")
    return occupied


def _check_disorder(block: Block, labels: list[str], occupied: list[int]) -> None:
    """Refuse sites of which a crystal holds one or the other."""
    groups = block.column("_atom_site_disorder_group")
    assemblies = block.column("_atom_site_disorder_assembly") or [""] * len(labels)
    members: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for k in occupied if groups else []:
        if groups[k] not in ("", "0"):
            members[assemblies[k]][groups[k]].append(labels[k])
    for alternatives in members.values():
        if len(alternatives) > 1 or any(group.startswith("-") for group in alternatives):
            listed = [f"group {group}: {_some(names)}" for group, names in sorted(alternatives.items())]
            raise BadValue(
                f"sites are disordered and exclude each other ({'; '.join(listed)}); keep one group"
            )


def _doubts(sites: list[Site], kinds: list[str], formula: frozenset[str]) -> list[str]:
    """Notes about elements that a file could mean otherwise."""
    notes = []
    unclear = [
        f"{site.label} as {site.symbol}"
        for site, kind in zip(sites, kinds, strict=True)
        if not kind and site.label[:2].isupper() and len(_possible(site.label, formula)) > 1
    ]
    if unclear:
        notes.append(f"without _atom_site_type_symbol, labels are read as elements ({_some(unclear)})")
    if any(site.symbol == "T" for site in sites):
        notes.append("T is read as tritium, hydrogen of mass 3.016; write Si or Al for tetrahedral sites")
    others = [
        f"{site.label} is {site.symbol}"
        for site in sites
        if re.match(r"[A-Z][a-z]?\d*$", site.label)
        and is_symbol(_letters(site.label))
        and site.label[0] != site.symbol[0]
    ]
    if others:
        notes.append(f"_atom_site_type_symbol counts where the label names another element ({_some(others)})")
    return notes


def _some(names: list[str]) -> str:
    more = f", and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
