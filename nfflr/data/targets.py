"""What is learned: which quantities, what the data hold of each, and labels as tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from ..errors import ConfigError, StructureError, did_you_mean
from ..quantities import LABELLED, QUANTITIES, Quantity
from . import sources
from .records import FORCE_FIELD_LABELS, Record

FORCE_FIELDS = {"total_energy": ("total_energy",), "energy_and_forces": FORCE_FIELD_LABELS}  # what is read
MISSING_CLASS = -100  # torch.nn.CrossEntropyLoss passes over it

Target = str | Quantity
Kind = tuple[int, ...] | None  # the shape of numbers; None: a class


def name_of(target: Target) -> str:
    """The name of a target, of which more may be known."""
    return target.name if isinstance(target, Quantity) else target


class Labels(dict[str, torch.Tensor]):
    """Labels of one structure by name; ``per_atom`` names those with a row for each atom."""

    per_atom: frozenset[str] = frozenset()


def quantities_of(target: Target | Sequence[Target]) -> tuple[Target, ...]:
    """The quantities that a target names, unknown ones by name; ConfigError for a wrong target."""
    expanded: list[Target] = []
    for item in (target,) if isinstance(target, str | Quantity) else target:
        expanded += FORCE_FIELDS.get(item, (item,)) if isinstance(item, str) else (item,)
    names = [name_of(part) for part in expanded]
    if not names or not all(isinstance(n, str) and n for n in names) or len(set(names)) < len(names):
        raise ConfigError(f"target: got {target!r}; expected a name, or several different ones")
    for name in ("forces", "stress"):
        if name in names and "total_energy" not in names:
            raise ConfigError(f"target: {name!r} cannot be a property; use target='energy_and_forces'")
    return tuple(QUANTITIES.get(part, part) if isinstance(part, str) else part for part in expanded)


@dataclass
class Values:
    """What the records hold of a quantity."""

    kinds: Counter[tuple[Kind, int]]  # with the number of atoms
    first: dict[tuple[Kind, int], str]  # record of each
    classes: dict[str, int | str]  # names and the values that they stand for
    is_column: bool = False  # whether the source says that every atom has its own


class TargetCheck:
    """Finds out what each target is; a check in the sense of ``nfflr.data.quality.label_checks``.

    Refuses a value that is missing, not finite, of another kind or shape than the others, or of an unknown
    class, and names its record. ``LabelCheck`` does so for labels of the force field.

    Args:
        quantities: the targets as ``quantities_of`` returns them; after ``finish`` the attribute of this name
            holds a ``Quantity`` for each.
        classify, classes, allow_missing: as ``AtomsDataset`` takes them.

    Raises:
        ConfigError: ``classify`` or ``classes`` name what is not a target.
    """

    def __init__(
        self,
        quantities: Sequence[Target],
        classify: Sequence[str] = (),
        classes: Mapping[str, Sequence[str]] | None = None,
        allow_missing: bool = False,
    ):
        self.targets = {name_of(q): q for q in quantities}
        self.others = {name: q for name, q in self.targets.items() if name not in FORCE_FIELD_LABELS}
        self.classify, self.classes = classify, dict(classes or {})
        self.allow_missing = allow_missing
        for option, names in (("classify", self.classify), ("classes", self.classes)):
            for name in names:
                if name not in self.others:
                    expected = f"expected one of {list(self.others)}{did_you_mean(name, self.others)}"
                    raise ConfigError(f"{option}: {name!r} is not a target; {expected}")
        stated = (q for q in self.others.values() if isinstance(q, Quantity) and q.classes is not None)
        self.classes |= {q.name: q.classes or () for q in stated}
        self.values = {name: Values(Counter(), {}, {}) for name in self.others}
        self.quantities: tuple[Quantity, ...] = ()

    def add(self, index: int, record: Record) -> None:
        for name, target in self.others.items():
            value = record.labels.get(name)
            if value is not None:
                self._add(record, name, target, value)
            elif not self.allow_missing:
                raise StructureError(
                    f"{record.id}: no {name} label; compute it, drop the structure, or set allow_missing=True"
                )

    def _add(self, record: Record, name: str, target: Target, value: np.ndarray) -> None:
        values, n = self.values[name], len(record.atoms)
        is_text = value.dtype.kind in "Ub"
        if is_text or name in self.classify or name in self.classes:
            _add_class(record, name, value, values.classes, self.classes.get(name))
        elif np.isinf(value).any() or (np.isnan(value).any() and not self.allow_missing):
            raise StructureError(f"{record.id}: {name} is not finite; drop the structure or correct it")
        shape = target.array_shape(n) if isinstance(target, Quantity) else None
        if shape is not None and name not in self.classes and (is_text or value.shape != shape):
            problem = f"is {value.item()!r}" if is_text else f"has shape {value.shape}"
            raise StructureError(f"{record.id}: {name} {problem}, expected shape {shape}; correct the label")
        kind: Kind = None if is_text else value.shape
        values.is_column |= name in record.per_atom
        values.kinds[kind, n] += 1
        values.first.setdefault((kind, n), record.id)

    def finish(self, records: Sequence[Record]) -> None:
        self.quantities = tuple(self._quantity(name, target) for name, target in self.targets.items())

    def _quantity(self, name: str, target: Target) -> Quantity:
        if name in self.classes:
            target = target if isinstance(target, Quantity) else Quantity(name)
            return replace(target, classes=tuple(self.classes[name]))
        if isinstance(target, Quantity):
            return target
        values, counts = self.values[name], Counter[Kind]()
        for (kind, _), count in values.kinds.items():
            counts[kind] += count
        if name in self.classify and counts.keys() == {()}:
            return Quantity(name, classes=tuple(sorted(values.classes, key=values.classes.__getitem__)))
        differ = len({n for _, n in values.kinds}) > 1
        has_rows = differ and all(kind is not None and kind[:1] == (n,) for kind, n in values.kinds)
        usual = counts.most_common(1)[0][0] if counts else ()
        if has_rows or values.is_column:
            rows = Counter(kind[1:] for kind in counts.elements() if kind is not None)
            quantity = Quantity(name, per_atom=True, shape=rows.most_common(1)[0][0])
        elif usual is not None:
            quantity = Quantity(name, shape=usual)
        else:
            truth = {type(value) for value in values.classes.values()} == {bool}
            quantity = Quantity(name, classes=("False", "True") if truth else tuple(sorted(values.classes)))
        for kind, n in values.kinds:
            expected = None if quantity.classes else quantity.array_shape(n)
            if kind != expected:
                raise StructureError(
                    f"{values.first[kind, n]}: {name} is {_words(kind)}, elsewhere {_words(expected)}; "
                    "correct the label"
                )
        return quantity


def _add_class(
    record: Record, name: str, value: np.ndarray, classes: dict, allowed: Sequence[str] | None
) -> None:
    if value.ndim:
        raise StructureError(f"{record.id}: {name} is a vector, expected a class; leave it out of classify")
    label = class_name(value)
    if allowed is not None and label not in allowed:
        hint = did_you_mean(label, allowed)
        raise StructureError(f"{record.id}: {name} is {label!r}; expected one of {', '.join(allowed)}{hint}")
    classes.setdefault(label, value.item())


def class_name(value: np.ndarray) -> str:
    """How a class is called: its text, True or False, or the number as it is usually written."""
    return f"{value.item():.15g}" if value.dtype.kind == "f" else str(value.item())


def _words(kind: Kind) -> str:
    if not kind:
        return "a number" if kind == () else "a class"
    return f"a vector of length {kind[0]}" if len(kind) == 1 else f"an array of shape {kind}"


def label_tensors(record: Record, quantities: Sequence[Quantity] = LABELLED) -> Labels:
    """Labels of one structure by name, and ``n_atoms`` ().

    Numbers are float64 of the quantity's shape, NaN if missing; a class is its index (), int64, −100 if
    missing.
    """
    n, labels = len(record.atoms), record.labels
    tensors = Labels(n_atoms=torch.tensor(n))
    tensors.per_atom = frozenset(q.name for q in quantities if q.per_atom)
    for q in quantities:
        if q.classes is not None:
            missing = q.name not in labels
            index = MISSING_CLASS if missing else q.classes.index(class_name(labels[q.name]))
            tensors[q.name] = torch.tensor(index)
        elif q.name in labels:
            tensors[q.name] = torch.as_tensor(labels[q.name]).double()
        else:
            tensors[q.name] = torch.full(q.array_shape(n), torch.nan, dtype=torch.float64)
    return tensors


def refuse_unknown(source: object, target: str, stored: str) -> None:
    """Raise the error that no record of a source has a value; it lists the names that there are."""
    where = Path(source) if isinstance(source, str | Path) else sources.display_name(source)
    entries = chain.from_iterable(sources.find(part).read(part) for part in sources.parts(source))
    names = sorted({name for entry in entries for name in entry.values})
    if stored in names:
        raise StructureError(f"{where}: no record has a value of {stored!r}, all are missing; choose another")
    hint = did_you_mean(stored, [*FORCE_FIELDS, *names])
    if hint and hint == did_you_mean(target, FORCE_FIELDS):
        expected = sorted(FORCE_FIELDS)
        raise ConfigError(f"target: got {target!r}; expected one of {expected} or a key in the data{hint}")
    listed = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    raise StructureError(f"{where}: no record holds {stored!r}; it holds {listed or 'no values'}{hint}")
