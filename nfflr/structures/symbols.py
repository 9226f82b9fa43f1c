"""Chemical elements as files of several programs write them: ``Si``, ``Si_pv/1a2b``, ``SI``, ``Si1``, ``D``."""

from __future__ import annotations

import re

import ase
import numpy as np
from ase.data import atomic_masses, atomic_numbers

ISOTOPES = {"D": 2.014101778, "T": 3.016049281}  # amu, of hydrogen (AME2020)
LABEL = re.compile(r"([A-Za-z]{1,2})(?:[_/].*|\d*[+-]?|\d*[+-]\d*)$")
NEAR = 0.02  # amu: programs round standard masses in the third decimal, or the second


def element_of(label: str) -> tuple[int, float | None] | None:
    """Atomic number, and the mass (amu) where the label names an isotope; None if it names no element.

    A POTCAR's suffix, a number, a charge and the case of letters do not matter: a label names one element.
    """
    match = LABEL.match(label)
    if match is None:
        return None
    symbol = match[1].capitalize()
    if symbol in ISOTOPES:
        return 1, ISOTOPES[symbol]
    return (atomic_numbers[symbol], None) if atomic_numbers.get(symbol) else None


def element_of_mass(mass: float) -> int | None:
    """Atomic number of the element whose standard mass (amu) is this one, if there is one such element."""
    numbers = np.flatnonzero(np.abs(atomic_masses[1:] - mass) < NEAR) + 1
    return int(numbers[0]) if len(numbers) == 1 else None


def set_isotopes(atoms: ase.Atoms, masses: list[float | None] | np.ndarray) -> None:
    """Give atoms these masses (N,) in amu; None or NaN, and what rounds to the standard mass, is that."""
    standard = atomic_masses[atoms.numbers]
    values = np.array([np.nan if mass is None else mass for mass in masses], dtype=float)
    kept = np.isnan(values) | (np.abs(values - standard) < NEAR)
    if not kept.all():
        atoms.set_masses(np.where(kept, standard, values))
