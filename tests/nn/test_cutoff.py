"""Switching functions: the published polynomial, the slopes, and how smoothly they end."""

import pytest
import torch

from nfflr.nn.radial import polynomial_cutoff, smoothstep

ORDERS = (3, 4, 6, 10)


def grid(low, high, n=201):
    return torch.linspace(low, high, n, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("p", ORDERS)
def test_polynomial_cutoff_is_the_published_envelope(p):
    x = grid(0, 1)
    # Gasteiger et al., ICLR 2020, eq. 8, written as printed there.
    expected = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
    value, _ = polynomial_cutoff(x, p)
    assert torch.allclose(value, expected, rtol=0, atol=1e-12)
    assert value[0] == 1 and abs(value[-1]) < 1e-13
    assert (value.diff() <= 1e-14).all()  # it only ever falls


@pytest.mark.parametrize("p", ORDERS)
def test_polynomial_slope_is_the_derivative_of_the_value(p):
    x = grid(0.01, 0.99)
    value, slope = polynomial_cutoff(x, p)
    (automatic,) = torch.autograd.grad(value.sum(), x)
    assert torch.allclose(slope, automatic, rtol=0, atol=1e-11)


@pytest.mark.parametrize("p", ORDERS)
def test_polynomial_and_two_derivatives_vanish_at_the_cutoff(p):
    x = torch.ones(1, dtype=torch.float64, requires_grad=True)
    value, slope = polynomial_cutoff(x, p)
    (second,) = torch.autograd.grad(slope.sum(), x)
    assert max(abs(value.item()), abs(slope.item()), abs(second.item())) < 1e-12
    # Not only at the point: the last stretch falls like the cube of the distance to the cutoff.
    near, nearer = (polynomial_cutoff(torch.tensor(1 - d, dtype=torch.float64), p)[0] for d in (2e-3, 1e-3))
    assert near / nearer == pytest.approx(8, rel=0.03)


def test_polynomial_is_zero_beyond_the_cutoff():
    x = torch.tensor([1.0, 1.0 + 1e-12, 1.5, 1e6], dtype=torch.float64)
    value, slope = polynomial_cutoff(x)
    assert value.abs().max() < 1e-13 and slope.abs().max() == 0


def test_smoothstep_slope_is_the_derivative_of_the_value():
    x = grid(0.01, 0.99)
    value, slope = smoothstep(x)
    (automatic,) = torch.autograd.grad(value.sum(), x)
    assert torch.allclose(slope, automatic, rtol=0, atol=1e-12)


def test_smoothstep_rises_from_zero_to_one_and_is_antisymmetric_about_the_middle():
    x = grid(-1, 2)
    value, slope = smoothstep(x)
    assert (value[x <= 0] == 0).all() and (value[x >= 1] - 1).abs().max() < 1e-15
    assert (slope[(x <= 0) | (x >= 1)] == 0).all() and (slope >= 0).all()
    assert torch.allclose(value + smoothstep(1 - x)[0], torch.ones_like(x), rtol=0, atol=1e-14)


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_smoothstep_is_twice_differentiable_at_its_ends(end):
    x = torch.tensor([end], dtype=torch.float64, requires_grad=True)
    _, slope = smoothstep(x)
    (second,) = torch.autograd.grad(slope.sum(), x)
    assert slope.item() == 0 and second.item() == 0
    inside = torch.tensor(abs(end - 1e-4), dtype=torch.float64)
    assert smoothstep(inside)[1] < 1e-6  # 30 d², so the slope has no jump either


@pytest.mark.parametrize("function", [polynomial_cutoff, smoothstep])
def test_shape_and_dtype_are_those_of_the_argument(function):
    for dtype in (torch.float32, torch.float64):
        for result in function(torch.rand(2, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))):
            assert result.shape == (2, 3) and result.dtype == dtype
