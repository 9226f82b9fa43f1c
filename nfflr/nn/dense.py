"""Dense layers and activations of message-passing networks."""

from __future__ import annotations

import math

import torch
from torch import nn


def shifted_softplus(x: torch.Tensor) -> torch.Tensor:
    """ln(½ eˣ + ½), any shape: smooth, zero at zero.

    Schütt et al., J. Chem. Phys. 148, 241722 (2018).
    """
    return nn.functional.softplus(x) - math.log(2)


class ShiftedSoftplus(nn.Module):
    """``shifted_softplus`` as a layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return shifted_softplus(x)


def dense(n_in: int, n_out: int, bias: bool = True) -> nn.Linear:
    """Linear layer that keeps the variance of its input: Glorot weights, zero bias.

    Glorot and Bengio, AISTATS 2010.
    """
    layer = nn.Linear(n_in, n_out, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class ExactBuffers(nn.Module):
    """A module whose buffers named in ``exact`` follow it to another device, but keep their dtype."""

    exact: tuple[str, ...] = ()

    def _apply(self, fn, recurse=True):
        buffers = {name: getattr(self, name) for name in self.exact}
        super()._apply(fn, recurse)
        for name, value in buffers.items():
            setattr(self, name, value.to(getattr(self, name).device))
        return self
