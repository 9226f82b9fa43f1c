"""Radial basis functions of a bond length, with the derivative where it is written by hand."""

from __future__ import annotations

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


def bessel(r: torch.Tensor, n: int, cutoff: float, p: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Spherical Bessel functions times a smooth cutoff, and their derivatives with respect to r.

    φ_k(r) = √(2/r_c) sin(kπ r/r_c)/r · f_c(r/r_c), k = 1…n (Gasteiger et al., ICLR 2020, eq. 7).

    Args:
        r: (...), Å, positive.
        n: number of functions.
        cutoff: r_c, Å; the functions and two derivatives vanish there.
        p: order of the envelope.

    Returns:
        φ and dφ/dr, each (n, ...).
    """
    k = torch.arange(1, n + 1, dtype=r.dtype, device=r.device) * (math.pi / cutoff)
    k = k.view(-1, *[1] * r.dim())
    envelope, slope = polynomial_cutoff(r / cutoff, p)
    norm = math.sqrt(2 / cutoff) / r
    kr = k * r  # (n, ...)
    sine, cosine = torch.sin(kr), torch.cos(kr)
    value = norm * envelope * sine
    derivative = norm * (envelope * k * cosine + (slope / cutoff - envelope / r) * sine)
    return value, derivative


def spherical_bessel(r: torch.Tensor, n: int, cutoff: float) -> torch.Tensor:
    """√(2/r_c) sin(kπ r/r_c)/r, k = 1…n: ``bessel`` without its envelope, differentiated by autograd.

    Args:
        r: (...), Å, positive.
        n: number of functions.
        cutoff: r_c, Å; the functions vanish there, their slopes do not.

    Returns:
        (..., n), Å^-3/2.
    """
    k = torch.arange(1, n + 1, dtype=r.dtype, device=r.device) * (math.pi / cutoff)
    return torch.sin(r[..., None] * k) * (math.sqrt(2 / cutoff) / r)[..., None]


def gaussian(r: torch.Tensor, n: int, cutoff: float) -> torch.Tensor:
    """exp(−(r − μ_k)²/2Δ²) on n ≥ 2 centres μ_k from 0 to r_c, spaced by Δ; differentiated by autograd.

    Schütt et al., J. Chem. Phys. 148, 241722 (2018), with the width tied to the spacing.

    Args:
        r: (...), Å.
        n: number of functions.
        cutoff: r_c, Å; the functions do not vanish there.

    Returns:
        (..., n).
    """
    width = cutoff / (n - 1)
    k = torch.arange(n, dtype=r.dtype, device=r.device)
    return torch.exp(-0.5 * (r[..., None] / width - k).square())
