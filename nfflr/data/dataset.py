"""``AtomsDataset``: labelled structures, split by a seed, as batches of graphs."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import ase
import ase.data
import numpy as np
import torch
from torch.utils.data import Dataset

from ..errors import ConfigError, StructureError, did_you_mean
from . import checks
from .graph import Graph, batch_graphs, periodic_radius_graph
from .records import DEFAULT_KEYS, ENERGY_UNITS, STRESS_UNITS, Record, read_records

TARGETS = {"total_energy": ("total_energy",), "energy_and_forces": ("total_energy", "forces")}

Labels = dict[str, torch.Tensor]


class AtomsDataset(Dataset):
    """Structures with energies, forces and stresses.

    Args:
        source: a file that ASE reads (extended XYZ, also .xz and .gz; ASE database), or structures.
        target: ``"energy_and_forces"`` (stress is used where it is given) or ``"total_energy"``.
        energy_units: eV, eV/atom, Ha or kcal/mol, as stored in the source; inside, everything is eV.
        stress_units: eV/Å^3, GPa or kbar.
        stress_sign: +1 if tension is positive (ASE), −1 if pressure is (VASP).
        n_train, n_val: fractions, or counts; what is left is the test split.
        transform: structure → graph; default: neighbours within the cutoff of the model that is trained
            (5 Å outside of training).
        seed: of the split.
        test_source: a separate test file; its structures must not occur in ``source``.
        keys: names of the labels in the source if they differ from energy, forces, stress.
        allow_missing: mask missing energies and forces instead of refusing them.
        allow_duplicates: permit a structure to stand in the training and another split.

    Raises:
        ConfigError: a file is missing or an argument is wrong.
        StructureError: a structure or a label cannot be used; the message names it.
    """

    is_force_field, targets, classes = True, (), {}

    def __init__(
        self,
        source: str | Path | Sequence[ase.Atoms],
        target: str = "energy_and_forces",
        *,
        energy_units: str = "eV",
        stress_units: str = "eV/Å^3",
        stress_sign: int = 1,
        n_train: int | float = 0.9,
        n_val: int | float = 0.1,
        transform: Callable[[ase.Atoms], Graph] | None = None,
        seed: int = 42,
        test_source: str | Path | Sequence[ase.Atoms] | None = None,
        keys: dict[str, str] | None = None,
        allow_missing: bool = False,
        allow_duplicates: bool = False,
    ):
        _choose("target", target, TARGETS)
        _choose("energy_units", energy_units, ENERGY_UNITS)
        _choose("stress_units", stress_units, STRESS_UNITS)
        if stress_sign not in (1, -1):
            raise ConfigError(f"stress_sign: got {stress_sign!r}; expected 1 (tension positive) or -1")
        for key in keys or {}:
            _choose("keys", key, DEFAULT_KEYS)
        self.target = target
        self.transform = transform
        read = partial(
            read_records,
            energy_units=energy_units,
            stress_factor=stress_sign * STRESS_UNITS[stress_units],
            keys={**DEFAULT_KEYS, **(keys or {})},
        )
        self.records = read(source)
        self.split = split_indices(len(self.records), n_train, n_val, seed)
        if test_source is not None:
            extra = read(test_source)
            first = len(self.records)
            self.records = [*self.records, *extra]
            self.split["test"] = [*self.split["test"], *range(first, len(self.records))]
        checks.check_labels(self.records, () if allow_missing else TARGETS[target])
        checks.check_energies(self.records)
        checks.check_stress(self.records)
        if not allow_duplicates:
            held_out = [self.records[k] for k in self.split["val"] + self.split["test"]]
            checks.check_duplicates(self.part("train"), held_out)
        self._graphs: dict[int, Graph] = {}

    def within(self, cutoff: float) -> AtomsDataset:
        """The same data with graphs of radius ``cutoff`` (Å); itself if it came with a transform."""
        if self.transform is not None:
            return self
        view = copy.copy(self)
        view.transform, view._graphs = partial(periodic_radius_graph, r=cutoff), {}
        return view

    def part(self, name: str) -> list[Record]:
        """Records of the split ``"train"``, ``"val"`` or ``"test"``."""
        return [self.records[k] for k in self.split[name]]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Graph, Labels]:
        """The graph, built once, and the labels as tensors (see ``label_tensors``)."""
        record = self.records[index]
        if index not in self._graphs:
            try:
                transform = self.transform or partial(periodic_radius_graph, r=5.0)
                self._graphs[index] = transform(record.atoms)
            except StructureError as error:
                raise StructureError(f"{record.id}: {error}") from error
        return self._graphs[index], label_tensors(record) | {"index": torch.tensor(index)}

    @property
    def elements(self) -> tuple[str, ...]:
        """Chemical symbols that occur, by atomic number."""
        numbers = sorted({int(n) for r in self.records for n in r.atoms.numbers})
        return tuple(ase.data.chemical_symbols[n] for n in numbers)

    def digest(self) -> str:
        """SHA-256 over structures, labels and split."""
        content = hashlib.sha256(repr(self.split).encode())
        for record in self.records:
            content.update(record.id.encode())
            atoms = record.atoms
            for array in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc):
                content.update(np.ascontiguousarray(array).tobytes())
            for key in sorted(record.labels):
                content.update(key.encode() + record.labels[key].tobytes())
        return content.hexdigest()


def collate(items: Sequence[tuple[Graph, Labels]]) -> tuple[Graph, Labels]:
    """Batch graphs; labels are stacked (``forces`` concatenated), with NaN where one is missing."""
    graphs, labels = zip(*items, strict=True)
    join = {"forces": torch.cat}
    return batch_graphs(graphs), {
        key: join.get(key, torch.stack)([label[key] for label in labels]) for key in labels[0]
    }


def label_tensors(record: Record) -> Labels:
    """``total_energy`` (), ``forces`` (N, 3), ``stress`` (3, 3), ``n_atoms`` (); float64, NaN if missing."""
    n = len(record.atoms)
    shapes = {"total_energy": (), "forces": (n, 3), "stress": (3, 3)}
    tensors = {
        key: torch.as_tensor(record.labels[key]) if key in record.labels else torch.full(shape, torch.nan)
        for key, shape in shapes.items()
    }
    return {key: t.double() for key, t in tensors.items()} | {"n_atoms": torch.tensor(n)}


def split_indices(n: int, n_train: int | float, n_val: int | float, seed: int) -> dict[str, list[int]]:
    """Random split of ``n`` structures; fractions if a number is a float, counts if it is an int.

    Raises:
        ConfigError: more than all structures are asked for, or none to train on.
    """
    sizes = []
    for name, value in (("n_train", n_train), ("n_val", n_val)):
        fraction = isinstance(value, float)
        if value < 0 or (fraction and value > 1):
            raise ConfigError(f"{name}: got {value}; expected a fraction in [0, 1] or a count")
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


def _choose(name: str, value: str, options) -> None:
    if value not in options:
        raise ConfigError(
            f"{name}: got {value!r}; expected one of {sorted(options)}{did_you_mean(str(value), options)}"
        )
