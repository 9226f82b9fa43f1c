"""Smooth switching functions of a distance, with the derivative where it is written by hand."""

import math

import torch


def polynomial_cutoff(x: torch.Tensor, p: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Envelope falling from 1 at x = 0 to 0 at x = 1, twice continuously differentiable there.

    Gasteiger et al., *Directional message passing for molecular graphs*, ICLR 2020, eq. 8.

    Args:
        x: r / cutoff, any shape; 0 is returned for x ≥ 1.
        p: the order; larger keeps the envelope near 1 for longer.

    Returns:
        value and d(value)/dx, shaped like ``x``.
    """
    x = x.clamp(max=1.0)
    a, b, c = (p + 1) * (p + 2) / 2, p * (p + 2), p * (p + 1) / 2
    x_p1 = x ** (p - 1)
    value = 1 - x_p1 * x * (a - x * (b - c * x))
    slope = -a * p * x_p1 * (1 - x).square()
    return value, slope


def smoothstep(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quintic step from 0 (x ≤ 0) to 1 (x ≥ 1), twice continuously differentiable everywhere.

    Returns:
        value and d(value)/dx, shaped like ``x``.
    """
    x = x.clamp(0.0, 1.0)
    value = x * x * x * (10 - x * (15 - 6 * x))
    slope = 30 * (x * (1 - x)).square()
    return value, slope


def cosine_cutoff(x: torch.Tensor) -> torch.Tensor:
    """½ (1 + cos πx), falling from 1 at x = 0 to 0 at x = 1 with zero slope; 0 beyond.

    Behler, J. Chem. Phys. 134, 074106 (2011). The second derivative jumps at x = 1.

    Args:
        x: r / cutoff, any shape.

    Returns:
        values shaped like ``x``; autograd differentiates them.
    """
    return 0.5 * (1 + torch.cos(math.pi * x.clamp(max=1.0)))
