"""Symmetry operations of crystals: as text, as a group, and the positions that they generate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from scipy.spatial import cKDTree

UNIT = 5040  # translations are compared in this fraction of a lattice vector: 2 to 10, 12 and 16 divide it
CLOSEST = 0.3  # Å; images of a site that are closer and equal within its digits are one atom
TERM = re.compile(r"([+-]?)(?:(\d+\.?\d*|\.\d+)(?:/(\d+))?)?\*?([xyz]?)")
DENOMINATORS = (1, 2, 3, 4, 6, 8, 12)  # of translations that are usually written as decimals


@dataclass(frozen=True)
class Operations:
    """Symmetry operations x' = R x + t of fractional coordinates, centring translations among them.

    Args:
        rotations: R (n, 3, 3), whole numbers.
        translations: t (n, 3), each from 0 to below 1.
    """

    rotations: np.ndarray
    translations: np.ndarray

    def __len__(self) -> int:
        return len(self.rotations)

    @cached_property
    def codes(self) -> np.ndarray:
        """One number (n,) for each operation, equal for equal operations."""
        return _codes(self.rotations, self.translations)

    def distinct(self) -> Operations:
        """Each operation once, in the order of its first place."""
        places = np.sort(np.unique(self.codes, return_index=True)[1])
        return Operations(self.rotations[places], self.translations[places])

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
        """How far the lattice is from having these symmetries: 0 if it has them.

        Args:
            cell: (3, 3) Å, rows are lattice vectors.

        Returns:
            Largest relative change of a length or a scalar product of lattice vectors.
        """
        metric = cell @ cell.T
        images = np.einsum("aji,jk,akl->ail", self.rotations, metric, self.rotations)  # R^T G R
        lengths = np.sqrt(np.diag(metric))
        return float(np.abs((images - metric) / np.outer(lengths, lengths)).max())

    def leaves(self, positions: np.ndarray, kinds: np.ndarray, tolerance: float) -> bool:
        """Whether a crystal has these symmetries.

        Args:
            positions: (N, 3) fractional.
            kinds: (N,) whole numbers that tell atoms apart, as atomic numbers.
            tolerance: largest distance between an image and an atom, fractional.
        """
        wrapped = wrap(positions)
        tree = cKDTree(wrapped, boxsize=1.0)
        for rotation, translation in zip(self.rotations, self.translations, strict=True):
            distances, nearest = tree.query(wrap(wrapped @ rotation.T + translation))
            if (distances > tolerance).any() or (kinds[nearest] != kinds).any():
                return False
        return True

    def orbit(
        self, position: np.ndarray, error: np.ndarray, cell: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The position that a site means, and its images (m, 3) in one cell, in the order of the operations.

        Images that coincide within the digits of the coordinates, and within ``CLOSEST``, are one atom on a
        special position: the mean over the operations that map it onto itself, which lies on the symmetry
        elements exactly.

        Args:
            position: (3,) fractional.
            error: (3,) by which each coordinate may be wrong.
            cell: (3, 3) Å, rows are lattice vectors.
        """
        if len(self) == 1:
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
    rotations, translations = zip(*(_parse(text) for text in texts), strict=True)
    return Operations(np.array(rotations, int), np.array(translations, float)).distinct()


def _parse(text: str) -> tuple[list[list[int]], list[float]]:
    rows = re.sub(r"[\s'\"]", "", text.lower()).split(",")
    if len(rows) != 3:
        raise ValueError(f"{text!r} is no symmetry operation; expected three expressions, as 'x,y,z+1/2'")
    rotation: list[list[int]] = []
    translation: list[float] = []
    for row in rows:
        coefficients, shift = _row(row, text)
        rotation.append(coefficients)
        translation.append(float(shift % 1))
    if abs(round(np.linalg.det(rotation))) != 1 or np.abs(rotation).max() > 2:
        raise ValueError(f"{text!r} is no symmetry operation; it does not keep the volume of the cell")
    return rotation, translation


def _row(row: str, text: str) -> tuple[list[int], Fraction]:
    """Coefficients of x, y, z and the shift of one expression."""
    coefficients, shift, place = [Fraction(0)] * 3, Fraction(0), 0
    while place < len(row):
        match = TERM.match(row, place)
        if match is None or match.end() == place or (place and not match[1]) or not (match[2] or match[4]):
            raise ValueError(f"{text!r} is no symmetry operation; expected the form 'x,y,z+1/2'")
        sign, number, denominator, axis = match.groups()
        if denominator is not None and not int(denominator):
            raise ValueError(f"{text!r} is no symmetry operation; it divides by zero")
        value = Fraction(1) if number is None else _fraction(number) / int(denominator or 1)
        value = -value if sign == "-" else value
        if axis:
            coefficients["xyz".index(axis)] += value
        else:
            shift += value
        place = match.end()
    if not row or any(value.denominator != 1 for value in coefficients):
        raise ValueError(f"{text!r} is no symmetry operation; expected whole numbers times x, y and z")
    return [int(value) for value in coefficients], shift


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
    """Integers (...) for rotations (..., 3, 3) with entries up to 2 and translations (..., 3)."""
    flat = rotations.reshape(*rotations.shape[:-2], 9) + 2
    code = (np.clip(flat, 0, 4) * 5 ** np.arange(9)).sum(axis=-1)
    cut = (flat < 0) | (flat > 4)  # beyond what a group in a reduced cell holds
    code = np.where(cut.any(axis=-1), -1, code)
    units = np.rint(translations * UNIT).astype(np.int64) % UNIT
    shift = (units * np.array([1, UNIT, UNIT**2], np.int64)).sum(axis=-1)
    return np.where(code < 0, -1, code.astype(np.int64) * UNIT**3 + shift)


def _first_of_each(images: np.ndarray) -> np.ndarray:
    """Places (m,) of images (n, 3) that equal none before them."""
    offsets = images[:, None] - images[None]
    offsets -= np.rint(offsets)
    same = (np.abs(offsets) < 1e-5).all(axis=2)  # (n, n)
    return np.flatnonzero(same.argmax(axis=1) == np.arange(len(images)))
