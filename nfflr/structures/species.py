"""What the label of an atom in a structure file means: an element, and the mass where it names an isotope."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache

from ase.data import atomic_numbers, chemical_symbols

# Mass in u of the hydrogen isotopes that have symbols of their own (IUPAC; AME2020 masses).
ISOTOPES = {"D": 2.01410177812, "T": 3.01604928199}
HYDROGEN_ISOTOPES = ISOTOPES | {"2H": ISOTOPES["D"], "3H": ISOTOPES["T"]}

# In capitals these are names of atoms in proteins (C-alpha, O-gamma ...) or of molecules as well as elements.
AMBIGUOUS_CAPITALS = frozenset({"CA", "CD", "CE", "CO", "HE", "HF", "HG", "HO", "NE", "NO", "OG", "SG"})

# A symbol, then nothing, a number (Si1), a charge (Si4+, O2-, Fe+3), or a name after _ or . (Si_pv, C.ar).
LABEL = re.compile(r"([A-Za-z]{1,2})(?:\d*|\^?\d*[+-]+|\^?[+-]\d+|[_.]\w+)", re.ASCII)


@lru_cache(maxsize=4096)
def element(label: str) -> tuple[int, float | None]:
    """Atomic number that a label stands for, and the mass in u if it names an isotope of hydrogen.

    Symbols count in any case, with a number, a charge or a suffix behind them; ``D`` and ``T`` are hydrogen;
    a whole number is an atomic number.

    Raises:
        ValueError: the label means no element, or more than one can be meant; the message says what to write.

    Example:
        >>> element("Si4+"), element("D")
        ((14, None), (1, 2.01410177812))
    """
    number = atomic_numbers.get(label, 0)
    if number:
        return number, None
    if label.isascii() and label.isdigit():
        if not 0 < int(label) < len(chemical_symbols):
            raise ValueError(f"{label!r} is no atomic number; expected 1 to {len(chemical_symbols) - 1}")
        return int(label), None
    match = LABEL.fullmatch(label)
    symbol = match[1] if match else label
    if symbol in AMBIGUOUS_CAPITALS:
        two, single = symbol.capitalize(), symbol[0]
        raise ValueError(f"species {label!r} can mean {two} or {single}; write {two} or {single}")
    if symbol.upper() in HYDROGEN_ISOTOPES:
        return 1, HYDROGEN_ISOTOPES[symbol.upper()]
    number = atomic_numbers.get(symbol.capitalize(), 0) if match else 0
    if not number:
        raise ValueError(f"species {label!r} is no element; write a chemical symbol such as Si")
    return number, None


def check_numerals(labels: Collection[str]) -> None:
    """Refuse numbers in a column of species that can be types of atoms as well as atomic numbers.

    Types are counted from one without a gap; LAMMPS and GPUMD write them in this place.

    Raises:
        ValueError: the labels are the numbers 1 to n.
    """
    numbers = sorted({int(label) for label in labels})
    if numbers == list(range(1, len(numbers) + 1)):
        listed = ", ".join(map(str, numbers))
        raise ValueError(f"species {listed} can be types of atoms or atomic numbers; write chemical symbols")
