"""Radial basis functions of a bond length, with the derivative where it is written by hand."""

import math

import torch

from .cutoff import polynomial_cutoff


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
