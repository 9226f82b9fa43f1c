"""Sums over the ranks of a data-parallel run; all of it does nothing in a single process.

Ranks share each batch, and a gradient is that of the loss of the whole batch: every rank adds its part of it
(ignite.distributed carries the numbers), where averaging gradients of unequal parts would be another loss.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar, cast

import ignite.distributed as idist
import torch

T = TypeVar("T")


def is_first() -> bool:
    """Whether this process writes the files."""
    return idist.get_rank() == 0


def share(items: list) -> list:
    """This rank's part of a list, every world-size-th item; parts may differ in length by one."""
    return items[idist.get_rank() :: idist.get_world_size()]


def total(values: torch.Tensor) -> torch.Tensor:
    """Sum over ranks of a tensor of any shape."""
    return cast(torch.Tensor, idist.all_reduce(values)) if idist.get_world_size() > 1 else values


def gathered(item: T) -> list[T]:
    """One picklable object of each rank, by rank; only processes of this run exchange them."""
    return cast(list[T], idist.all_gather(item)) if idist.get_world_size() > 1 else [item]


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace each gradient by its sum over ranks; a parameter without one anywhere keeps none."""
    if idist.get_world_size() == 1:
        return
    parameters = list(parameters)
    flat = torch.cat([_or_zero(p).flatten() for p in parameters])
    known = torch.tensor(
        [float(p.grad is not None) for p in parameters], device=flat.device, dtype=flat.dtype
    )
    both = total(torch.cat([flat, known]))
    sums = both[: len(flat)].split([p.numel() for p in parameters])
    for parameter, values, has in zip(parameters, sums, both[len(flat) :].tolist(), strict=True):
        # Joined they have the highest precision among them; a gradient has its parameter's.
        parameter.grad = values.view_as(parameter).to(parameter, copy=True) if has else None


def _or_zero(parameter: torch.nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
