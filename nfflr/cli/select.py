"""Choosing a bundled calculator by the elements of a structure."""

from __future__ import annotations

import ase
from ase.formula import Formula

from ..cards import bundled_calculators, read_card
from ..checkpoint import FILE
from ..errors import StructureError


def choose_calculator(atoms: ase.Atoms) -> str:
    """Name of the bundled calculator that covers the structure's elements, the most specific one.

    Raises:
        StructureError: none does; names the elements that are missing and what to do.
    """
    needed = set(atoms.symbols)
    own = atoms.symbols.formula.count()
    covered = {}
    for name, folder in bundled_calculators().items():
        card = read_card(folder)
        of_another = card.formula is not None and Formula(card.formula).count() != own
        if (folder / FILE).is_file() and not of_another:
            covered[name] = set(card.elements)
    fitting = {name: elements for name, elements in covered.items() if needed <= elements}
    if fitting:
        return min(fitting, key=lambda name: (len(fitting[name]), name))
    nearest = max(covered, key=lambda name: len(needed & covered[name]), default="")
    missing = ", ".join(sorted(needed - covered.get(nearest, set())))
    have = "; ".join(f"{name}: {', '.join(sorted(elements))}" for name, elements in covered.items())
    raise StructureError(
        f"structure: no bundled calculator covers {missing} (bundled: {have or 'none'}); "
        'give --model with a checkpoint, or pip install "nfflr[universal]" and --model chgnet'
    )
