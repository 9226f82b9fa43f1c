"""Bonds as a rectangle (N, K), one row per atom, so that sums over neighbours are small matrix products."""

from __future__ import annotations

import torch


def bond_slots(dst: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each bond is in the rectangle: slots (E,) into (N·K), and the columns 0…K−1, (K,).

    Args:
        dst: (E,) centre of each bond, ascending.
        n: number of atoms N; K is the largest number of neighbours, at least two (a compiled graph would
            take a size of one for a constant).
    """
    degree = torch.bincount(dst, minlength=n)
    k = max(2, int(degree.max()) if n else 2)
    offset = torch.arange(n, device=dst.device) * k - (degree.cumsum(0) - degree)  # (N,)
    count = torch.arange(max(k, len(dst)), device=dst.device)
    return count[: len(dst)] + offset.index_select(0, dst), count[:k]


def pad_bonds(
    vectors: torch.Tensor, slots: torch.Tensor, shape: tuple[int, int], cutoff: float
) -> torch.Tensor:
    """Bond vectors (E, 3), Å, as (3, N, K); ``shape`` is (N, K).

    Empty slots hold a bond of length ``cutoff`` (Å), where every basis function vanishes.
    """
    n, k = shape
    fill = vectors.new_tensor([cutoff, 0.0, 0.0]).expand(n * k, 3)
    return fill.index_copy(0, slots, vectors).view(n, k, 3).permute(2, 0, 1).contiguous()


def pad_weights(weights: torch.Tensor, slots: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Per-bond weights (E, S) as (S, N, K), zero in empty slots; ``shape`` is (N, K)."""
    padded = weights.new_zeros(shape[0] * shape[1], weights.shape[1]).index_copy(0, slots, weights)
    return padded.view(*shape, -1).permute(2, 0, 1).contiguous()


def bond_pairs(dst: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All ordered pairs of different bonds with the same centre.

    Args:
        dst: (E,) centre of each bond, ascending.
        n: number of atoms.

    Returns:
        first and second bond of each pair, both (T,) with T = Σ_i d_i (d_i − 1), sorted by ``first``.
    """
    degree = torch.bincount(dst, minlength=n)  # (N,)
    start = degree.cumsum(0) - degree
    repeat = degree.index_select(0, dst)  # (E,), bonds at the same centre, itself included
    first = torch.arange(len(dst), device=dst.device).repeat_interleave(repeat)
    offset = repeat.cumsum(0) - repeat
    within = torch.arange(len(first), device=dst.device) - offset.repeat_interleave(repeat)
    second = start.index_select(0, dst).index_select(0, first) + within
    different = (first != second).nonzero().squeeze(1)
    return first.index_select(0, different), second.index_select(0, different)
