"""Choosing a calculator by the elements of a structure: a bundled one, or an installed universal one."""

from __future__ import annotations

import ase
from ase.formula import Formula

from ..adapters import installed_universal
from ..cards import bundled_calculators, read_card
from ..checkpoint import FILE
from ..errors import StructureError
from ..notes import note


def choose_calculator(atoms: ase.Atoms) -> str:
    """Name of the bundled calculator that covers the structure's elements, the most specific one.

    Where none does, a universal potential of another package whose weights are installed with it; a note
    says so.

    Raises:
        StructureError: there is neither; names the elements that are missing and what to do.
    """
    needed = set(atoms.symbols)
    fitting = {name: elements for name, elements in _covered(atoms).items() if needed <= elements}
    if fitting:
        return min(fitting, key=lambda name: (len(fitting[name]), name))
    universal = installed_universal()
    if not universal:
        raise StructureError(_refusal(atoms))
    formula = atoms.symbols.formula.format("hill")
    note(
        f"{formula}: no bundled potential covers it; {universal[0]}, a universal potential that is "
        "installed, is used; give --model to choose another"
    )
    return universal[0]


def _covered(atoms: ase.Atoms) -> dict[str, set[str]]:
    """Elements of each bundled calculator that is not for one compound, or for this one."""
    own = atoms.symbols.formula.count()
    covered = {}
    for name, folder in bundled_calculators().items():
        card = read_card(folder)
        of_another = card.formula is not None and Formula(card.formula).count() != own
        if (folder / FILE).is_file() and not of_another:
            covered[name] = set(card.elements)
    return covered


def _refusal(atoms: ase.Atoms) -> str:
    needed, covered = set(atoms.symbols), _covered(atoms)
    nearest = max(covered, key=lambda name: len(needed & covered[name]), default="")
    missing = ", ".join(sorted(needed - covered.get(nearest, set())))
    have = "; ".join(f"{name}: {', '.join(sorted(elements))}" for name, elements in covered.items())
    return (
        f"structure: no bundled calculator covers {missing} (bundled: {have or 'none'}); "
        'give --model with a checkpoint, or pip install "nfflr[universal]" and --model chgnet'
    )
