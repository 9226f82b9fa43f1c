"""What is learned: how outputs and labels make a loss, and in which numbers the errors are told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch

from ..data.dataset import AtomsDataset
from ..models.base import Potential
from ..reports.columns import Column
from .distributed import gathered, share

Labels = dict[str, torch.Tensor]


class Pairs(Protocol):
    """Predictions beside labels."""

    def errors(self) -> dict[str, float]: ...


P = TypeVar("P", bound=Pairs)


class Objective(Protocol[P]):
    """One task: force field, or properties. ``keys`` name the terms of the loss."""

    keys: tuple[str, ...]
    columns: tuple[Column, ...]

    def output(self, model: Potential, x) -> dict[str, torch.Tensor]:
        """The model's prediction by name, as ``terms`` takes it."""

    def counts(self, labels: Labels) -> torch.Tensor:
        """How many numbers are labelled, per key, (K,) float64."""

    def terms(self, output: dict[str, torch.Tensor], labels: Labels) -> torch.Tensor:
        """Mean loss over the labelled numbers, per key, (K,); zero where there are none."""

    def weights(self, progress: float) -> torch.Tensor:
        """Weights of the terms at a fraction of the run, (K,)."""

    def predict(self, model: Potential, dataset: AtomsDataset, indices: Sequence[int]) -> P:
        """Predictions of structures by the model as it is in use."""

    def loss(self, pairs: P) -> float:
        """The loss with the weights of the end of the run, so that epochs can be compared."""

    def join(self, parts: Sequence[P]) -> P:
        """Predictions of several parts as one."""


def predict_shared(objective: Objective[P], model: Potential, dataset: AtomsDataset, indices: list[int]) -> P:
    """As ``objective.predict``, each rank doing its share; every rank gets all."""
    own = share(indices)
    parts = gathered(objective.predict(model, dataset, own) if own else None)
    return objective.join([part for part in parts if part is not None])


def higher_is_better(metric: str) -> bool:
    """Whether a metric is a score rather than an error."""
    return metric.endswith("accuracy")
