"""Parameter tables by chemical symbols: "Si", "C-Si", "C-Si-Si", centre first where there is one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations_with_replacement

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from ..base import PotentialConfig


class Parameters(BaseModel):
    """Base of one row of a table."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def keys(*symbols: str) -> list[str]:
    """Names under which an unordered pair may stand: "C-Si" and "Si-C"."""
    return ["-".join(symbols), "-".join(reversed(symbols))]


def find(table: Mapping, names: Iterable[str]):
    """The row under the first of ``names`` that the table has, else None."""
    return next((table[name] for name in names if name in table), None)


def check_symbols(field: str, table: Mapping, elements: tuple[str, ...], sizes: tuple[int, ...]) -> None:
    """Refuse rows that name elements outside the model, and names of the wrong length.

    Raises:
        ValueError: naming field and row.
    """
    for name in table:
        symbols = name.split("-")
        if len(symbols) not in sizes or not set(symbols) <= set(elements):
            example = "-".join(elements[:1] * sizes[0])
            raise ValueError(f"{field}: row {name!r}; expected elements of {elements}, as in {example!r}")


def check_complete(field: str, table: Mapping, rows: Iterable[Sequence[str]]) -> None:
    """A table is empty (defaults) or has a row for each of ``rows``, each a list of equivalent names.

    Raises:
        ValueError: naming the first row that is missing.
    """
    missing = [names[0] for names in rows if find(table, names) is None] if table else []
    if missing:
        raise ValueError(f"{field}: row {missing[0]!r} is missing; give all rows, or none for the defaults")


def settle_cutoff(config: PotentialConfig, reach: float) -> None:
    """Set ``config.cutoff`` to the longest range of the parameters.

    Raises:
        ValueError: another cutoff was asked for.
    """
    if "cutoff" in config.model_fields_set and not math.isclose(config.cutoff, reach, rel_tol=1e-12):
        raise ValueError(f"cutoff: got {config.cutoff}, but the parameters reach {reach:g} Å; leave it out")
    object.__setattr__(config, "cutoff", reach)  # frozen for everybody else


def unordered_pairs(n: int) -> tuple[list[tuple[int, int]], torch.Tensor]:
    """All pairs i ≤ j of n elements, P of them, and the (n, n) table of their positions."""
    pairs = list(combinations_with_replacement(range(n), 2))
    index = torch.zeros(n, n, dtype=torch.int64)
    for position, (i, j) in enumerate(pairs):
        index[i, j] = index[j, i] = position
    return pairs, index


def weight(values: Iterable[float]) -> nn.Parameter:
    """Published numbers as trainable float64."""
    return nn.Parameter(torch.tensor(list(values), dtype=torch.float64))


def constant(values: Iterable[float]) -> torch.Tensor:
    """Published numbers that stay fixed, float64."""
    return torch.tensor(list(values), dtype=torch.float64)
