"""Symmetric Cartesian tensors of rank 0 to 3: their products, and what neighbours send along bonds.

Tensors are arrays (N, 20, C): for each of C channels one scalar, and the unique components of a vector, a
matrix and a tensor of rank 3, in the order of ``moments.monomials``. A product of k tensors, each a moment of
the neighbour density, has body order k + 1 (Shapeev, Multiscale Model. Simul. 14, 1153 (2016)).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch

from .moments import full_tensor_index, monomials

RANK = 3
SIZES = (1, 3, 6, 10)  # unique components of each rank
N_TENSORS, N_SENT = 20, 10  # components up to rank 3, and up to rank 2
INVARIANT_ORDER = (2, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5)  # body orders, centre included
VECTOR_ORDER = (2, 3, 3, 4, 4, 4)
MATRIX_ORDER = (2, 3, 3, 3, 3, 4, 4)
N_INVARIANTS, N_VECTORS, N_MATRICES = len(INVARIANT_ORDER), len(VECTOR_ORDER), len(MATRIX_ORDER)
N_PRODUCTS = N_INVARIANTS + 3 * N_VECTORS + 6 * N_MATRICES
N_PATHS = 20  # radial functions of a message


@cache
def component_tables(dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Index tables of symmetric tensors, whose unique components are the monomials of their rank.

    Returns:
        how often each component of rank 2 and 3 occurs, (6, 1) and (10, 1); first and second axis of the
        components of rank 2, (6,) both; components of rank 2 as (3·3,) and of rank 3 as (3·6,).
    """
    with torch.inference_mode(False), torch.device("cpu"):  # kept for later calls, whatever their mode is
        return tuple(t.to(device) for t in _component_tables(dtype))


def _component_tables(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    first, second = torch.tensor(monomials(RANK)[4:10]).T
    rows_3 = full_tensor_index(RANK, 3).view(3, 9)[:, 3 * first + second].flatten()
    rows_2 = full_tensor_index(RANK, 2)
    counts = [torch.bincount(full_tensor_index(RANK, k)).to(dtype)[:, None] for k in (2, 3)]
    return *counts, first, second, rows_2, rows_3


def products(tensors: torch.Tensor, everything: bool) -> torch.Tensor:
    """Invariants of tensors (N, 20, C); with ``everything`` also vectors and matrices.

    Symmetric pairs of axes are summed once, with weight 2 off the diagonal.

    Returns:
        (N, 14, C), or (N, 74, C): invariants, then 3 × 6 vectors and 6 × 7 matrices, the component first.
    """
    n, _, c = tensors.shape
    s, v, m, t = tensors.split(SIZES, dim=1)
    count_2, count_3, first, second, rows_2, rows_3 = component_tables(s.dtype, s.device)
    m_full = m.index_select(1, rows_2).view(n, 3, 3, c)
    t_pairs = t.index_select(1, rows_3).view(n, 3, 6, c)  # axes a, (bc)
    m_twice, t_twice = m * count_2, t_pairs * count_2
    mv = (m_full * v[:, None]).sum(2)  # (N, 3, C)
    tm = (t_pairs * m_twice[:, None]).sum(2)  # (N, 3, C)
    tv = (t_pairs * v[:, :, None]).sum(1)  # (N, 6, C), as are mm and tt
    mm = (m_full.index_select(1, first) * m_full.index_select(1, second)).sum(2)
    tt = (t_pairs.index_select(1, first) * t_twice.index_select(1, second)).sum(2)
    invariants = [
        s.squeeze(1),  # order 2
        v.square().sum(1),  # order 3 from here
        (m * m_twice).sum(1),
        (t.square() * count_3).sum(1),
        (mv * v).sum(1),  # order 4 from here
        (mm * m_twice).sum(1),
        (tm * v).sum(1),
        (tt * m_twice).sum(1),
        mv.square().sum(1),  # order 5 from here
        tm.square().sum(1),
        (tv.square() * count_2).sum(1),
        (tm * mv).sum(1),
        (tt * mm * count_2).sum(1),
        (tt.square() * count_2).sum(1),
    ]
    if not everything:
        return torch.stack(invariants, dim=1)
    vv = v.index_select(1, first) * v.index_select(1, second)  # (N, 6, C)
    vectors = [
        *(v, mv, tm, (m_full * mv[:, None]).sum(2)),
        *((t_pairs * (x * count_2)[:, None]).sum(2) for x in (mm, vv)),
    ]
    matrices = [m, vv, mm, tv, tt, *((t_pairs * x[:, :, None]).sum(1) for x in (mv, tm))]
    parts = [
        torch.stack(invariants, dim=1),
        *(torch.stack(x, dim=2).flatten(1, 2) for x in (vectors, matrices)),
    ]
    return torch.cat(parts, dim=1)


@cache
def traceless(rank: int) -> torch.Tensor:
    """(M, M) float64 matrix P: P @ tensors removes all traces of symmetric tensors up to ``rank``.

    T_ab − δ_ab T_cc/3 and T_abc − (δ_ab T_ddc + δ_ac T_ddb + δ_bc T_dda)/5.
    """
    with torch.inference_mode(False), torch.device("cpu"):
        table = monomials(rank)
        index = {m: k for k, m in enumerate(table)}
        projection = torch.eye(len(table), dtype=torch.float64)
        for k, m in enumerate(table):
            for other in _left_of_equal_pairs(m):
                for d in range(3):
                    source = index[tuple(sorted((d, d, *other)))]
                    projection[k, source] -= 1 / 3 if len(m) == 2 else 1 / 5
        return projection


def _left_of_equal_pairs(m: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """For each pair of equal axes of a monomial, the axes that are left."""
    for a in range(len(m)):
        for b in range(a + 1, len(m)):
            if m[a] == m[b] and len(m) > 1:
                yield tuple(x for k, x in enumerate(m) if k not in (a, b))


def bond_messages(radial: torch.Tensor, unit: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """What the neighbours' tensors become along bonds.

    A neighbour's scalar h, vector h_a and matrix h_ab are contracted with the bond's unit vector u to scalars
    h, h·u, u·h·u and vectors h_a, (h·u)_a. The symmetric products of these and of h_ab with u, each times a
    radial function of its own, are the message.

    Args:
        radial: (E, 20, C).
        unit: (E, 3).
        h: (E, 10, C), components up to rank 2.

    Returns:
        (E, 20, C), traces not removed.
    """
    rows_2 = component_tables(h.dtype, h.device)[4]
    u = unit[:, :, None]  # (E, 3, 1)
    h0, h1, h2 = h.split(SIZES[:3], dim=1)
    w = (h2.index_select(1, rows_2).unflatten(1, (3, 3)) * u[:, None]).sum(2)  # (E, 3, C)
    scalars = torch.cat([h0, (h1 * u).sum(1, keepdim=True), (w * u).sum(1, keepdim=True)], dim=1)
    r = dict(zip("abcdefghijklmnopqrst", radial.unbind(1), strict=True))

    def along(names: str) -> torch.Tensor:
        return torch.stack([r[x] * scalars[:, k] for k, x in enumerate(names)]).sum(0)

    def mixed(first: str, second: str) -> torch.Tensor:
        return r[first][:, None] * h1 + r[second][:, None] * w  # (E, 3, C)

    x, z, y = mixed("l", "m"), mixed("r", "s"), r["t"][:, None] * h2
    message = [along("abc"), *(along("def")[:, None] * u + mixed("g", "h")).unbind(1)]
    second, third = along("ijk"), along("opq")
    axes = monomials(RANK)
    place = {m: k - 4 for k, m in enumerate(axes[:10])}
    for k, (a, b) in enumerate(axes[4:10]):
        message.append((second * u[:, a] + x[:, a]) * u[:, b] + x[:, b] * u[:, a] + r["n"] * h2[:, k])
    for a, b, c in axes[10:]:
        outer = third * u[:, a] * u[:, b] * u[:, c]
        for p, q, s in ((a, b, c), (b, a, c), (c, a, b)):
            outer = outer + z[:, p] * u[:, q] * u[:, s] + y[:, place[tuple(sorted((q, s)))]] * u[:, p]
        message.append(outer)
    return torch.stack(message, dim=1)
