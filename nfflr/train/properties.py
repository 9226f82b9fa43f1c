"""Property tasks: scalars, vectors and classes, one or several of them, each with its own loss."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..data.dataset import AtomsDataset
from ..errors import ConfigError
from ..models.base import Potential
from .batches import by_atoms
from .config import TrainingConfig
from .objective import Column, Labels

MISSING_CLASS = -100  # what torch's losses ignore


@dataclass(frozen=True)
class PropertyPredictions:
    """Predicted and labelled properties of S structures.

    Attributes:
        values: name → (S, P, 2) of each regression target; predicted, labelled; NaN where a label is missing.
        scores: name → (S, C) of each classification target, unnormalised.
        classes: name → (S,) labelled classes, −100 where missing.
    """

    values: dict[str, np.ndarray]
    scores: dict[str, np.ndarray]
    classes: dict[str, np.ndarray]

    @classmethod
    def join(cls, parts: Sequence[PropertyPredictions]) -> PropertyPredictions:
        """The predictions of several sets of structures as one."""
        fields = [{k: [getattr(p, f)[k] for p in parts] for k in getattr(parts[0], f)} for f in FIELDS]
        return cls(*({k: np.concatenate(arrays) for k, arrays in field.items()} for field in fields))

    def errors(self) -> dict[str, float]:
        """``<name>_mae`` and ``_rmse`` in the label's unit; ``<name>_accuracy``; NaN without labels."""
        table = {}
        for name, pairs in self.values.items():
            known = pairs[np.isfinite(pairs[..., 1])]  # (n, 2)
            error = known[:, 0] - known[:, 1]
            table[f"{name}_mae"] = float(np.abs(error).mean()) if len(error) else float("nan")
            table[f"{name}_rmse"] = float(np.sqrt(np.square(error).mean())) if len(error) else float("nan")
        for name, scores in self.scores.items():
            known = self.classes[name] != MISSING_CLASS
            right = scores[known].argmax(axis=1) == self.classes[name][known]
            table[f"{name}_accuracy"] = float(right.mean()) if len(right) else float("nan")
        return table


FIELDS = ("values", "scores", "classes")


class PropertyObjective:
    """See the module's text; ``nfflr.train.objective.Objective`` says what each method does.

    Errors of regression targets are divided by the standard deviation of their training labels before the
    criterion sees them, so that targets of different units can be summed; a class has cross-entropy.

    Raises:
        ConfigError: a criterion or a weight names no target, or the model's outputs are not the targets.
    """

    def __init__(self, config: TrainingConfig):
        dataset = config.dataset
        self.config, self.keys = config, dataset.targets
        self.classes = {name: dataset.classes[name] for name in self.keys if name in dataset.classes}
        self.columns = property_columns(self.keys, self.classes)
        given = config.criterion if isinstance(config.criterion, dict) else {}
        for setting, names in (("criterion", given), ("target_weights", config.target_weights)):
            for name in names:
                if name not in self.keys:
                    raise ConfigError(f"{setting}: no target {name!r}; the data set has {list(self.keys)}")
        self.criteria = {name: self._criterion(name, given) for name in self.keys}
        self.scales = {name: _spread(dataset, name) for name in self.keys if name not in self.classes}

    def _criterion(self, name: str, given: dict[str, nn.Module]) -> nn.Module:
        shared = self.config.criterion
        chosen = given.get(name, None if isinstance(shared, dict) else shared)
        is_class = isinstance(chosen, nn.CrossEntropyLoss)
        if name in self.classes and name not in given and not is_class:
            return nn.CrossEntropyLoss()
        if chosen is None:
            return nn.HuberLoss()
        if is_class != (name in self.classes):
            wanted = "a class, which needs" if name in self.classes else "a number, not for"
            raise ConfigError(f"criterion: {name} is {wanted} CrossEntropyLoss; choose another")
        return copy.deepcopy(chosen).to(self.config.model.device, torch.float64)

    def output(self, model: Potential, x) -> dict[str, torch.Tensor]:
        """By target name; (B,), (B, P) or class scores (B, C).

        Raises:
            ConfigError: the model's outputs do not fit the targets.
        """
        found = by_target(model(x), self.keys)
        if set(found) != set(self.keys):
            raise ConfigError(
                f"model: predicts {sorted(found)}, the targets are {list(self.keys)}; "
                "set output_features to a dict of the targets"
            )
        return found

    def counts(self, labels: Labels) -> torch.Tensor:
        return torch.stack([self._count(name, labels) for name in self.keys])

    def _count(self, name: str, labels: Labels) -> torch.Tensor:
        """How many labels, () float64; of classes with weights their sum, by which the criterion divides."""
        known = self._known(name, labels)
        weight = getattr(self.criteria[name], "weight", None)
        return known.sum().double() if weight is None else weight[labels[name][known]].sum()

    def _known(self, name: str, labels: Labels) -> torch.Tensor:
        label = labels[name]
        return label != MISSING_CLASS if name in self.classes else torch.isfinite(label)

    def terms(self, output: dict[str, torch.Tensor], labels: Labels) -> torch.Tensor:
        return torch.stack([self._term(name, output[name], labels) for name in self.keys])

    def _term(self, name: str, predicted: torch.Tensor, labels: Labels) -> torch.Tensor:
        known, label = self._known(name, labels), labels[name]
        predicted = as_batch(predicted, label, name in self.classes)
        if not known.any():
            return predicted.sum().double() * 0
        if name in self.classes:
            _check_shape(name, predicted, (len(label), len(self.classes[name])), "class scores")
            return self.criteria[name](predicted[known].double(), label[known])
        _check_shape(name, predicted, tuple(label.shape), "values")
        scaled = [(x[known] / self.scales[name]).double() for x in (predicted, label)]
        return self.criteria[name](*scaled)

    def weights(self, progress: float) -> torch.Tensor:
        return torch.tensor([self.config.target_weights.get(k, 1.0) for k in self.keys], dtype=torch.float64)

    @torch.no_grad()
    def predict(self, model: Potential, dataset: AtomsDataset, indices: Sequence[int]) -> PropertyPredictions:
        return predict_properties(model, dataset, indices)

    def loss(self, pairs: PropertyPredictions) -> float:
        output = {k: torch.from_numpy(v[..., 0]) for k, v in pairs.values.items()}  # (S, P)
        labels = {k: torch.from_numpy(v[..., 1]) for k, v in pairs.values.items()}
        output |= {k: torch.from_numpy(v) for k, v in pairs.scores.items()}
        labels |= {k: torch.from_numpy(v) for k, v in pairs.classes.items()}
        return float(self.weights(1.0) @ self.terms(output, labels))

    def join(self, parts: Sequence[PropertyPredictions]) -> PropertyPredictions:
        return PropertyPredictions.join(parts)


def by_target(
    output: torch.Tensor | dict[str, torch.Tensor], names: Sequence[str]
) -> dict[str, torch.Tensor]:
    """A model's output by target: a single tensor is the first one's."""
    return output if isinstance(output, dict) else {names[0]: output}


def as_batch(predicted: torch.Tensor, label: torch.Tensor, is_class: bool) -> torch.Tensor:
    """A prediction with the batch axis of its labels: a DGL batch of one comes back as a single structure."""
    single = predicted.dim() == label.dim() - (0 if is_class else 1)
    return predicted[None] if single and len(label) == 1 else predicted


def property_columns(names: Sequence[str], classes: Collection[str]) -> tuple[Column, ...]:
    """Accuracy of a class; MAE and RMSE of anything else, in the unit of the labels."""
    columns = []
    for name in names:
        if name in classes:
            columns.append(Column(f"{name}_accuracy", f"{name} accuracy", "%", 100.0))
        else:
            columns.append(Column(f"{name}_mae", f"{name} MAE"))
            columns.append(Column(f"{name}_rmse", f"{name} RMSE", panel=False))
    return tuple(columns)


def predict_properties(
    model: Potential, dataset: AtomsDataset, indices: Sequence[int]
) -> PropertyPredictions:
    """Evaluate structures of a data set with targets; the model's train/eval mode is restored afterwards."""
    dataset, was_training = dataset.within(model.cutoff), model.training
    model.eval()
    parts = []
    with torch.no_grad():
        for x, labels in by_atoms(dataset, indices):
            parts.append(_beside(by_target(model(x), dataset.targets), labels, dataset.classes))
    model.train(was_training)
    return PropertyPredictions.join(parts)


def _beside(output: dict[str, torch.Tensor], labels: Labels, classes: dict) -> PropertyPredictions:
    """Outputs of one batch beside their labels."""
    output = {name: as_batch(value, labels[name], name in classes) for name, value in output.items()}
    found = {name: value.detach().cpu().double().numpy() for name, value in output.items()}
    known = {name: labels[name].numpy() for name in output}
    values = {
        name: np.stack([found[name], known[name]], axis=-1).reshape(len(known[name]), -1, 2)  # (B, P, 2)
        for name in output
        if name not in classes
    }
    return PropertyPredictions(
        values,
        {name: found[name] for name in output if name in classes},
        {name: known[name] for name in output if name in classes},
    )


def _check_shape(name: str, predicted: torch.Tensor, expected: tuple[int, ...], what: str) -> None:
    if tuple(predicted.shape) != expected:
        raise ConfigError(
            f"model: {name} comes out as {tuple(predicted.shape)}, the data ask for {what} {expected}; "
            "set output_features to the number of components or classes"
        )


def _spread(dataset: AtomsDataset, name: str) -> float:
    """Standard deviation of a target's training labels, pooled over components; 1 if they do not differ."""
    values = [np.atleast_1d(r.labels[name]) for r in dataset.part("train") if name in r.labels]
    spread = float(np.nanstd(np.stack(values))) if values else 0.0
    return spread if spread > 0 else 1.0
