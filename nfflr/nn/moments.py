"""Moments of a neighbour density: radial functions times products of the unit bond vector.

For every atom, A_{s,b,m} = Σ_j w_{s,j} φ_b(r_j) m(r̂_j), where m runs over the monomials of r̂ up to a
rank. Nothing here is learned, so the derivative is written by hand: training then differentiates only
the small per-atom network twice, never the edges.

Edges are padded to a rectangle (N, K), one row per atom, which makes both directions small matrix
products. Arrays are component-major, e.g. (3, N, K), so that each component is contiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import combinations_with_replacement

import torch

Radial = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@cache
def monomials(rank: int) -> tuple[tuple[int, ...], ...]:
    """Axes of every monomial up to ``rank``: (), (0,), (1,), (2,), (0, 0), (0, 1), …"""
    return tuple(m for k in range(rank + 1) for m in combinations_with_replacement(range(3), k))


@cache
def _derivatives(rank: int) -> tuple[tuple[int, int, int, int], ...]:
    """(monomial, axis, power, monomial with one factor of axis less) of every nonzero ∂m/∂u_axis."""
    table = monomials(rank)
    index = {m: k for k, m in enumerate(table)}
    rows = []
    for k, m in enumerate(table):
        for axis in set(m):
            lower = list(m)
            lower.remove(axis)
            rows.append((k, axis, m.count(axis), index[tuple(lower)]))
    return tuple(rows)


def evaluate_monomials(unit: torch.Tensor, rank: int) -> torch.Tensor:
    """Monomials of unit vectors (3, N, K) → (M, N, K)."""
    table = monomials(rank)
    index = {m: k for k, m in enumerate(table)}
    values = [torch.ones_like(unit[0])]
    for m in table[1:]:
        values.append(values[index[m[:-1]]] * unit[m[-1]] if len(m) > 1 else unit[m[0]])
    return torch.stack(values)


class _Basis:
    """Everything about padded bonds (3, N, K) that holds no parameter."""

    def __init__(self, vectors: torch.Tensor, radial: Radial, rank: int):
        self.r = vectors.square().sum(0).sqrt()  # (N, K)
        self.unit = vectors / self.r  # (3, N, K)
        self.phi, self.dphi = radial(self.r)  # (B, N, K) both
        self.mono = evaluate_monomials(self.unit, rank)  # (M, N, K)


def _weighted(phi: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """w_s φ_b per bond: (S·B, N, K)."""
    return phi if weights is None else (weights[:, None] * phi).flatten(0, 1)


def _pull_back(basis: _Basis, weights: torch.Tensor | None, grad: torch.Tensor, rank: int):
    """Gradients with respect to bonds (3, N, K) and weights (S, N, K), given ∂E/∂A (N, S·B, M)."""
    d_radial = torch.bmm(grad, basis.mono.permute(1, 0, 2))  # (N, S·B, K)
    d_mono = torch.bmm(grad.transpose(1, 2), _weighted(basis.phi, weights).permute(1, 0, 2))  # (N, M, K)
    d_radial = d_radial.unflatten(1, (-1, basis.phi.shape[0]))  # (N, S, B, K)
    d_weights = None
    if weights is None:
        d_phi = d_radial.squeeze(1)
    else:
        d_weights = (d_radial * basis.phi.transpose(0, 1)[:, None]).sum(2).transpose(0, 1)  # (S, N, K)
        d_phi = (d_radial * weights.transpose(0, 1)[:, :, None]).sum(1)
    d_r = (d_phi * basis.dphi.transpose(0, 1)).sum(1)  # (N, K)
    d_unit = [torch.zeros_like(basis.r)] * 3
    for m, axis, power, lower in _derivatives(rank):
        d_unit[axis] = torch.addcmul(d_unit[axis], d_mono[:, m], basis.mono[lower], value=power)
    d_units = torch.stack(d_unit)  # (3, N, K)
    radial_part = (d_units * basis.unit).sum(0)
    return (d_units - radial_part * basis.unit) / basis.r + d_r * basis.unit, d_weights


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(ctx, vectors, weights, radial, rank, constant_bonds):
        basis = _Basis(vectors, radial, rank)
        ctx.save_for_backward(vectors, *(() if weights is None else (weights,)))
        ctx.basis, ctx.settings = basis, (radial, rank, constant_bonds)
        left = _weighted(basis.phi, weights).permute(1, 0, 2)  # (N, S·B, K)
        return torch.bmm(left, basis.mono.permute(1, 2, 0))

    @staticmethod
    def backward(ctx, grad):
        vectors, *others = ctx.saved_tensors
        weights = others[0] if others else None
        radial, rank, constant_bonds = ctx.settings
        # Rebuilding the basis on the graph makes second derivatives with respect to bonds right
        # (Hessians); a loss needs none, and leaving them out is most of a training step's saving.
        rebuild = torch.is_grad_enabled() and not constant_bonds
        basis = _Basis(vectors, radial, rank) if rebuild else ctx.basis
        return *_pull_back(basis, weights, grad, rank), None, None, None


def density_moments(
    vectors: torch.Tensor,
    weights: torch.Tensor | None,
    radial: Radial,
    rank: int,
    constant_bonds: bool = False,
) -> torch.Tensor:
    """Moments A_{sb,m} of each atom's neighbours.

    Args:
        vectors: padded bond vectors (3, N, K), Å; padding must lie where ``radial`` vanishes.
        weights: (S, N, K) per bond, or None for a single weight of one.
        radial: r (N, K) → φ (B, N, K) and dφ/dr (B, N, K).
        rank: highest degree of the monomials.
        constant_bonds: leave second derivatives with respect to ``vectors`` out (correct for training
            on forces, where only parameters are differentiated twice).

    Returns:
        (N, S·B, M) with M = number of ``monomials(rank)``.
    """
    return _Moments.apply(vectors, weights, radial, rank, constant_bonds)


@cache
def traceless_projection(rank: int) -> torch.Tensor:
    """(M, M) float64 matrix P: (monomial moments) @ P have zero trace at ranks 2 and 3.

    T2_ab − δ_ab T0/3 and T3_abc − (δ_ab T1_c + δ_ac T1_b + δ_bc T1_a)/5; traces of products of a unit
    vector are the lower moments themselves.
    """
    with torch.inference_mode(False), torch.device("cpu"):  # kept for later calls, whatever their mode is
        return _traceless_projection(rank)


def _traceless_projection(rank: int) -> torch.Tensor:
    table = monomials(rank)
    index = {m: k for k, m in enumerate(table)}
    projection = torch.eye(len(table), dtype=torch.float64)
    for k, m in enumerate(table):
        if len(m) == 2 and m[0] == m[1]:
            projection[index[()], k] -= 1 / 3
        if len(m) == 3:
            for first, second, other in ((0, 1, 2), (0, 2, 1), (1, 2, 0)):
                if m[first] == m[second]:
                    projection[index[(m[other],)], k] -= 1 / 5
    return projection


def full_tensor_index(rank: int, order: int) -> torch.Tensor:
    """Position, among the monomials of degree ``order``, of each of the 3^order Cartesian components."""
    same = [m for m in monomials(rank) if len(m) == order]
    grid = torch.cartesian_prod(*[torch.arange(3)] * order).reshape(-1, order)
    return torch.tensor([same.index(tuple(sorted(row.tolist()))) for row in grid])
