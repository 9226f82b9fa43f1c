"""Predictions beside labels, and their errors per group of structures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import spearmanr

from ..data.dataset import AtomsDataset, collate
from ..data.targets import MISSING_CLASS
from ..errors import ConfigError
from ..models.base import Potential
from ..models.committee import Committee
from ..quantities import FORCE_FIELD, Quantity

TOTAL_TWIN = "all (group)"  # the row of a group that is called "all"
EVALUATED = 512  # atoms in a batch that is only evaluated: enough to keep a processor busy, little to keep
Output = torch.Tensor | Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Comparison:
    """One quantity of S structures, predicted and labelled.

    Attributes:
        quantity: which one.
        predicted: ``(S, *shape)``, or ``(ΣN, *shape)`` of atoms, in its unit; extensive ones are
            divided by the number of atoms. Of classes the scores (S, C), not normalised.
        reference: the labels, likewise, NaN where one is missing; of classes their indices (S,), −100 where
            missing.
        spread: of a committee, the standard deviation (S,) or (ΣN,) among its members; else None.
    """

    quantity: Quantity
    predicted: np.ndarray
    reference: np.ndarray
    spread: np.ndarray | None = None

    @property
    def labelled(self) -> np.ndarray:
        """Which references are there, ``(S, *shape)`` or ``(ΣN, *shape)``, of classes (S,)."""
        is_class = self.quantity.classes is not None
        # A prediction that is not finite must show in the errors.
        return self.reference != MISSING_CLASS if is_class else np.isfinite(self.reference)

    def rows(self, mask: np.ndarray) -> Comparison:
        """The comparison on some structures or atoms only."""
        spread = None if self.spread is None else self.spread[mask]
        return Comparison(self.quantity, self.predicted[mask], self.reference[mask], spread)

    def errors(self) -> dict[str, float]:
        """``<key>_mae`` and ``_rmse`` pooled over components, or ``<key>_accuracy``; NaN without labels."""
        key = self.quantity.key
        predicted, reference = self.predicted[self.labelled], self.reference[self.labelled]
        if self.quantity.classes is not None:
            return {f"{key}_accuracy": _mean(predicted.argmax(axis=1) == reference)}
        error = predicted - reference
        return {f"{key}_mae": _mean(np.abs(error)), f"{key}_rmse": math.sqrt(_mean(np.square(error)))}


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else math.nan


@dataclass(frozen=True)
class Predictions:
    """Predicted and labelled quantities of S structures with ΣN atoms.

    Attributes:
        comparisons: by the name of the quantity; ``predictions["forces"]`` is short for one of them.
        owner: (ΣN,) index of each atom's structure.
        groups: (S,) group names.
    """

    comparisons: Mapping[str, Comparison]
    owner: np.ndarray
    groups: np.ndarray

    def __getitem__(self, name: str) -> Comparison:
        return self.comparisons[name]

    @classmethod
    def join(cls, parts: Sequence[Predictions]) -> Predictions:
        """The predictions of several sets of structures as one, without the spread of a committee."""
        first = np.cumsum([0, *(len(part.groups) for part in parts)])
        owner = [part.owner + start for part, start in zip(parts, first[:-1], strict=True)]
        joined = {}
        for name, comparison in parts[0].comparisons.items():
            pairs = [(part[name].predicted, part[name].reference) for part in parts]
            joined[name] = Comparison(comparison.quantity, *map(np.concatenate, zip(*pairs, strict=True)))
        return cls(joined, np.concatenate(owner), np.concatenate([part.groups for part in parts]))

    def of(self, name: str, group: str | None) -> Comparison:
        """A comparison on the structures of a group, or on all."""
        comparison = self.comparisons[name]
        return comparison if group is None else comparison.rows(self.groups_of(name) == group)

    def groups_of(self, name: str) -> np.ndarray:
        """Group names of the rows of a comparison, (S,) or (ΣN,)."""
        per_atom = self.comparisons[name].quantity.per_atom
        return self.groups[self.owner] if per_atom else self.groups

    def errors(self, group: str | None = None) -> dict[str, float]:
        """Errors of every quantity on a group or on all: eV/atom, eV/Å, eV/Å³ of a force field."""
        return {k: v for name in self.comparisons for k, v in self.of(name, group).errors().items()}


def outputs_of(model: Potential | Committee, names: Sequence[str]) -> tuple[Quantity, ...]:
    """What a model returns; a single property without a name has the name of the only target."""
    outputs: tuple[Quantity, ...] = getattr(model, "outputs", FORCE_FIELD)
    if len(outputs) == 1 == len(names) and not model.is_potential:
        return (replace(outputs[0], name=names[0]),)
    return outputs


def by_name(output: Output, names: Sequence[str]) -> Mapping[str, torch.Tensor]:
    """A model's output by name: a single tensor is the first target's."""
    return output if isinstance(output, Mapping) else {names[0]: output}


def as_batch(q: Quantity, predicted: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """A prediction with the batch axis of its labels, which DGL drops for one; ConfigError if it differs."""
    expected = tuple(labels.shape) if q.classes is None else (len(labels), len(q.classes))
    if predicted.dim() == len(expected) - 1 and len(labels) == 1 and not q.per_atom:
        predicted = predicted[None]
    if tuple(predicted.shape) != expected:
        what = "values" if q.classes is None else "class scores"
        raise ConfigError(
            f"model: {q.name} comes out as {tuple(predicted.shape)}, the data ask for {what} {expected}; "
            "set output_features to the number of components or classes"
        )
    return predicted


def by_atoms(dataset: AtomsDataset, indices: Iterable[int], atoms: int = EVALUATED) -> Iterator[tuple]:
    """Collated batches in order, each of so many atoms at most, or of one structure that has more."""
    items: list = []
    filled = 0
    for k in indices:
        item = dataset[k]
        n = int(item[1]["n_atoms"])
        if items and filled + n > atoms:
            yield collate(items)
            items, filled = [], 0
        items.append(item)
        filled += n
    if items:
        yield collate(items)


def predict(model: Potential | Committee, dataset: AtomsDataset, indices: Sequence[int]) -> Predictions:
    """Evaluate structures of a data set; the model's train/eval mode is restored afterwards.

    What a model does not predict is NaN, as if it were not labelled.
    """
    dataset = dataset.within(model.cutoff).declared(outputs_of(model, dataset.targets))
    was_training = model.training
    model.eval()
    parts: dict[str, list[tuple[torch.Tensor, ...]]] = {q.name: [] for q in dataset.quantities}
    sizes: list[int] = []
    for x, labels in by_atoms(dataset, indices):
        output = by_name(model(x), dataset.targets)
        sizes += labels["n_atoms"].tolist()
        for q in dataset.quantities:
            parts[q.name].append(_beside(q, output, labels))
    model.train(was_training)
    comparisons = {}
    for q in dataset.quantities:
        arrays = [torch.cat(pieces).numpy() for pieces in zip(*parts[q.name], strict=True)]
        comparisons[q.name] = Comparison(q, *arrays)
    return Predictions(
        comparisons,
        owner=np.repeat(np.arange(len(indices)), sizes),
        groups=np.array([dataset.records[k].group for k in indices]),
    )


def _beside(q: Quantity, output: Mapping[str, torch.Tensor], labels: dict) -> tuple[torch.Tensor, ...]:
    """Prediction, label and, of a committee, spread of one quantity in one batch."""
    label = labels[q.name]
    if q.name not in output:
        if q.classes is not None:
            return torch.zeros(len(label), len(q.classes)), torch.full_like(label, MISSING_CLASS)
        return torch.full_like(label, torch.nan), torch.full_like(label, torch.nan)
    predicted = as_batch(q, output[q.name].detach().cpu().double(), label)
    spread = output.get(f"{q.key}_std")
    spreads = () if spread is None else (spread.detach().cpu().double().view(-1),)
    if not q.extensive:
        return predicted, label, *spreads
    n = labels["n_atoms"]
    per_atom = n.view(-1, *[1] * len(q.shape))
    return predicted / per_atom, label / per_atom, *(spread / n for spread in spreads)


def calibration(predictions: Predictions) -> dict[str, float]:
    """How a committee's errors compare with its spread; empty without one.

    ``energy_ratio`` and ``forces_ratio`` are root mean square error over root mean square spread: one where
    the spread is the size of errors, more where it is too confident. ``…_correlation`` is Spearman's, of
    errors and spreads.
    """
    table = {}
    for comparison in predictions.comparisons.values():
        key, spread = comparison.quantity.key, comparison.spread
        if spread is None:
            continue
        off = comparison.predicted - comparison.reference
        errors = np.linalg.norm(off.reshape(len(off), -1), axis=1)  # (S,) or (ΣN,)
        labelled = np.isfinite(errors)
        if not labelled.any():
            continue
        errors, spread = errors[labelled], spread[labelled]
        size, varied = np.sqrt(np.square(spread).mean()), len(errors) > 2 and np.ptp(spread) * np.ptp(errors)
        table[f"{key}_ratio"] = float(np.sqrt(np.square(errors).mean()) / size) if size else math.nan
        table[f"{key}_correlation"] = float(spearmanr(errors, spread)[0]) if varied else math.nan
    return table


def error_table(predictions: Predictions) -> dict[str, dict[str, float]]:
    """Errors, structures and atoms of each group, and of all in the row ``all``."""
    table = {}
    for name in [None, *sorted(set(predictions.groups))]:
        members = np.ones(len(predictions.groups), bool) if name is None else predictions.groups == name
        row = "all" if name is None else TOTAL_TWIN if name == "all" else name
        table[row] = {
            "structures": int(members.sum()),
            "atoms": int(members[predictions.owner].sum()),
            **predictions.errors(name),
        }
    return table


def higher_is_better(metric: str) -> bool:
    """Whether a metric is a score rather than an error."""
    return metric.endswith("accuracy")
