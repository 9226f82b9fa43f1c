"""Chemical elements as files of several programs write them: ``Si_pv/1a2b``, ``Si4+``, ``D``, a mass."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import ase
import numpy as np
from ase.data import atomic_masses, atomic_numbers, chemical_symbols

from ..errors import StructureError

# Mass in u of the hydrogen isotopes that have symbols of their own (IUPAC; AME2020 masses).
ISOTOPES = {"D": 2.01410177812, "T": 3.01604928199}
ISOTOPES |= {"2H": ISOTOPES["D"], "3H": ISOTOPES["T"]}

# In capitals these are names of atoms in proteins (C-alpha, O-gamma ...) or of molecules as well as elements.
AMBIGUOUS_CAPITALS = frozenset({"CA", "CD", "CE", "CO", "HE", "HF", "HG", "HO", "NE", "NO", "OG", "SG"})

# A symbol, then nothing, a number (Si1), a charge (Si4+, O2-, Fe+3), or a suffix (Si_pv/1a2b).
LABEL = re.compile(r"([A-Za-z]{1,2})(?:\d*|\^?\d*[+-]+|\^?\d*[+-]\d*|[_/].*)", re.ASCII)
EQUAL = 0.006  # u: standard masses are often written with two decimals
NEAR = 0.1  # u: what a mass may differ from the standard one and still name the element

Element = tuple[int, float | None]  # atomic number, and the mass in u where it is not the standard one


def element_of(label: str, *, any_case: bool = True) -> Element | None:
    """The element that a label names, with the mass of a named isotope; None if it names none.

    A suffix, a number and a charge do not matter, nor does the case of letters unless asked for.
    """
    match = LABEL.fullmatch(label)
    symbol = match[1] if match else label
    if not any_case and not symbol.istitle():
        return None
    if symbol.upper() in ISOTOPES:
        return 1, ISOTOPES[symbol.upper()]
    number = atomic_numbers.get(symbol.capitalize(), 0) if match else 0
    return (number, None) if number else None


@lru_cache(maxsize=4096)
def element(label: str) -> Element:
    """As ``element_of``, for a label that may also be an atomic number, or an atom's type such as ``C.ar``.

    Raises:
        ValueError: the label means no element, or more than one can be meant; the message says what to write.

    Example:
        >>> element("Si4+"), element("D")
        ((14, None), (1, 2.01410177812))
    """
    if label.isascii() and label.isdigit():
        if not 0 < int(label) < len(chemical_symbols):
            raise ValueError(f"{label!r} is no atomic number; expected 1 to {len(chemical_symbols) - 1}")
        return int(label), None
    match = LABEL.fullmatch(plain := re.sub(r"\.\w+$", "", label))
    if match and match[1] in AMBIGUOUS_CAPITALS:
        two, single = match[1].capitalize(), label[0]
        raise ValueError(f"species {label!r} can mean {two} or {single}; write {two} or {single}")
    meaning = element_of(plain)
    if meaning is None:
        reason = "has atomic number 0, no element" if label == chemical_symbols[0] else "is no element"
        raise ValueError(f"species {label!r} {reason}; write a chemical symbol such as Si")
    return meaning


def is_symbol(text: str) -> bool:
    """Whether a text is exactly the symbol of an element."""
    return atomic_numbers.get(text, 0) > 0


def element_of_mass(mass: float, within: float = NEAR) -> int | None:
    """Atomic number of the only element whose standard mass is this one (u), or None.

    A mass of 1 is more often a placeholder than hydrogen.
    """
    numbers = (np.abs(atomic_masses[1:] - mass) < within).nonzero()[0] + 1
    if len(numbers) == 1 and not _is_placeholder(mass):
        return int(numbers[0])
    return 1 if abs(mass - ISOTOPES["D"]) < EQUAL else None


def element_of_type(label: str | None, mass: float | None, where: str, advice: str) -> Element:
    """The element of what a program calls a type, by its label and its mass (u).

    Programs label types by names of a force field too, as CA for an aromatic carbon or W for a bead of four
    water molecules: a label names the element only as it is spelled, and not against the mass.

    Raises:
        StructureError: label and mass contradict each other, or neither names an element.
    """
    named = element_of(label, any_case=False) if label else None
    if mass is None:
        if named is None:
            got = f"the label {label!r} names no element" if label else "atoms have a type, but no element"
            raise StructureError(f"{where}: {got}; {advice}")
        return named
    if named is not None and _is_placeholder(mass):
        return named
    if named is not None:
        if not _is_isotope(named[0], mass):
            raise StructureError(f"{where}: the label {label!r} contradicts the mass {mass:g}; {advice}")
        return named[0], mass
    weighed = element_of_mass(mass)
    if weighed is None:
        raise StructureError(f"{where}: the mass {mass:g} is that of no single element; {advice}")
    return weighed, mass


def _is_placeholder(mass: float) -> bool:
    return abs(mass - 1) < 1e-6


def _is_isotope(number: int, mass: float) -> bool:
    """Whether an isotope of this element may have this mass (u), which is not another element's."""
    if element_of_mass(mass, EQUAL) not in (None, number):
        return False
    standard = atomic_masses[number]
    return bool(abs(mass - standard) < max(2.01, 0.08 * standard))


def atoms_of(elements: Sequence[Element], **keywords: Any) -> ase.Atoms:
    """Atoms of these elements (N,), isotopes with their masses; ``keywords`` as of ``ase.Atoms``."""
    atoms = ase.Atoms([number for number, _ in elements], **keywords)
    set_masses(atoms, [mass for _, mass in elements])
    return atoms


def set_masses(atoms: ase.Atoms, masses: Sequence[float | None]) -> None:
    """Give atoms these masses (N,) in u; None, and what rounds to the standard mass, is the standard."""
    standard = atomic_masses[atoms.numbers]
    values = np.array([np.nan if mass is None else mass for mass in masses], dtype=float)
    plain = np.isnan(values) | (np.abs(values - standard) < EQUAL)
    if not plain.all():
        atoms.set_masses(np.where(plain, standard, values))
