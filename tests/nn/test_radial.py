"""Radial functions: the published formula, their derivatives, and their end at the cutoff."""

import math

import pytest
import torch

from nfflr.nn.radial import bessel, polynomial_cutoff

CUTOFF = 4.7


def distances(low, high, n=200):
    return torch.linspace(low, high, n, dtype=torch.float64, requires_grad=True)


def test_bessel_is_the_published_formula():
    r = distances(0.3, CUTOFF)
    value, _ = bessel(r, 5, CUTOFF, p=5)
    envelope, _ = polynomial_cutoff(r / CUTOFF, 5)
    for k in range(1, 6):  # Gasteiger et al., ICLR 2020, eq. 7
        expected = math.sqrt(2 / CUTOFF) * torch.sin(k * math.pi / CUTOFF * r) / r * envelope
        assert torch.allclose(value[k - 1], expected, rtol=0, atol=1e-12)


def test_bessel_functions_are_orthonormal_without_their_envelope():
    # ∫ φ_k φ_l r² dr over the sphere's radius: what the normalisation √(2/r_c) is for.
    n = 2000
    r = (torch.arange(n, dtype=torch.float64) + 0.5) * (CUTOFF / n)
    plain = bessel(r, 6, CUTOFF)[0] / polynomial_cutoff(r / CUTOFF)[0]
    overlap = (plain[:, None] * plain * r.square()).sum(2) * (CUTOFF / n)
    assert torch.allclose(overlap, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("p", [3, 6, 9])
def test_bessel_derivative_is_the_derivative_of_the_value(p):
    r = distances(0.2, CUTOFF - 0.01)
    value, derivative = bessel(r, 8, CUTOFF, p)
    for k in range(8):
        (automatic,) = torch.autograd.grad(value[k].sum(), r, retain_graph=True)
        assert torch.allclose(derivative[k], automatic, rtol=1e-10, atol=1e-10)


def test_bessel_derivative_agrees_with_five_point_differences():
    r, h = distances(0.5, CUTOFF - 0.1).detach(), 1e-3
    near, far = (bessel(r + d, 8, CUTOFF)[0] - bessel(r - d, 8, CUTOFF)[0] for d in (h, 2 * h))
    _, derivative = bessel(r, 8, CUTOFF)
    assert torch.allclose((8 * near - far) / (12 * h), derivative, rtol=0, atol=1e-8 * derivative.abs().max())


@pytest.mark.parametrize("p", [3, 6, 9])
def test_value_and_two_derivatives_vanish_at_the_cutoff(p):
    r = torch.tensor([CUTOFF], dtype=torch.float64, requires_grad=True)
    value, derivative = bessel(r, 8, CUTOFF, p)
    assert value.abs().max() < 1e-12 and derivative.abs().max() < 1e-12
    for k in range(8):
        (second,) = torch.autograd.grad(derivative[k].sum(), r, retain_graph=True)
        assert second.abs() < 1e-10


def test_nothing_is_left_beyond_the_cutoff():
    value, derivative = bessel(torch.tensor([CUTOFF + 1e-9, 1.5 * CUTOFF], dtype=torch.float64), 8, CUTOFF)
    assert value.abs().max() < 1e-12 and derivative.abs().max() < 1e-12


def test_functions_come_first_and_the_dtype_is_kept():
    for dtype in (torch.float32, torch.float64):
        r = 1 + torch.rand(3, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))
        for result in bessel(r, 5, CUTOFF):
            assert result.shape == (5, 3, 4) and result.dtype == dtype
