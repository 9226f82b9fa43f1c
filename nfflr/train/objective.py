"""What is learned: how outputs and labels make a loss, one term a quantity."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..compiled import compile_training
from ..compiled.training_graph import TrainingGraph
from ..data.dataset import AtomsDataset
from ..data.targets import MISSING_CLASS
from ..errors import ConfigError
from ..models.base import Potential
from ..quantities import Quantity
from ..reports.evaluation import Comparison, Predictions, as_batch, by_name, outputs_of, predict
from ..reports.run_record import columns_of
from .config import TrainingConfig
from .distributed import gathered, share

Labels = Mapping[str, torch.Tensor]
LEAST = 1e-12  # error, so that labels met to the last digit leave a logarithm


@dataclass(frozen=True)
class Term:
    """The loss of one quantity: the mean criterion of scaled errors over what is labelled.

    Attributes:
        quantity: its errors are per atom if it is extensive.
        criterion: a loss of (input, target) that averages.
        scale: error that counts as one, in the quantity's unit.
        of_errors: whether the criterion sees error and zero, as differences of large energies have to be
            taken first. Otherwise it sees value and label.
    """

    quantity: Quantity
    criterion: nn.Module
    scale: float = 1.0
    of_errors: bool = True

    def _labelled(self, label: torch.Tensor) -> torch.Tensor:
        return label != MISSING_CLASS if self.quantity.classes is not None else torch.isfinite(label)

    def count(self, labels: Labels) -> torch.Tensor:
        """How many labels, () float64; of classes with weights their sum, by which the criterion divides."""
        label = labels[self.quantity.name]
        mask, weight = self._labelled(label), getattr(self.criterion, "weight", None)
        return mask.sum().double() if weight is None else weight[label[mask]].sum()

    def loss(self, output: Mapping[str, torch.Tensor], labels: Labels) -> torch.Tensor:
        """Mean over the labels of a batch, () float64; zero without any, or where nothing is predicted."""
        q, label = self.quantity, labels[self.quantity.name]
        zero = label.new_zeros((), dtype=torch.float64)
        if q.name not in output:
            return zero
        predicted, mask = as_batch(q, output[q.name], label), self._labelled(label)
        if not mask.any():
            return zero
        n = labels["n_atoms"].view(-1, *[1] * len(q.shape)) if q.extensive else None
        if self.of_errors:
            error = predicted - label
            return self._of(error[mask] if n is None else (error / n)[mask])
        pair = (predicted, label) if n is None else (predicted / n, label / n)
        return self._of(*(x[mask] for x in pair))

    def compared(self, comparison: Comparison) -> torch.Tensor:
        """As ``loss``, of predictions that were made before, () float64."""
        mask = comparison.labelled
        if not mask.any():
            return torch.zeros((), dtype=torch.float64)
        pair = comparison.predicted[mask], comparison.reference[mask]
        return self._of(*map(torch.from_numpy, (pair[0] - pair[1],) if self.of_errors else pair))

    def _of(self, *values: torch.Tensor) -> torch.Tensor:
        if self.quantity.classes is not None:
            return self.criterion(values[0].double(), values[1])
        if self.of_errors:
            error = values[0] / self.scale
            return self.criterion(error, torch.zeros_like(error)).double()
        return self.criterion(*((x / self.scale).double() for x in values))


class Objective:
    """What a run minimises: the weighted sum of the losses of the quantities that its data label.

    Without a setting, errors of a quantity have its standard scale, or else are divided by the standard
    deviation of the training labels. A class has cross-entropy.

    Attributes:
        terms: the loss of each quantity.
        columns: the errors of validations, as tables show them.

    Raises:
        ConfigError: a setting names no target, or a criterion does not suit one.
    """

    def __init__(self, config: TrainingConfig):
        self.config, names = config, config.dataset.targets
        dataset = config.dataset.declared(outputs_of(config.model, names))
        losses = config.criterion if isinstance(config.criterion, dict) else {}
        _check("criterion", losses, names)
        for kind, values in (("weight", config.target_weights), ("scale", config.target_scales)):
            _check(f"target_{kind}s", values, names)
            for name in values:
                if own := config.own_setting(name, kind):
                    raise ConfigError(f"target_{kind}s: {name!r} has a setting of its own; set {own}")
        self.terms = tuple(self._term(q, dataset, losses.get(q.name)) for q in dataset.quantities)
        self.columns = columns_of(dataset.quantities)
        # The training step's forward pass, compiled at the first step if that is asked for.
        self._compiled: TrainingGraph | Potential | None = None
        weights = [config.weight("stress", end) for end in (0.0, 1.0)]
        self.with_stress = any(weights) and "stress" in names

    def _term(self, q: Quantity, dataset: AtomsDataset, loss: nn.Module | None) -> Term:
        criterion = self._criterion(q, loss)
        if q.classes is not None:
            return Term(q, criterion, of_errors=False)
        own = self.config.own_setting(q.name, "scale")
        scale = getattr(self.config, own) if own else self.config.target_scales.get(q.name, q.scale)
        return Term(q, criterion, scale or _spread(dataset, q.name), of_errors=scale is not None)

    def _criterion(self, q: Quantity, loss: nn.Module | None) -> nn.Module:
        shared = self.config.criterion
        criterion = loss or (None if isinstance(shared, dict) else shared)
        is_class = isinstance(criterion, nn.CrossEntropyLoss)
        if q.classes is not None and loss is None and not is_class:
            return nn.CrossEntropyLoss()
        if criterion is None:
            return nn.HuberLoss()
        if is_class != (q.classes is not None):
            needs = "a class, which needs" if q.classes is not None else "a number, not for"
            raise ConfigError(f"criterion: {q.name} is {needs} CrossEntropyLoss; choose another")
        return copy.deepcopy(criterion).to(self.config.model.device, torch.float64)

    def output(self, model: Potential, x) -> Mapping[str, torch.Tensor]:
        """The model's output by name, as ``losses`` takes it."""
        if self.config.compile and self._compiled is None:
            self._compiled = compile_training(model) or model
        names = [term.quantity.name for term in self.terms]
        return by_name((self._compiled or model)(x, stress=self.with_stress), names)

    def counts(self, labels: Labels) -> torch.Tensor:
        """How many numbers are labelled, per term, (K,) float64."""
        return torch.stack([term.count(labels) for term in self.terms])

    def losses(self, output: Mapping[str, torch.Tensor], labels: Labels) -> torch.Tensor:
        """Mean loss over the labelled numbers, per term, (K,); zero where there are none."""
        return torch.stack([term.loss(output, labels) for term in self.terms])

    def weights(self, progress: float) -> torch.Tensor:
        """Weights of the terms at a fraction of the run, (K,)."""
        values = [self.config.weight(term.quantity.name, progress) for term in self.terms]
        return torch.tensor(values, dtype=torch.float64)

    def loss(self, predictions: Predictions) -> float:
        """The loss with the weights of the end of the run, so that epochs can be compared."""
        pairs = zip(self.weights(1.0).tolist(), self.terms, strict=True)
        return float(sum(w * term.compared(predictions[term.quantity.name]) for w, term in pairs if w))

    def error(self, predictions: Predictions) -> float:
        """Geometric mean of the mean absolute errors of what counts; NaN if nothing has one.

        The loss squares errors of forces, so that the largest count most. Here one percent less of the error
        of energies counts as much as one percent less of the error of forces. What is labelled and has come
        out as NaN makes the mean NaN.
        """
        pairs = zip(self.weights(1.0).tolist(), self.terms, strict=True)
        names = [term.quantity.name for weight, term in pairs if weight and term.quantity.classes is None]
        labelled = [predictions[name] for name in names if predictions[name].labelled.any()]
        errors = [np.float64(c.errors()[f"{c.quantity.key}_mae"]) for c in labelled]
        return float(np.exp(np.mean(np.log(np.maximum(errors, LEAST))))) if errors else math.nan


def _check(setting: str, values: Collection[str], names: Sequence[str]) -> None:
    for name in values:
        if name not in names:
            raise ConfigError(f"{setting}: no target {name!r}; the data set has {list(names)}")


def predict_shared(model: Potential, dataset: AtomsDataset, indices: list[int]) -> Predictions:
    """As ``predict``, each rank doing its share; every rank gets all."""
    own = share(indices)
    parts = gathered(predict(model, dataset, own) if own else None)
    return Predictions.join([part for part in parts if part is not None])


def _spread(dataset: AtomsDataset, name: str) -> float:
    """Standard deviation of a target's training labels, pooled over components; 1 if they do not differ."""
    values = [np.ravel(r.labels[name]) for r in dataset.part("train") if name in r.labels]
    spread = float(np.nanstd(np.concatenate(values))) if values else 0.0
    return spread if spread > 0 else 1.0
