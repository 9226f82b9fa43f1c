"""Energies, forces and stresses of many independent structures, as batches where the calculator can."""

from __future__ import annotations

from collections.abc import Iterable

import ase
from ase.calculators.calculator import Calculator

from .base import has_stress


def evaluate(calculator: Calculator, structures: Iterable[ase.Atoms]) -> list[dict]:
    """Results of each structure: ``energy`` (eV), ``forces`` (N, 3) (eV/Å), ``stress`` (6,) if there is one.

    A calculator with a method ``evaluate(structures)`` (``NFFLrCalculator``) is given all of them at once and
    bounds its memory itself; any other is called once per structure. Forces are raw: constraints do not act.

    Raises:
        StructureError, NumericsError: as the calculator does.
    """
    if hasattr(calculator, "evaluate"):
        return calculator.evaluate(structures)
    return [_single(calculator, atoms) for atoms in structures]


def _single(calculator: Calculator, atoms: ase.Atoms) -> dict:
    names = ["energy", "forces"]
    if has_stress(atoms) and "stress" in calculator.implemented_properties:
        names.append("stress")
    return {name: calculator.get_property(name, atoms) for name in names}
