"""An ASE calculator as an evaluator, so that it can be a term of a sum."""

from __future__ import annotations

import ase
import numpy as np
import torch
from ase.calculators.calculator import Calculator
from ase.stress import voigt_6_to_full_3x3_stress
from torch import nn

from ..errors import StructureError
from ..models.evaluator import Evaluator, Input
from ..quantities import STANDARD
from ..workflows.framework.interface import has_stress
from .foreign_calculator import _voigt


class AseEvaluator(nn.Module, Evaluator):
    """An ASE calculator as a term of a sum; it searches its own neighbours.

    Args:
        calculator: its ``elements`` and ``dtype`` count where it has them, as a ``ForeignCalculator`` does.
    """

    takes_batches = False
    cutoff = None
    anchor: torch.Tensor

    def __init__(self, calculator: Calculator):
        super().__init__()
        self.calculator = calculator
        self.elements = getattr(calculator, "elements", None) or None
        self.dtype = getattr(torch, getattr(calculator, "dtype", "float64"))
        self.key = str(calculator.name or type(calculator).__name__).lower()
        quantities = {quantity.ase_name: quantity for quantity in STANDARD}
        names = calculator.implemented_properties
        self.outputs = tuple(quantities[name] for name in names if name in quantities)
        self.register_buffer("anchor", torch.zeros(0), persistent=False)

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where results go; the calculator computes where it likes."""
        return self.anchor.device

    def forward(self, x: Input, stress: bool = True, virials: bool = False) -> dict[str, torch.Tensor]:
        """``outputs`` of one structure, float64, without gradients; the stress is zero without a volume."""
        graph = self.graph(x)
        if graph.atoms.is_batch:
            raise StructureError(f"{self.key}: a batch was given; it takes one structure at a time")
        atoms, result = graph.atoms.to_ase(), {}
        assert isinstance(atoms, ase.Atoms)  # of a single structure
        for quantity in self.outputs:
            if quantity.name != "stress":
                value = self.calculator.get_property(quantity.ase_name, atoms)
            elif not stress:
                continue
            elif has_stress(atoms):
                value = _voigt(self.calculator.get_property("stress", atoms))
                value = voigt_6_to_full_3x3_stress(value)
            else:
                value = np.zeros((3, 3))
            value = np.array(value, dtype=np.float64)
            result[quantity.name] = torch.from_numpy(value).to(self.device)
        return result
