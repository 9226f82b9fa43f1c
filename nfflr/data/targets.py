"""What is learned: a force field, or properties (scalars, vectors, classes) by their names in the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from ..errors import ConfigError, StructureError, did_you_mean
from . import sources
from .records import FORCE_FIELD_LABELS, Record

FORCE_FIELDS = {"total_energy": ("total_energy",), "energy_and_forces": ("total_energy", "forces")}
LABELS = {"total_energy": ("total_energy",), "energy_and_forces": FORCE_FIELD_LABELS}  # what is read
MISSING_CLASS = -100  # torch.nn.CrossEntropyLoss passes over it

Labels = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Property:
    """A target that is not part of a force field.

    Attributes:
        name: its key in the data.
        size: length of a vector; None for a scalar or a class.
        classes: names of the classes in the order of their indices; None for numbers.
    """

    name: str
    size: int | None = None
    classes: tuple[str, ...] | None = None

    def encode(self, record: Record) -> torch.Tensor:
        """float64 () or (P,), NaN if missing; or the index of a class, int64 (), −100 if missing."""
        value = record.labels.get(self.name)
        if self.classes is not None:
            index = MISSING_CLASS if value is None else self.classes.index(class_name(value))
            return torch.tensor(index)
        shape = () if self.size is None else (self.size,)
        if value is None:
            return torch.full(shape, torch.nan, dtype=torch.float64)
        return torch.as_tensor(value, dtype=torch.float64)


def target_names(target: str | Sequence[str]) -> tuple[str, ...]:
    """Names of properties, none for a force field.

    Raises:
        ConfigError: no names, a name twice, or forces among properties.
    """
    if isinstance(target, str) and target in FORCE_FIELDS:
        return ()
    names = (target,) if isinstance(target, str) else tuple(target)
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        raise ConfigError(f"target: got {target!r}; expected a name, or several different ones")
    for name in {"energy_and_forces", "forces", "stress"}.intersection(names):
        raise ConfigError(f"target: {name!r} cannot be a property; use target='energy_and_forces'")
    return names


class TargetCheck:
    """Finds out what each target is; a check in the sense of ``nfflr.data.quality.label_checks``.

    Refuses a value that is missing, not finite, of another kind or length than the others, or of an unknown
    class, and names its record.

    Args:
        names: the targets.
        classify, classes, allow_missing: as ``AtomsDataset`` takes them.

    Attributes:
        properties: what was found, after ``finish``.

    Raises:
        ConfigError: ``classify`` or ``classes`` name what is not a target.
    """

    def __init__(
        self,
        names: Sequence[str],
        classify: Sequence[str] = (),
        classes: Mapping[str, Sequence[str]] | None = None,
        allow_missing: bool = False,
    ):
        self.names, self.classify, self.classes = names, classify, classes or {}
        self.allow_missing = allow_missing
        for option, given in (("classify", self.classify), ("classes", self.classes)):
            for name in given:
                if name not in names:
                    hint = did_you_mean(name, names)
                    expected = f"expected one of {list(names)}"
                    raise ConfigError(f"{option}: {name!r} is not a target; {expected}{hint}")
        self.kinds: dict[str, Counter] = {name: Counter() for name in names}
        self.first: dict[tuple, str] = {}
        self.values: dict[str, dict[str, int | str]] = {name: {} for name in names}
        self.properties: tuple[Property, ...] = ()

    def add(self, index: int, record: Record) -> None:
        for name in self.names:
            value = record.labels.get(name)
            if value is None:
                if not self.allow_missing:
                    raise StructureError(
                        f"{record.id}: no {name} label; drop the structure, or mask it by allow_missing=True"
                    )
                continue
            kind = _kind(value)
            self.kinds[name][kind] += 1
            self.first.setdefault((name, kind), record.id)
            if kind == "text" or name in self.classify or name in self.classes:
                _add_class(record, name, value, self.values[name], self.classes.get(name))
            elif not np.isfinite(value).all():
                raise StructureError(f"{record.id}: {name} is not finite; drop the structure or correct it")

    def finish(self, records: Sequence[Record]) -> None:
        self.properties = tuple(self._property(name) for name in self.names)

    def _property(self, name: str) -> Property:
        kinds, values = self.kinds[name], self.values[name]
        if name in self.classes:
            return Property(name, classes=tuple(self.classes[name]))
        if name in self.classify and set(kinds) == {None}:
            return Property(name, classes=tuple(sorted(values, key=values.__getitem__)))
        usual = kinds.most_common(1)[0][0] if kinds else None
        for kind in kinds:
            if kind != usual:
                raise StructureError(
                    f"{self.first[name, kind]}: {name} is {_words(kind)}, elsewhere {_words(usual)}; "
                    "correct the label"
                )
        if usual == "text":
            truth = {type(value) for value in values.values()} == {bool}
            return Property(name, classes=("False", "True") if truth else tuple(sorted(values)))
        return Property(name, size=usual)


def _kind(value: np.ndarray) -> str | int | None:
    """``"text"`` (truth values are classes too), the length of a vector, or None for a number."""
    if value.dtype.kind in "Ub":
        return "text"
    return len(value) if value.ndim else None


def _add_class(record: Record, name: str, value: np.ndarray, seen: dict, known: Sequence[str] | None) -> None:
    if value.ndim:
        raise StructureError(f"{record.id}: {name} is a vector, expected a class; leave it out of classify")
    label = class_name(value)
    if known is not None and label not in known:
        hint = did_you_mean(label, known)
        raise StructureError(f"{record.id}: {name} is {label!r}; expected one of {', '.join(known)}{hint}")
    seen.setdefault(label, value.item())


def class_name(value: np.ndarray) -> str:
    """How a class is called: its text, True or False, or the number as it is usually written."""
    return f"{value.item():.15g}" if value.dtype.kind == "f" else str(value.item())


def _words(kind: str | int | None) -> str:
    words: dict[str | int | None, str] = {None: "a number", "text": "a class"}
    return words.get(kind, f"a vector of length {kind}")


def refuse_unknown(source: object, target: str, stored: str) -> None:
    """Say that no record of a source has a value, and which names there are.

    Raises:
        ConfigError: the name is nearly that of a force-field target.
        StructureError: otherwise; names the nearest key of the data.
    """
    where = Path(source) if isinstance(source, str | Path) else sources.display_name(source)
    entries = chain.from_iterable(sources.find(part).read(part) for part in sources.parts(source))
    known = sorted({name for entry in entries for name in entry.values})
    if stored in known:
        raise StructureError(f"{where}: no record has a value of {stored!r}, all are missing; choose another")
    hint = did_you_mean(stored, [*FORCE_FIELDS, *known])
    if hint and hint == did_you_mean(target, FORCE_FIELDS):
        expected = sorted(FORCE_FIELDS)
        raise ConfigError(f"target: got {target!r}; expected one of {expected} or a key in the data{hint}")
    listed = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
    raise StructureError(f"{where}: no record holds {stored!r}; it holds {listed or 'no values'}{hint}")
