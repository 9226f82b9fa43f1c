"""Labelled structures in the package's units, whatever the source used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import ase
import numpy as np

from ..errors import ConfigError, StructureError
from ..notes import note
from ..units import GPA, factor
from . import sources
from .sources import Entry

FORCE_FIELD_LABELS = ("total_energy", "forces", "stress")
ENERGY_UNITS = {
    "eV": 1.0,
    "eV/atom": 1.0,
    **{symbol: factor(symbol, "energy") for symbol in ("Ha", "kcal/mol")},
}
STRESS_UNITS = {"eV/Å^3": 1.0, "GPa": GPA, "kbar": factor("kbar", "stress")}
# Where each element of the 3×3 stands among the six numbers.
STRESS_ORDERS = {
    "voigt": [[0, 5, 4], [5, 1, 3], [4, 3, 2]],  # ASE: xx, yy, zz, yz, xz, xy
    "vasp": [[0, 3, 5], [3, 1, 4], [5, 4, 2]],  # VASP: xx, yy, zz, xy, yz, zx
    "3x3": None,
}
MISSING = ("", "na", "n/a", "nan")  # JARVIS writes "na"


@dataclass(frozen=True)
class Record:
    """A structure and its labels.

    ``total_energy`` () eV, ``forces`` (N, 3) eV/Å, ``stress`` (3, 3) eV/Å³; a property () or (P,) in its own
    unit, or the name of a class as text ().
    """

    id: str
    group: str
    atoms: ase.Atoms
    labels: dict[str, np.ndarray]


class LazyRecords(Sequence):
    """Records made anew from a lazy source whenever they are asked for; none is held."""

    def __init__(self, entries: Sequence[Entry], convert: Callable[[Entry], Record]):
        self.entries, self.convert = entries, convert

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Record:  # type: ignore[override]  # no slices
        return self.convert(self.entries[index])


class Chosen(Sequence):
    """Some of several sequences of records laid end to end; holds only their numbers."""

    def __init__(self, parts: Sequence[Sequence[Record]], indices: Sequence[int]):
        self.parts, self.indices = parts, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Record:  # type: ignore[override]  # no slices
        k = self.indices[index]
        for part in self.parts:
            if k < len(part):
                return part[k]
            k -= len(part)
        raise IndexError(index)


@dataclass(frozen=True)
class Conversion:
    """Turns entries of a source into records; plain data, so that it reaches other processes.

    Attributes:
        names: of each label, the names that a source may store it by.
        energy_units, stress_units, stress_sign, stress_order: as ``AtomsDataset`` takes them.
    """

    names: Mapping[str, Sequence[str]]
    energy_units: str
    stress_units: str = "eV/Å^3"
    stress_sign: int = 1
    stress_order: str | None = "voigt"

    def __call__(self, entry: Entry) -> Record:
        labels = {}
        for label, names in self.names.items():
            value = next((entry.values[n] for n in names if n in entry.values), None)
            number = label in FORCE_FIELD_LABELS and isinstance(
                value, float
            )  # a NaN here is a failed calculation
            if number or not is_missing(value):
                labels[label] = self._label(label, value, entry)
        return Record(entry.id, entry.group, entry.atoms, labels)

    def _label(self, label: str, value: Any, entry: Entry) -> np.ndarray:
        if label not in FORCE_FIELD_LABELS:
            return property_value(value, label, entry.id)
        numbers = _numbers(entry.id, label, value)
        scale = ENERGY_UNITS[self.energy_units]
        if label == "total_energy":
            return numbers * (scale * (len(entry.atoms) if self.energy_units.endswith("/atom") else 1))
        if label == "forces":
            return numbers * scale
        return self._square(numbers, entry.id) * (self.stress_sign * STRESS_UNITS[self.stress_units])

    def _square(self, stress: np.ndarray, ident: str) -> np.ndarray:
        if stress.shape != (6,):
            return stress.reshape(3, 3) if stress.size == 9 else stress
        if self.stress_order is None:
            raise ConfigError(
                f"stress_order: {ident} has six numbers; say whether they are in ASE's order ('voigt': "
                "xx, yy, zz, yz, xz, xy) or VASP's ('vasp': xx, yy, zz, xy, yz, zx)"
            )
        order = STRESS_ORDERS[self.stress_order]
        return stress if order is None else stress[order]


def read_records(
    source: str | Path | Sequence[ase.Atoms],
    labels: Sequence[str] = FORCE_FIELD_LABELS,
    *,
    energy_units: str | None = None,
    stress_units: str | None = None,
    stress_sign: int | None = None,
    stress_order: str | None = None,
    keys: Mapping[str, str] | None = None,
) -> Sequence[Record]:
    """Structures and those of their labels that are named, in eV, eV/Å and eV/Å³.

    Args:
        source: whatever one of ``nfflr.data.sources`` opens.
        labels: ``total_energy``, ``forces``, ``stress``, and names of properties.
        energy_units, stress_units, stress_sign, stress_order: as ``AtomsDataset`` takes them; None takes what
            the format fixes.
        keys: names of labels in the source where they differ.

    Returns:
        A list, or a lazy sequence where the source is one.

    Raises:
        ConfigError: the file is missing, or a unit is and the format does not fix it.
        StructureError: a structure cannot be used.
    """
    module, name = sources.find(source), sources.display_name(source)
    keys = keys or {}
    _refuse_reserved([label for label in labels if label not in keys], module, name)
    names = {label: (keys[label],) if label in keys else module.KEYS.get(label, (label,)) for label in labels}
    if "total_energy" in labels or "forces" in labels:
        energy_units = energy_units or _fixed_energy_units(module, name)
    stress, left_out = None, tuple[str, ...]()
    if "stress" in labels:
        stress = _stress_options(module, stress_units, stress_sign, stress_order)
        left_out = names.pop("stress") if stress is None else ()
    entries = module.read(source, {n for group in names.values() for n in group} | set(left_out))
    if not len(entries):
        raise StructureError(f"{name}: holds no structure; expected at least one")
    if left_out and any(n in entry.values for entry in entries for n in left_out):
        note(
            f"{name}: stresses are left out, since their unit and sign are not known; give stress_units and "
            "stress_sign"
        )
    conversion = Conversion(names, energy_units or "eV", *(stress or ()))
    return [conversion(e) for e in entries] if isinstance(entries, list) else LazyRecords(entries, conversion)


def _refuse_reserved(labels: Sequence[str], module: ModuleType, name: str) -> None:
    """A format's own name for a force-field label is not a property."""
    for label, stored in module.KEYS.items():
        for target in set(stored).intersection(labels).difference(FORCE_FIELD_LABELS):
            meant = "total_energy" if label == "total_energy" else "energy_and_forces"
            raise ConfigError(
                f"target: got {target!r}, which is how {name} stores {label}; did you mean {meant!r}?"
            )


def _fixed_energy_units(module: ModuleType, name: str) -> str:
    if module.ENERGY_UNITS is None:
        raise ConfigError(
            f"energy_units: is total_energy in {name} per cell or per atom? The format does not say; give "
            "energy_units='eV' (per cell), 'eV/atom', 'Ha' or 'kcal/mol'"
        )
    return module.ENERGY_UNITS


def _stress_options(
    module: ModuleType, units: str | None, sign: int | None, order: str | None
) -> tuple[str, int, str | None] | None:
    if module.STRESS is not None:
        fixed = module.STRESS
        return units or fixed[0], sign or fixed[1], order or fixed[2]
    if units is None:
        return None
    if sign is None:
        raise ConfigError("stress_sign: expected 1 (tension positive, ASE) or -1 (pressure positive, VASP)")
    return units, sign, order


def is_missing(value: Any) -> bool:
    """None, NaN, and what JARVIS writes for nothing: of a property."""
    if isinstance(value, str):
        return value.strip().lower() in MISSING
    return value is None or (isinstance(value, float) and value != value)


def property_value(value: Any, name: str, ident: str) -> np.ndarray:
    """A number (), a vector (P,) as float64, text () or a truth value ().

    Raises:
        StructureError: it is something else.
    """
    try:
        array = np.asarray(value)
    except ValueError:  # lists of unequal lengths
        array = np.asarray(None)
    if array.ndim == 0 and array.dtype.kind in "Ub":
        return array
    if array.dtype.kind in "fiu" and array.ndim <= 1 and array.size:
        return array.astype(np.float64)
    raise StructureError(
        f"{ident}: {name} is {repr(value)[:60]}; expected a number, a vector of numbers, or a class"
    )


def _numbers(ident: str, key: str, value: Any) -> np.ndarray:
    try:
        return np.array(value, dtype=float)
    except (TypeError, ValueError) as error:
        shown = repr(value)[:60]
        raise StructureError(f"{ident}: {key} is {shown}, expected numbers; correct the label") from error
