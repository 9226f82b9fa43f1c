"""Pairs of bonds that share an atom: what angles are made of."""

import torch


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
