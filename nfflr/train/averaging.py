"""Averages of the weights along a run: exponential, even (SWA), and the Gaussian around them (SWAG)."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim.swa_utils import AveragedModel


def averaged(model: nn.Module, decay: float, even_from: float = math.inf) -> AveragedModel:
    """A copy of ``model`` that follows it as an average.

    Args:
        decay: of the exponential average, whose memory grows from a few steps to 1/(1 − decay).
        even_from: step from which all weights count the same instead: stochastic weight averaging (Izmailov
            et al., UAI 2018).
    """

    @torch.no_grad()
    def update(averages, current, count):
        n = int(count)
        even = n >= even_from
        keep = 1 - 1 / (n - even_from + 1) if even else min(decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(averages, current, 1 - keep)

    return AveragedModel(model, multi_avg_fn=update)


class Swag:
    """Gaussian over weights from the last part of a run (Maddox et al., NeurIPS 2019).

    Keeps mean and second moment of all collected weights θ (P,), float64, and the last ``rank`` deviations D
    from the running mean. A sample is mean + (Σ_diag^½ z₁ + D z₂ / √(K − 1)) / √2, with z₁ (P,) and z₂ (K,)
    normal.
    """

    def __init__(self, model: nn.Module, rank: int):
        size = sum(p.numel() for p in model.parameters())
        self.rank, self.count = rank, 0
        self.mean, self.square = torch.zeros(2, size, dtype=torch.float64)  # (P,)
        self.deviations = torch.zeros(0, size, dtype=torch.float64)  # (K, P), newest last

    @torch.no_grad()
    def collect(self, model: nn.Module) -> None:
        """Add the weights that ``model`` has now."""
        weights = parameters_to_vector(model.parameters()).cpu().double()
        self.count += 1
        self.mean = torch.lerp(self.mean, weights, 1 / self.count)
        self.square = torch.lerp(self.square, weights.square(), 1 / self.count)
        self.deviations = torch.cat([self.deviations, (weights - self.mean)[None]])[-self.rank :]

    @torch.no_grad()
    def sample(self, model: nn.Module, generator: torch.Generator) -> None:
        """Overwrite the weights of ``model`` by a draw."""
        first = torch.randn(self.mean.shape, generator=generator, dtype=torch.float64)
        second = torch.randn(len(self.deviations), generator=generator, dtype=torch.float64)
        diagonal = (self.square - self.mean.square()).clamp(min=0).sqrt() * first
        low_rank = self.deviations.T @ second / math.sqrt(max(1, len(self.deviations) - 1))
        draw = self.mean + (diagonal + low_rank) / math.sqrt(2)
        example = next(model.parameters())
        vector_to_parameters(draw.to(example), model.parameters())

    def state(self) -> dict[str, torch.Tensor]:
        count = torch.tensor(self.count)
        return {"mean": self.mean, "square": self.square, "deviations": self.deviations, "count": count}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        self.mean, self.square, self.deviations = state["mean"], state["square"], state["deviations"]
        self.count = int(state["count"])
