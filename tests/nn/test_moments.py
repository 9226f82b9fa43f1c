"""Density moments: the sum they stand for, and first and second derivatives written by hand."""

import string
from functools import partial
from math import comb

import pytest
import torch

from nfflr.nn.moments import (
    density_moments,
    evaluate_monomials,
    full_tensor_index,
    monomials,
    traceless_projection,
)
from nfflr.nn.radial import bessel

CUTOFF = 4.0
RADIAL = partial(bessel, n=3, cutoff=CUTOFF)


def bonds(atoms=4, neighbours=6, channels=2, seed=0):
    """Padded bonds (3, N, K) between 1 Å and the cutoff, and weights (S, N, K)."""
    generator = torch.Generator().manual_seed(seed)
    unit = torch.randn(3, atoms, neighbours, dtype=torch.float64, generator=generator)
    length = 1 + 2.5 * torch.rand(atoms, neighbours, dtype=torch.float64, generator=generator)
    weights = torch.randn(channels, atoms, neighbours, dtype=torch.float64, generator=generator)
    return unit / unit.norm(dim=0) * length, weights


def defined(vectors, weights, rank):
    """A_{n,sb,m} = Σ_k w_snk φ_bnk Π_axes û, one full Cartesian tensor per degree, then its components."""
    r = vectors.norm(dim=0)
    phi, unit = RADIAL(r)[0], vectors / r
    weights = torch.ones_like(r)[None] if weights is None else weights
    columns = []
    for degree in range(rank + 1):
        axes = string.ascii_lowercase[:degree]
        factors = "".join(f",{axis}NK" for axis in axes)
        tensor = torch.einsum(f"SNK,BNK{factors}->NSB{axes}", weights, phi, *[unit] * degree)
        columns += [tensor.flatten(1, 2)[(..., *m)] for m in monomials(rank) if len(m) == degree]
    return torch.stack(columns, dim=2)


@pytest.mark.parametrize("rank", [0, 1, 2, 3, 4])
def test_monomials_are_all_sorted_products_in_order_of_degree(rank):
    table = monomials(rank)
    assert len(set(table)) == len(table) == comb(rank + 3, 3)
    assert [len(m) for m in table] == sorted(len(m) for m in table)
    assert all(tuple(sorted(m)) == m for m in table)
    unit = bonds()[0]
    values = evaluate_monomials(unit, rank)
    for k, m in enumerate(table):
        assert torch.allclose(values[k], unit[list(m)].prod(0), rtol=1e-14, atol=0)


@pytest.mark.parametrize("rank", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_moments_are_the_sum_over_neighbours(rank, weighted):
    vectors, weights = bonds()
    weights = weights if weighted else None
    result = density_moments(vectors, weights, RADIAL, rank)
    assert torch.allclose(result, defined(vectors, weights, rank), rtol=0, atol=1e-13)


@pytest.mark.parametrize("rank", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_first_derivatives_are_those_of_the_definition(rank, weighted):
    vectors, weights = bonds(seed=1)
    inputs = (vectors, weights) if weighted else (vectors,)
    for tensor in inputs:
        tensor.requires_grad_()
    weights = weights if weighted else None
    expected = defined(vectors, weights, rank)
    generator = torch.Generator().manual_seed(2)
    upstream = torch.randn(expected.shape, dtype=torch.float64, generator=generator)
    for constant_bonds in (False, True):
        result = density_moments(vectors, weights, RADIAL, rank, constant_bonds)
        ours = torch.autograd.grad(result, inputs, upstream)
        theirs = torch.autograd.grad(expected, inputs, upstream, retain_graph=True)
        for a, b in zip(ours, theirs, strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_first_and_second_derivatives_agree_with_finite_differences(weighted):
    vectors, weights = bonds(atoms=2, neighbours=2, seed=3)
    inputs = (vectors, weights) if weighted else (vectors,)
    for tensor in inputs:
        tensor.requires_grad_()

    def moments(vectors, weights=None):
        return density_moments(vectors, weights, RADIAL, 3)

    assert torch.autograd.gradcheck(moments, inputs)
    assert torch.autograd.gradgradcheck(moments, inputs)


def energy_and_slopes(vectors, weights, constant_bonds):
    """A nonlinear energy of the moments and its bond gradient, as in training on forces."""
    moments = density_moments(vectors, weights, RADIAL, 3, constant_bonds)
    energy = moments.square().sum(2).sqrt().sum()
    return torch.autograd.grad(energy, vectors, create_graph=True)[0]


def test_hessian_is_complete_and_symmetric():
    vectors, weights = bonds(atoms=2, neighbours=3, seed=4)
    vectors.requires_grad_()

    def energy(flat):
        return density_moments(flat.view_as(vectors), weights, RADIAL, 3).square().sum()

    def reference(flat):
        return defined(flat.view_as(vectors), weights, 3).square().sum()

    flat = vectors.detach().flatten()
    ours = torch.autograd.functional.hessian(energy, flat)
    theirs = torch.autograd.functional.hessian(reference, flat)
    scale = theirs.abs().max()
    assert (ours - theirs).abs().max() < 1e-10 * scale
    assert (ours - ours.T).abs().max() < 1e-10 * scale


def test_constant_bonds_keep_the_weight_gradient_of_a_force_loss():
    vectors, weights = bonds(seed=5)
    vectors.requires_grad_()
    weights.requires_grad_()
    target = torch.linspace(-1, 1, vectors.numel(), dtype=torch.float64).view_as(vectors)

    def loss(weights, constant_bonds=True):
        return (energy_and_slopes(vectors, weights, constant_bonds) - target).square().sum()

    (gradient,) = torch.autograd.grad(loss(weights), weights)
    (complete,) = torch.autograd.grad(loss(weights, constant_bonds=False), weights)
    assert torch.allclose(gradient, complete, rtol=0, atol=1e-11 * complete.abs().max())
    direction = torch.sin(torch.arange(weights.numel(), dtype=torch.float64)).view_as(weights)
    h = 1e-4
    near, far = (loss(weights + d * direction) - loss(weights - d * direction) for d in (h, 2 * h))
    slope = (gradient * direction).sum().item()
    assert ((8 * near - far) / (12 * h)).item() == pytest.approx(slope, rel=1e-8)


def test_padding_at_the_cutoff_adds_nothing_and_feels_nothing():
    vectors, weights = bonds(seed=6)
    fill = torch.tensor([CUTOFF, 0, 0], dtype=torch.float64)[:, None, None].expand(3, vectors.shape[1], 2)
    padded = torch.cat([vectors, fill], dim=2).requires_grad_()
    extra = torch.cat([weights, torch.ones_like(weights[:, :, :2])], dim=2)
    result = density_moments(padded, extra, RADIAL, 3)
    assert torch.allclose(result, density_moments(vectors, weights, RADIAL, 3), rtol=0, atol=1e-13)
    (slope,) = torch.autograd.grad(result.sum(), padded)
    assert slope[:, :, -2:].abs().max() < 1e-12 < slope.abs().max()


def full_tensors(moments):
    """Cartesian tensors (N, C, 3, …) of degree 0 to 3 from monomial moments (N, C, 20)."""
    parts = moments.split([1, 3, 6, 10], dim=2)
    shape = moments.shape[:2]
    return [
        part[:, :, full_tensor_index(3, k)].view(*shape, *[3] * k) if k else part[:, :, 0]
        for k, part in enumerate(parts)
    ]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_full_tensor_index_unfolds_a_symmetric_tensor(order):
    u = torch.tensor([0.3, -0.5, 0.7], dtype=torch.float64)
    independent = torch.stack([u[list(m)].prod() for m in monomials(order) if len(m) == order])
    axes = "abc"[:order]
    outer = torch.einsum(",".join(axes) + "->" + axes, *[u] * order)
    assert torch.allclose(independent[full_tensor_index(3, order)].view([3] * order), outer, rtol=1e-14)


def test_projected_moments_are_the_traceless_parts():
    vectors, weights = bonds(seed=7)
    moments = density_moments(vectors, weights, RADIAL, 3)
    before, after = full_tensors(moments), full_tensors(moments @ traceless_projection(3))
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
    assert torch.einsum("...aa", before[2]).abs().max() > 1e-3
    assert torch.einsum("...aa", after[2]).abs().max() < 1e-13
    assert torch.einsum("...aab->...b", before[3]).abs().max() > 1e-3
    for trace in ("...aab->...b", "...aba->...b", "...baa->...b"):
        assert torch.einsum(trace, after[3]).abs().max() < 1e-13


def test_the_traceless_part_is_an_orthogonal_projection_of_the_tensor():
    vectors, weights = bonds(seed=8)
    moments = density_moments(vectors, weights, RADIAL, 3)
    before, after = full_tensors(moments), full_tensors(moments @ traceless_projection(3))
    eye = torch.eye(3, dtype=torch.float64)
    trace = torch.einsum("...aa", before[2])
    assert torch.allclose(after[2], before[2] - trace[..., None, None] * eye / 3, rtol=0, atol=1e-13)
    for rank in (2, 3):
        kept, removed = after[rank].flatten(2), (before[rank] - after[rank]).flatten(2)
        assert (kept * removed).sum(2).abs().max() < 1e-12 < removed.abs().max()


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_projection_of_lower_ranks_is_a_corner_of_that_of_rank_three(rank):
    small = traceless_projection(rank)
    assert torch.equal(small, traceless_projection(3)[: len(small), : len(small)])
