"""Bonds as a rectangle (N, K), one row per atom, so that sums over neighbours are small matrix products."""

import torch


def pad_bonds(
    dst: torch.Tensor, n: int, vectors: torch.Tensor, cutoff: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Bond vectors (E, 3) as (3, N, K), and the slot in (N·K) of each bond, (E,).

    Empty slots hold a bond of length ``cutoff``, where every basis function vanishes.

    Args:
        dst: (E,) centre of each bond, ascending.
        n: number of atoms N; K is the largest number of neighbours, at least one.
        vectors: (E, 3), Å.
        cutoff: Å.
    """
    degree = torch.bincount(dst, minlength=n)
    k = max(1, int(degree.max()) if n else 1)
    first = degree.cumsum(0) - degree
    rank = torch.arange(len(dst), device=dst.device) - first.index_select(0, dst)
    slots = dst * k + rank  # (E,)
    fill = vectors.new_tensor([cutoff, 0.0, 0.0]).expand(n * k, 3)
    padded = fill.index_copy(0, slots, vectors)
    return padded.view(n, k, 3).permute(2, 0, 1).contiguous(), slots


def pad_weights(weights: torch.Tensor, slots: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Per-bond weights (E, S) as (S, N, K), zero in empty slots; ``shape`` is (N, K)."""
    padded = weights.new_zeros(shape.numel(), weights.shape[1]).index_copy(0, slots, weights)
    return padded.view(*shape, -1).permute(2, 0, 1).contiguous()
