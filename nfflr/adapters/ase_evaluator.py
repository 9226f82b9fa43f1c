"""An ASE calculator as an evaluator, so that it can be a term of a sum."""

from __future__ import annotations

import ase
import numpy as np
import torch
from ase.calculators.calculator import Calculator
from ase.stress import voigt_6_to_full_3x3_stress

from ..models.evaluator import Input
from ..quantities import STANDARD, Quantity
from ..workflows.framework.interface import has_stress
from .foreign_calculator import as_voigt
from .wrapped import Foreign


class AseEvaluator(Foreign):
    """An ASE calculator as a term of a sum; it searches its own neighbours, and computes where it likes.

    Args:
        calculator: its ``elements`` and ``dtype`` count where it has them, as a ``ForeignCalculator`` does.
    """

    cutoff = None
    elements: tuple[str, ...] | None
    dtype: torch.dtype
    key: str
    outputs: tuple[Quantity, ...]

    def __init__(self, calculator: Calculator):
        super().__init__(torch.zeros(0))
        self.calculator = calculator
        self.elements = getattr(calculator, "elements", None) or None
        self.dtype = getattr(torch, getattr(calculator, "dtype", "float64"))
        self.key = str(calculator.name or type(calculator).__name__).lower()
        quantities = {quantity.ase_name: quantity for quantity in STANDARD}
        names = calculator.implemented_properties
        self.outputs = tuple(quantities[name] for name in names if name in quantities)

    def forward(self, x: Input, stress: bool = True, virials: bool = False) -> dict[str, torch.Tensor]:
        """``outputs`` of one structure, float64, without gradients; the stress is zero without a volume."""
        atoms, result = self.graph(x).atoms.to_ase(), {}
        assert isinstance(atoms, ase.Atoms)  # of a single structure
        for quantity in self.outputs:
            if quantity.name != "stress":
                value = self.calculator.get_property(quantity.ase_name, atoms)
            elif not stress:
                continue
            elif has_stress(atoms):
                value = voigt_6_to_full_3x3_stress(as_voigt(self.calculator.get_property("stress", atoms)))
            else:
                value = np.zeros((3, 3))
            result[quantity.name] = torch.tensor(value, dtype=torch.float64, device=self.device)
        return result
