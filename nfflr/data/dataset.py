"""``AtomsDataset``: labelled structures, split by a seed, as batches of what models take."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import ase
import ase.data
import numpy as np
import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, ValidationError, field_validator
from torch.utils.data import Dataset

from ..errors import ConfigError, StructureError, did_you_mean, plain_reason
from ..quantities import Quantity, from_description, names_of
from ..units import factor
from . import sources
from .diskcache import DiskCache
from .graph import periodic_radius_graph
from .inputs import batch_inputs
from .quality import label_checks as checks
from .records import (
    FORCE_FIELD_LABELS,
    EnergyUnit,
    Record,
    Selection,
    StressOrder,
    StressUnit,
    hash_structure,
    joined,
    read_records,
)
from .targets import Labels, Target, TargetCheck, label_tensors, name_of, quantities_of, refuse_unknown


def _share(value: Any) -> Any:
    """A fraction or a count; numpy's numbers as Python's."""
    value = value.item() if isinstance(value, np.number) else value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not value >= 0 or (isinstance(value, float) and value > 1):
        raise ValueError("should be a fraction from 0 to 1 (as 0.9) or a count (as 900)")
    return value


Share = Annotated[
    Annotated[float, Field(ge=0, le=1, strict=True)] | Annotated[int, Field(ge=0, strict=True)],
    BeforeValidator(_share),
]
Sign = Literal[1, -1]
STORAGE = ("energy_units", "force_units", "force_sign", "stress_units", "stress_sign", "stress_order", "keys")
Seed = Annotated[int, BeforeValidator(lambda n: n.item() if isinstance(n, np.integer) else n), Strict()]


class DatasetConfig(BaseModel):
    """The options of ``AtomsDataset``, and of ``dataset:`` in a YAML config."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    target: str | tuple[str, ...] = Field(
        "energy_and_forces",
        description="energy_and_forces, total_energy, or names of properties in the data",
    )
    energy_units: EnergyUnit | None = Field(
        None, description="of the source, where its format (JARVIS) does not fix it; inside, all is eV"
    )
    force_units: str | None = Field(
        None, description="eV/Å, Ha/Bohr, kcal/mol/Å …; default: the energy unit per Å, eV/Å for eV/atom"
    )
    force_sign: Sign | None = Field(None, description="-1: the data hold gradients of the energy")
    stress_units: StressUnit | None = Field(
        None,
        description="of the source; eV: virials, which are divided by the volume; without it, stresses of a "
        "format that fixes no unit are left out",
    )
    stress_sign: Sign | None = Field(
        None, description="1: tension is positive (ASE), -1: pressure is (VASP, and virials of QUIP and MACE)"
    )
    stress_order: StressOrder | None = Field(
        None,
        description="of six numbers; voigt (ASE): xx, yy, zz, yz, xz, xy; vasp: xx, yy, zz, xy, yz, zx; 3x3 "
        "refuses six numbers; nine are always rows",
    )
    n_train: Share = Field(0.9, description="fraction (as 0.9) or number (as 900) to train on")
    n_val: Share = Field(0.1, description="likewise, to choose the checkpoint; the rest is the test split")
    diskcache: Annotated[
        Annotated[bool, Strict()] | Path, BeforeValidator(lambda place: False if place is None else place)
    ] = Field(
        False, description="keep graphs on disk, in the user's cache (true) or this folder, not in memory"
    )
    seed: Seed = Field(42, ge=0, description="of the split")
    keys: Annotated[dict[str, str], BeforeValidator(lambda keys: keys or {})] = Field(
        default_factory=dict, description="names of the labels in the source where they differ"
    )
    allow_missing: bool = Field(False, description="mask missing labels, also of single atoms")
    allow_duplicates: bool = Field(False, description="permit a structure in the training and another split")
    classify: str | tuple[str, ...] = Field((), description="targets whose numbers are names of classes")
    classes: dict[str, tuple[str, ...]] | None = Field(
        None, description="names of the classes in the order of a trained model; default: sorted"
    )

    @field_validator("force_units")
    @classmethod
    def _is_a_unit_of_forces(cls, units: str | None) -> str | None:
        if units is not None:
            factor(units, "forces")
        return units

    @property
    def labels(self) -> dict[str, Any]:
        """How labels are stored, as ``read_records`` takes it."""
        return {name: getattr(self, name) for name in STORAGE}


def _checked(options: dict[str, Any]) -> DatasetConfig:
    """The options as a model; ConfigError names the option whose value is wrong."""
    fields = DatasetConfig.model_fields
    for name in options.keys() - fields.keys():
        raise TypeError(f"AtomsDataset: unexpected argument {name!r}{did_you_mean(name, fields)}")
    try:
        return DatasetConfig(**options)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        choices = re.findall(r"'([^']*)'", str(first.get("ctx", {}).get("expected", "")))
        hint = did_you_mean(str(first["input"]), choices)
        raise ConfigError(f"{name}: {plain_reason(first)}{hint}") from error


Source = str | Path | Sequence[str | Path] | Sequence[ase.Atoms]
DEFAULT_CUTOFF = 5.0  # Å; where no model says otherwise


class AtomsDataset(Dataset):
    """Structures with labels: energies, forces and stresses, charges, moments, and any other quantity.

    Args:
        source: whatever one of ``nfflr.data.sources`` opens (a file that ASE reads, JSON or JSON lines of
            JARVIS, the name of a JARVIS data set, a folder with ``id_prop.csv`` or ``id_prop.json``, an LMDB
            file by ``write_lmdb``), a list of these (several OUTCARs), or a list of ``ase.Atoms``.
        target: ``"energy_and_forces"`` (stress is used where it is given), ``"total_energy"``, the name of a
            standard quantity (``"magmoms"``) or of any other value in the data, a ``Quantity`` of your own,
            or several of these. Numbers are regressed; text and truth values are classes. A value belongs to
            atoms if it stands in a column of the source, or has a row for each atom of structures of
            different sizes.
        transform: structure → ``Graph`` or any other input of a model; default: neighbours within the cutoff
            of the model that is trained (5 Å outside of training).
        test_source: a separate test set; its structures must not occur in ``source``.
        options

    Attributes:
        records: the structures and labels; read on demand from LMDB.
        quantities: what is labelled, in the order of ``target``.
        split: indices of ``"train"``, ``"val"`` and ``"test"``.
        origin: the arguments as JSON, so that a record of a run can name its data; no ``transform``.

    Raises:
        ConfigError: a file is missing or an argument is wrong.
        StructureError: a structure or a label cannot be used; the message names it.
    """

    __signature__: ClassVar[Signature]  # with the options of DatasetConfig, for help() and editors

    def __init__(
        self,
        source: Source,
        target: Target | Sequence[Target] = "energy_and_forces",
        *,
        transform: Callable[[ase.Atoms], Any] | None = None,
        test_source: Source | None = None,
        **options: Any,
    ):
        config = _checked(options)
        parts = [target] if isinstance(target, str | Quantity | Mapping) else list(target)
        asked = [from_description(t) if isinstance(t, Mapping) else t for t in parts]
        quantities = quantities_of(asked)
        names = [name_of(q) for q in quantities]
        for key in config.keys:
            if key not in (labels := {*FORCE_FIELD_LABELS, *names}):
                hint = did_you_mean(key, labels)
                raise ConfigError(f"keys: got {key!r}; expected one of {sorted(labels)}{hint}")
        if config.energy_units not in (None, "eV") and "total_energy" not in names:
            raise ConfigError(f"energy_units: {target!r} keeps its own unit; leave energy_units out")
        self.target, self.transform, self.diskcache = target, transform, config.diskcache
        self.origin = {
            "source": named_source(source),
            "test_source": None if test_source is None else named_source(test_source),
            "target": target if isinstance(target, str) else [_described(t) for t in asked],
            **config.model_dump(mode="json", exclude={"target", "diskcache"}),
        }
        self._load = self._loader()
        self.records = read_records(source, quantities, **config.labels)
        self.split = split_indices(len(self.records), config.n_train, config.n_val, config.seed)
        if test_source is not None:
            first, extra = len(self.records), read_records(test_source, quantities, **config.labels)
            self.split["test"] = [*self.split["test"], *range(first, first + len(extra))]
            self.records = joined([self.records, extra])
        for q, name in zip(quantities, names, strict=True):
            may_be_absent = name in FORCE_FIELD_LABELS or (config.allow_missing and isinstance(q, Quantity))
            if not may_be_absent and not any(name in record.labels for record in self.records):
                refuse_unknown(source, name, config.keys.get(name, name))
        optional = {"stress"} if "energy_and_forces" in asked else set()
        self.quantities = self._judged(quantities, optional, config)
        self._inputs: dict[int, Any] = {}
        self._elements: tuple[str, ...] | None = None
        self._digest: str | None = None

    def _judged(
        self, quantities: Sequence[Target], optional: Set[str], config: DatasetConfig
    ) -> tuple[Quantity, ...]:
        """What each target is, once every label and the split are found to be sound."""
        names = {name_of(q) for q in quantities}
        required = [] if config.allow_missing else [n for n in FORCE_FIELD_LABELS if n in names - optional]
        classify = (config.classify,) if isinstance(config.classify, str) else config.classify
        targets = TargetCheck(quantities, classify, config.classes, config.allow_missing)
        sequence: list[checks.Check] = [
            checks.LabelCheck(required),
            targets,
            checks.EnergyCheck(len(self.records)),
            checks.StressCheck(),
        ]
        if not config.allow_duplicates:
            held_out = [*self.split["val"], *self.split["test"]]
            sequence.append(checks.DuplicateCheck(self.split["train"], held_out))
        checks.run(self.records, *sequence)
        return targets.quantities

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the quantities."""
        return names_of(self.quantities)

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """Names of the classes of each target that has them, in the order of their indices."""
        return {q.name: q.classes for q in self.quantities if q.classes is not None}

    def declared(self, outputs: Sequence[Quantity]) -> AtomsDataset:
        """The same data with the unit, scale and symmetry that a model states for what it returns.

        A vector of a structure is one number an atom where the model says so: data of structures of one size
        do not show which it is.

        Raises:
            ConfigError: a model's quantity has another shape than the labels.
        """
        by_name = {output.name: output for output in outputs}
        quantities = tuple(q if q.classes else by_name.get(q.name, q) for q in self.quantities)
        for mine, other in zip(self.quantities, quantities, strict=True):
            if (mine.per_atom, mine.shape) == (other.per_atom, other.shape):
                continue
            for record in self.records:
                n = len(record.atoms)
                if mine.name in record.labels and mine.array_shape(n) != other.array_shape(n):
                    raise ConfigError(
                        f"model: {mine.name} comes out as {other.array_shape(n)}, the data ask for "
                        f"{mine.array_shape(n)} in {record.id}; change the model's outputs or the target"
                    )
        view = copy.copy(self)
        view.quantities = quantities
        return view

    def within(self, cutoff: float) -> AtomsDataset:
        """The same data with graphs of radius ``cutoff`` (Å); itself if it came with a transform."""
        if self.transform is not None:
            return self
        view = copy.copy(self)
        view.transform, view._inputs = partial(periodic_radius_graph, r=cutoff), {}
        view._load = view._loader()
        return view

    def _loader(self) -> Callable[[ase.Atoms], Any]:
        transform = self.transform or partial(periodic_radius_graph, r=DEFAULT_CUTOFF)
        return transform if self.diskcache is False else DiskCache(self.diskcache, transform)

    def part(self, name: str) -> Sequence[Record]:
        """Records of the split ``"train"``, ``"val"`` or ``"test"``."""
        return Selection([self.records], self.split[name])

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Any, Labels]:
        """The input, built once (kept in memory or on disk), and the labels (see ``label_tensors``)."""
        record = self.records[index]
        x = self._inputs.get(index)
        if x is None:
            try:
                x = self._load(record.atoms)
            except StructureError as error:
                raise error.named(record.id) from error
            if isinstance(self.records, list) and not isinstance(self._load, DiskCache):
                self._inputs[index] = x
        labels = label_tensors(record, self.quantities)
        labels["index"] = torch.tensor(index)
        return x, labels

    @property
    def elements(self) -> tuple[str, ...]:
        """Chemical symbols that occur, by atomic number."""
        if self._elements is None:
            numbers = {n for record in self.records for n in record.atoms.numbers.tolist()}
            self._elements = tuple(ase.data.chemical_symbols[n] for n in sorted(numbers))
        return self._elements

    def digest(self) -> str:
        """SHA-256 over structures, labels, classes and split."""
        if self._digest is None:
            content = hashlib.sha256(repr(self.split).encode())
            others = [(q.name, q.classes) for q in self.quantities if q.name not in FORCE_FIELD_LABELS]
            if others:
                content.update(repr(others).encode())
            for record in self.records:
                content.update(record.id.encode())
                hash_structure(content, record.atoms)
                for key in sorted(record.labels):
                    content.update(key.encode() + record.labels[key].tobytes())
            self._digest = content.hexdigest()
        return self._digest


_lines = [f"        {n}: {f.description}.\n" for n, f in DatasetConfig.model_fields.items() if n != "target"]
AtomsDataset.__doc__ = str(AtomsDataset.__doc__).replace("        options\n", "".join(_lines))
_own = [p for p in signature(AtomsDataset).parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
_defaults = {name: f.get_default(call_default_factory=True) for name, f in DatasetConfig.model_fields.items()}
_options = [Parameter(n, Parameter.KEYWORD_ONLY, default=d) for n, d in _defaults.items() if n != "target"]
AtomsDataset.__signature__ = Signature([*_own, *_options])


def collate(items: Sequence[tuple[Any, Labels]]) -> tuple[Any, dict[str, torch.Tensor]]:
    """Batch inputs (see ``batch_inputs``); labels of atoms are concatenated, those of structures stacked."""
    inputs, labels = zip(*items, strict=True)
    join = dict.fromkeys(labels[0].per_atom, torch.cat)
    return batch_inputs(inputs), {
        name: join.get(name, torch.stack)([label[name] for label in labels]) for name in labels[0]
    }


def _described(target: Target) -> str | dict[str, Any]:
    return target.described() if isinstance(target, Quantity) else target


def named_source(source: Source) -> str | list[str] | None:
    """The name of a source, a file's with its folder, or of each of a list; None for structures in memory."""
    names = [
        str(Path(part).resolve() if Path(part).exists() else part) if isinstance(part, str | Path) else None
        for part in sources.parts(source)
    ]
    return names[0] if isinstance(source, str | Path) or None in names else [str(name) for name in names]


def split_indices(n: int, n_train: int | float, n_val: int | float, seed: int) -> dict[str, list[int]]:
    """Random split of ``n`` structures; fractions if a number is a float, counts if it is an int.

    Raises:
        ConfigError: the numbers ask for more than all structures, for none to train on, or are no numbers.
    """
    sizes = []
    for name, value in (("n_train", n_train), ("n_val", n_val)):
        fraction = isinstance(value, float)
        if not isinstance(value, int | float) or not value >= 0 or (fraction and value > 1):
            raise ConfigError(f"{name}: got {value!r}; expected a fraction in [0, 1] or a count")
        sizes.append(round(value * n) if fraction else int(value))
    train, val = sizes
    if isinstance(n_train, float) and isinstance(n_val, float) and n_train + n_val <= 1 + 1e-9:
        train = min(train, n - val)  # rounding may ask for one too many
    if train < 1 or train + val > n:
        raise ConfigError(
            f"n_train={n_train}, n_val={n_val}: {train} + {val} of {n} structures cannot be had"
        )
    order = np.random.default_rng(seed).permutation(n).tolist()
    return {"train": order[:train], "val": order[train : train + val], "test": order[train + val :]}
