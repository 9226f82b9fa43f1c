"""Symmetry operations of crystals, and space groups by name, Hall symbol or number in each of their settings.

The tables are those of gemmi (International Tables A, 1983 and 2002, and settings used elsewhere).
"""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property

import gemmi
import numpy as np
import spglib
from ase.spacegroup import Spacegroup

UNIT = 5040  # translations are compared in this fraction of a lattice vector: 2 to 10, 12 and 16 divide it
CLOSEST = 0.3  # Å; images of a site that are closer and equal within its digits are one atom
DIGITS = r"(?:\d+\.?\d*|\.\d+)"
ROW = re.compile(rf"(?:(?:^|[+-])(?:{DIGITS}(?:/\d+)?\*?[xyz]?|[xyz]))+")
TERM = re.compile(rf"(?=.)([+-]?)(?:({DIGITS})(?:/(\d+))?\*?)?([xyz]?)")  # not the empty end of a row
DENOMINATORS = (1, 2, 3, 4, 6, 8, 12)  # denominators of translations that are often written as decimals

# What follows a name: origin choice 1 or 2, or hexagonal or rhombohedral axes, as programs write it.
CHOICES = {
    "1": "1", "o1": "1", "s": "1", "origin1": "1", "originchoice1": "1",
    "2": "2", "o2": "2", "z": "2", "origin2": "2", "originchoice2": "2",
    "h": "H", "hr": "H", "hex": "H", "hexagonal": "H", "hexagonalaxes": "H",
    "r": "R", "rs": "R", "rh": "R", "rhombohedral": "R", "rhombohedralaxes": "R",
}  # fmt: skip
SUFFIX = re.compile(r":?\(?(" + "|".join(sorted(CHOICES, key=len, reverse=True)) + r")\)?$")
SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆−–¯", "0123456---")


@dataclass(frozen=True)
class Operations:
    """Symmetry operations x' = R x + t of fractional coordinates, centring translations among them."""

    rotations: np.ndarray  # R (n, 3, 3), whole numbers
    translations: np.ndarray  # t (n, 3), each from 0 to below 1

    def __len__(self) -> int:
        return len(self.rotations)

    @cached_property
    def codes(self) -> np.ndarray:
        return _codes(self.rotations, self.translations)

    def distinct(self) -> Operations:
        """Each operation once, in the order of first places."""
        places = np.sort(np.unique(self.codes, return_index=True)[1])
        return Operations(self.rotations[places], self.translations[places])

    def after(self, centrings: Operations) -> Operations:
        """Every operation after every centring translation."""
        rotations = np.tile(self.rotations, (len(centrings), 1, 1))
        translations = (self.translations[None] + centrings.translations[:, None]).reshape(-1, 3) % 1
        return Operations(rotations, translations).distinct()

    def same_as(self, others: Operations) -> bool:
        """Whether both are the same set."""
        return set(self.codes.tolist()) == set(others.codes.tolist())

    def product_outside(self) -> tuple[int, int] | None:
        """Two operations whose product is not among them; None for a group."""
        products = np.einsum("aij,bjk->abik", self.rotations, self.rotations)  # (n, n, 3, 3)
        shifts = np.einsum("aij,bj->abi", self.rotations, self.translations) + self.translations[:, None]
        missing = ~np.isin(_codes(products, shifts), self.codes)  # (n, n)
        if not missing.any():
            return None
        first, second = np.argwhere(missing)[0]
        return int(first), int(second)

    def distortion(self, cell: np.ndarray) -> float:
        """Largest relative change by an operation of a length or scalar product of cell vectors (3, 3)."""
        metric = cell @ cell.T
        images = np.einsum("aji,jk,akl->ail", self.rotations, metric, self.rotations)  # R^T G R
        lengths = np.sqrt(np.diag(metric))
        return float(np.abs((images - metric) / np.outer(lengths, lengths)).max())

    def orbit(
        self, position: np.ndarray, error: np.ndarray, cell: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The exact fractional position (3,) of a site, and its images (m, 3) in the order of the operations.

        Images that coincide within the errors (3,) of the coordinates, and within ``CLOSEST`` in the cell
        (3, 3) in Å, are one atom on a special position: the mean over the operations that map it onto itself,
        which lies on the symmetry elements exactly.
        """
        if len(self) == 1:  # most atoms of large files
            point = wrap(position @ self.rotations[0].T + self.translations[0])
            return point, point[None]
        images = self.rotations @ position + self.translations  # (n, 3)
        shifts = images - position
        shifts -= np.rint(shifts)
        lengths = np.linalg.norm(shifts @ cell, axis=1)
        allowed = np.abs(self.rotations - np.eye(3)) @ error + 1e-6  # (n, 3)
        excess = np.where(lengths <= CLOSEST, (np.abs(shifts) / allowed).max(axis=1), np.inf)
        point = self._special(position, shifts, excess)
        images = wrap(self.rotations @ point + self.translations)
        return point, images[_first_of_each(images)]

    def _special(self, position: np.ndarray, shifts: np.ndarray, excess: np.ndarray) -> np.ndarray:
        """The special position next to a site, or the site itself."""
        for limit in (1.0, 0.5, 0.25):
            fixing = excess <= limit
            point = position + shifts[fixing].mean(axis=0) if fixing.any() else position
            images = self.rotations[fixing] @ point + self.translations[fixing]
            offsets = images - point
            if np.abs(offsets - np.rint(offsets)).max(initial=0) < 1e-6:
                return point
        return position


def wrap(positions: np.ndarray) -> np.ndarray:
    """Fractional positions from 0 to below 1; those a rounding error below 1 become 0."""
    wrapped = positions - np.floor(positions + 1e-9)
    return np.maximum(wrapped, 0.0)


def parse_operations(texts: Sequence[str]) -> Operations:
    """Operations from texts like ``x,y,z``, ``1/2+X, -Y, z+0.5`` or ``-x+y, -x, z+1/3``.

    Raises:
        ValueError: a text is no operation of a crystal; the message quotes it.
    """
    rotations, translations = [], []
    for text in texts:
        rows = re.sub(r"[\s'\"]", "", text.lower()).split(",")
        wrong = f"{text!r} is no symmetry operation;"
        if len(rows) != 3:
            raise ValueError(f"{wrong} expected three expressions, as 'x,y,z+1/2'")
        matrix = [_row(row, wrong) for row in rows]  # x, y, z and 1
        rotation = np.array([row[:3] for row in matrix], int)
        if abs(round(np.linalg.det(rotation))) != 1 or np.abs(rotation).max() > 2:
            raise ValueError(f"{wrong} it does not keep the volume of the cell")
        rotations.append(rotation)
        translations.append([float(row[3] % 1) for row in matrix])
    return Operations(np.array(rotations), np.array(translations)).distinct()


def _row(row: str, wrong: str) -> list[Fraction]:
    """Coefficients of x, y and z, and the shift of one expression."""
    if not ROW.fullmatch(row):
        raise ValueError(f"{wrong} expected the form 'x,y,z+1/2'")
    values = [Fraction(0)] * 4
    for sign, digits, denominator, axis in TERM.findall(row):
        if denominator and not int(denominator):
            raise ValueError(f"{wrong} it divides by zero")
        value = _fraction(digits or "1") / int(denominator or 1)
        values["xyz".index(axis) if axis else 3] += -value if sign == "-" else value
    if any(value.denominator != 1 for value in values[:3]):
        raise ValueError(f"{wrong} expected whole numbers times x, y and z")
    return values


def _fraction(text: str) -> Fraction:
    """A number; a decimal one such as 0.333 is the crystallographic fraction that it rounds."""
    value = Fraction(text)
    digits = len(text.partition(".")[2])
    for denominator in DENOMINATORS:
        nearest = Fraction(round(value * denominator), denominator)
        if digits > 1 and abs(nearest - value) <= Fraction(1, 10**digits):
            return nearest
    return value


def _codes(rotations: np.ndarray, translations: np.ndarray) -> np.ndarray:
    """A number (...) for each operation, equal for equal ones; -1 for entries beyond -2 to 2."""
    digits = rotations.reshape(*rotations.shape[:-2], 9) + 2
    steps = np.rint(translations * UNIT).astype(np.int64) % UNIT
    codes = (digits * 5 ** np.arange(9)).sum(axis=-1) * UNIT**3 + steps @ np.array([1, UNIT, UNIT**2])
    return np.where(((digits < 0) | (digits > 4)).any(axis=-1), -1, codes)


def _first_of_each(images: np.ndarray) -> np.ndarray:
    """Places (m,) of images (n, 3) that equal none before them."""
    offsets = images[:, None] - images[None]
    offsets -= np.rint(offsets)
    same = (np.abs(offsets) < 1e-5).all(axis=2)  # (n, n)
    return np.flatnonzero(same.argmax(axis=1) == np.arange(len(images)))


class Setting:
    """A space group with its axes and origin; ``is_standard`` if a number alone means it."""

    def __init__(self, group: gemmi.SpaceGroup):
        self._group = group
        self.number, self.hall = group.number, group.hall
        self.name = group.xhm()  # Hermann–Mauguin symbol with the origin or axes, as F d -3 m:2
        self.choice = group.ext.strip("\0")  # 1 or 2 (origin), H or R (axes), or empty
        self.is_standard = group.is_reference_setting() or self.choice in ("1", "H")

    def __repr__(self) -> str:
        return f"Setting({self.name!r})"

    @cached_property
    def operations(self) -> Operations:
        """All of them, centring translations among them."""
        return _operations(self._group.operations())

    def in_order_of_ase(self) -> Operations:
        """The operations in ASE's order if ASE has this setting: the order of atoms follows from it."""
        with suppress(Exception):  # ASE has no such setting
            pairs = Spacegroup(self.number, 2 if self.choice in ("2", "R") else 1).get_symop()
            operations = Operations(*(np.array(part) for part in zip(*pairs, strict=True)))
            if operations.same_as(self.operations) and len(operations) == len(self.operations):
                return operations
        return self.operations


def settings_named(name: str) -> list[Setting]:
    """Settings that a Hermann–Mauguin symbol can mean, the usual first; none if it is no symbol.

    Symbols may be short or full, with or without spaces, with a suffix for origin or axes (``:2``, ``Z``,
    ``:H``, ``RS``, ``(origin choice 2)``). A short monoclinic symbol can mean each unique axis.
    """
    key = _key(name)
    if groups := _table()[key]:
        return [Setting(group) for group in groups]
    match = SUFFIX.search(key)
    if match is None:
        group = gemmi.find_spacegroup_by_name(name)
        return [] if group is None else [Setting(group)]
    choice, settings = CHOICES[match[1]], settings_named(key[: match.start()])
    fitting = [setting for setting in settings if setting.choice == choice]
    if choice == "1" and not any(setting.choice for setting in settings):
        return settings  # a single origin is the first one
    return fitting


def settings_numbered(number: int) -> list[Setting]:
    """All settings of a space group, the standard first, with origin choice 1 or hexagonal axes as in ASE."""
    settings = [Setting(group) for group in gemmi.spacegroup_table() if group.number == number]
    return sorted(settings, key=lambda setting: not setting.is_standard)


def operations_of_hall(symbol: str) -> Operations | None:
    """Operations of a Hall symbol, or None if it is none."""
    try:
        return _operations(gemmi.symops_from_hall(symbol.replace("_", " ").strip()))
    except (RuntimeError, ValueError):
        return None


def number_of(operations: Operations) -> int | None:
    """Number of the space group of operations (a group) in any setting; None if it is not found."""
    turns = operations.rotations
    # All rotations keep this lattice.
    lattice = np.linalg.cholesky((turns.swapaxes(1, 2) @ turns).mean(axis=0))
    with suppress(Exception), warnings.catch_warnings():  # whatever spglib raises in this version
        warnings.simplefilter("ignore")  # it warns of changes to come
        kind = spglib.get_spacegroup_type_from_symmetry(
            turns.astype("intc"), operations.translations, lattice=lattice
        )
        return None if kind is None else int(kind.number)
    return None


def _operations(group: gemmi.GroupOps) -> Operations:
    scale = gemmi.Op.DEN
    pairs = [(operation.rot, operation.tran) for operation in group]
    rotations = np.array([rotation for rotation, _ in pairs]) // scale
    translations = np.array([translation for _, translation in pairs]) % scale / scale
    return Operations(rotations, translations)


@cache
def _table() -> defaultdict[str, list[gemmi.SpaceGroup]]:
    table: defaultdict[str, list[gemmi.SpaceGroup]] = defaultdict(list)
    for group in gemmi.spacegroup_table():
        for key in dict.fromkeys(_keys(group)):
            table[key].append(group)
    return table


def _keys(group: gemmi.SpaceGroup) -> Iterable[str]:
    parts = group.hm.split()
    yield _key(group.hm)
    yield _key(group.short_name())
    if 3 <= group.number <= 15:  # monoclinic, for which the unique axis is often left out
        yield _key(" ".join([parts[0], *(part for part in parts[1:] if part != "1")]))
    if group.number >= 195:  # cubic, whose minus sign older symbols lack
        yield _key(group.hm).replace("-3", "3")


def _key(name: str) -> str:
    """A symbol in small letters without spaces and marks of subscripts."""
    plain = re.sub(r"(\d)[̄̅]", r"-\1", name.translate(SUBSCRIPTS))  # 3 with a bar above
    plain = re.sub(r"</?su[bp]>|\(#?\d+\)$|#\d+$", "", plain.strip().strip("'\"").lower())
    return re.sub(r"\(a,b,c\)$", "", re.sub(r"[\s_~{}$\\]", "", plain))
