"""Chemical elements as files of several programs write them: ``Si_pv/1a2b``, ``SI``, ``Si1``, ``D``."""

from __future__ import annotations

import re
from collections.abc import Sequence

import ase
import numpy as np
from ase.data import atomic_masses, atomic_numbers

from ..errors import StructureError
from .species import ISOTOPES

LABEL = re.compile(r"([A-Za-z]{1,2})(?:[_/].*|\d*[+-]?|\d*[+-]\d*)$")
EQUAL = 0.006  # amu: standard masses are often written with two decimals
NEAR = 0.1  # amu: what a mass may differ from the standard one and still tell the element


def element_of(label: str, *, any_case: bool = True) -> tuple[int, float | None] | None:
    """Atomic number, and the mass (amu) where the label names an isotope; None if it names no element.

    A POTCAR's suffix, a number and a charge do not matter, nor does the case of letters unless asked for.
    """
    match = LABEL.match(label)
    if match is None or not (any_case or match[1].istitle()):
        return None
    symbol = match[1].capitalize()
    if symbol in ISOTOPES:
        return 1, ISOTOPES[symbol]
    return (atomic_numbers[symbol], None) if atomic_numbers.get(symbol) else None


def element_of_mass(mass: float, within: float = NEAR) -> int | None:
    """Atomic number of the only element whose standard mass is this one (amu), or None.

    A mass of 1 is more often a placeholder than hydrogen.
    """
    numbers = (np.abs(atomic_masses[1:] - mass) < within).nonzero()[0] + 1
    if len(numbers) == 1 and not _is_placeholder(mass):
        return int(numbers[0])
    return 1 if abs(mass - ISOTOPES["D"]) < EQUAL else None


def element_of_type(label: str | None, mass: float | None, where: str) -> tuple[int, float | None]:
    """Atomic number, and mass (amu) where it is not the standard one, of what a program calls a type.

    Programs label types by names of a force field too, as CA for an aromatic carbon or W for a bead of four
    water molecules: a label names the element only as it is spelled, and not against the mass.

    Raises:
        StructureError: label and mass contradict each other, or neither names an element.
    """
    named = element_of(label, any_case=False) if label else None
    if mass is None:
        if named is None:
            got = f"the label {label!r} names no element" if label else "atoms have a type, but no element"
            raise StructureError(f"{where}: {got}")
        return named
    weighed = element_of_mass(mass)
    if named is not None and _is_placeholder(mass):
        return named
    if named is not None:
        if not _is_isotope(named[0], mass):
            raise StructureError(
                f"{where}: the label {label!r} contradicts the mass {mass:g}; correct one of them"
            )
        return named[0], mass
    if weighed is None:
        raise StructureError(f"{where}: the mass {mass:g} is that of no single element")
    return weighed, mass


def _is_placeholder(mass: float) -> bool:
    return abs(mass - 1) < 1e-6


def _is_isotope(number: int, mass: float) -> bool:
    """Whether an isotope of this element may have this mass (amu), which is not another element's."""
    standard = atomic_masses[number]
    if element_of_mass(mass, EQUAL) not in (None, number):
        return False
    return bool(abs(mass - standard) < max(2.01, 0.08 * standard))


def set_masses(atoms: ase.Atoms, masses: Sequence[float | None]) -> None:
    """Give atoms these masses (N,) in amu; None, and what rounds to the standard mass, is the standard."""
    standard = atomic_masses[atoms.numbers]
    values = np.array([np.nan if mass is None else mass for mass in masses], dtype=float)
    plain = np.isnan(values) | (np.abs(values - standard) < EQUAL)
    if not plain.all():
        atoms.set_masses(np.where(plain, standard, values))
