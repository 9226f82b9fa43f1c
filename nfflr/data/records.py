"""Labelled structures in the package's units, whatever the source used."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

import ase
import numpy as np

from ..errors import ConfigError, StructureError, did_you_mean
from ..notes import note
from ..quantities import LABELLED, QUANTITIES, Quantity, names_of
from ..units import GPA, factor
from . import sources
from .sources import Entry, Source

FORCE_FIELD_LABELS = names_of(LABELLED)
PER_ATOM = "/atom"
EnergyUnit = Literal["eV", "eV/atom", "Ha", "Ha/atom", "Ry", "kcal/mol", "kJ/mol"]
StressUnit = Literal["eV/Å^3", "GPa", "kbar", "eV"]
StressOrder = Literal["voigt", "vasp", "3x3"]
ENERGY_UNITS: dict[str, float] = {
    unit: factor(unit.removesuffix(PER_ATOM), "energy") for unit in get_args(EnergyUnit)
}
STRESS_UNITS: dict[str, float] = {"eV/Å^3": 1.0, "GPa": GPA, "kbar": factor("kbar", "stress"), "eV": 1.0}
VIRIAL = "eV"  # the stress unit that means a virial, to be divided by the volume
VIRIALS = tuple(f"{code}virial{s}" for code in ("", "REF_", "ref_", "dft_", "DFT_") for s in ("", "s"))
# Where each element of the 3×3 stands among the six numbers.
STRESS_ORDERS = {
    "voigt": [[0, 5, 4], [5, 1, 3], [4, 3, 2]],  # ASE: xx, yy, zz, yz, xz, xy
    "vasp": [[0, 3, 5], [3, 1, 4], [5, 4, 2]],  # VASP: xx, yy, zz, xy, yz, zx
    "3x3": None,
}
DEFAULT_STRESS = ("eV/Å^3", 1, "voigt")
MISSING = ("", "na", "n/a", "nan")  # JARVIS writes "na"


@dataclass(frozen=True)
class Record:
    """A structure and its labels.

    ``total_energy`` () eV, ``forces`` (N, 3) eV/Å, ``stress`` (3, 3) eV/Å³; any other label as an array of
    numbers in its own unit, or the name of a class as text (). ``per_atom`` names the labels of which the
    source says that every atom has its own.
    """

    id: str
    group: str
    atoms: ase.Atoms
    labels: dict[str, np.ndarray]
    per_atom: frozenset[str] = frozenset()


def hash_structure(content: hashlib._Hash, atoms: ase.Atoms) -> None:
    """Add the bits of a structure to a digest."""
    for array in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc):
        content.update(np.ascontiguousarray(array).tobytes())


class Selection(Sequence):
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
        folder: what stands before the names of records, so that files of one name differ.
        declared: by name the quantities, None where the shape is not known.

    The other attributes are arguments of ``AtomsDataset``.
    """

    names: Mapping[str, Sequence[str]]
    energy_units: str
    stress_units: str = "eV/Å^3"
    stress_sign: int = 1
    stress_order: str | None = "voigt"
    force_units: str | None = None
    force_sign: int = 1
    folder: str = ""
    declared: Mapping[str, Quantity | None] = field(default_factory=dict)

    def __call__(self, entry: Entry) -> Record:
        labels, per_atom = {}, set()
        for label, names in self.names.items():
            stored = next((n for n in names if n in entry.values), "")
            value = entry.values.get(stored)
            # A NaN among these is a calculation that failed, not one that was not made.
            is_number = isinstance(value, float | np.ndarray) and label in FORCE_FIELD_LABELS
            if label == "stress" and self.stress_units == VIRIAL and entry.atoms.cell.rank < 3:
                continue  # without a volume a virial says nothing about stress
            if is_number or not is_missing(value):
                labels[label] = self._label(label, value, entry)
                per_atom |= {label} if stored in entry.per_atom else set()
        return Record(f"{self.folder}{entry.id}", entry.group, entry.atoms, labels, frozenset(per_atom))

    def _label(self, label: str, value: Any, entry: Entry) -> np.ndarray:
        if label not in FORCE_FIELD_LABELS:
            return _value(value, label, entry, self.declared.get(label))
        numbers = _numbers(entry.id, label, value)
        scale = ENERGY_UNITS[self.energy_units]
        if label == "total_energy":
            return numbers * (scale * (len(entry.atoms) if self.energy_units.endswith(PER_ATOM) else 1))
        if label == "forces":
            unit = factor(self.force_units, "forces") if self.force_units else scale
            return numbers * (self.force_sign * unit)
        volume = entry.atoms.get_volume() if self.stress_units == VIRIAL else 1.0
        return self._square(numbers, entry.id) * (self.stress_sign * STRESS_UNITS[self.stress_units] / volume)

    def _square(self, stress: np.ndarray, ident: str) -> np.ndarray:
        if stress.shape != (6,):
            return stress.reshape(3, 3) if stress.size == 9 else stress
        if self.stress_order is None and np.ptp(stress[3:]) > 0:  # equal ones are the same in any order
            raise ConfigError(
                f"stress_order: {self.folder}{ident} has six numbers; say whether they are in ASE's order "
                "('voigt': xx, yy, zz, yz, xz, xy) or VASP's ('vasp': xx, yy, zz, xy, yz, zx), or leave "
                "stresses out (--key stress=none)"
            )
        order = STRESS_ORDERS[self.stress_order or "voigt"]
        return stress if order is None else stress[order]


@dataclass(frozen=True)
class Reading(Sequence):
    """A source by its name in messages, its entries, and their conversion to records.

    As a sequence it makes a record whenever one is asked for, and holds none. ``unread`` says that the source
    holds stresses that are not read; it is empty if there are none.
    """

    name: str
    entries: Sequence[Entry]
    conversion: Conversion
    unread: str

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Record:  # type: ignore[override]  # no slices
        return self.conversion(self.entries[index])

    def records(self) -> Sequence[Record]:
        """A list, or itself where the source reads on demand."""
        return list(self) if isinstance(self.entries, list) else self


def read_records(
    source: str | Path | Sequence[str | Path] | Sequence[ase.Atoms],
    labels: Sequence[str | Quantity] = FORCE_FIELD_LABELS,
    **options: Any,
) -> Sequence[Record]:
    """Structures and those of their labels that are named, in eV, eV/Å and eV/Å³; lazy where a source is.

    Args:
        source: whatever one of ``nfflr.data.sources`` opens, or a list of paths and names.
        labels: quantities, or names of standard ones or of whatever else the data hold.
        options: ``energy_units``, ``force_units``, ``force_sign``, ``stress_units``, ``stress_sign``,
            ``stress_order`` and ``keys`` as ``AtomsDataset`` takes them; None takes what the format fixes.

    Raises:
        ConfigError: the file is missing, or a unit is and the format does not fix it.
        StructureError: a structure cannot be used.
    """
    opened = readings(source, labels, **options)
    for reading in opened:
        if reading.unread:
            note(f"{reading.name}: {reading.unread}")
    return joined([reading.records() for reading in opened])


def joined(parts: Sequence[Sequence[Record]]) -> Sequence[Record]:
    """Several sequences as one: a list if all are."""
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, list) for part in parts):
        return [record for part in parts for record in part]
    return Selection(parts, range(sum(map(len, parts))))


def readings(
    source: Any,
    labels: Sequence[str | Quantity] = FORCE_FIELD_LABELS,
    everything: bool = False,
    **options: Any,
) -> list[Reading]:
    """Open a source, or each of a list, as ``read_records`` does; ``everything`` keeps all stored values."""
    declared = dict((x.name, x) if isinstance(x, Quantity) else (x, QUANTITIES.get(x)) for x in labels)
    parts = sources.parts(source)
    folders = zip(parts, sources.folders(parts), strict=True)
    return [_reading(part, folder, declared, everything, **options) for part, folder in folders]


def _reading(
    source: Any,
    folder: str,
    declared: Mapping[str, Quantity | None],
    everything: bool,
    *,
    energy_units: str | None = None,
    force_units: str | None = None,
    force_sign: int | None = None,
    stress_units: str | None = None,
    stress_sign: int | None = None,
    stress_order: str | None = None,
    keys: Mapping[str, str] | None = None,
) -> Reading:
    for option, sign in (("force_sign", force_sign), ("stress_sign", stress_sign)):
        if sign not in (None, 1, -1):
            raise ConfigError(f"{option}: should be 1 or -1, got {sign!r}")
    for option, value, choices in (
        ("energy_units", energy_units, ENERGY_UNITS),
        ("stress_units", stress_units, STRESS_UNITS),
        ("stress_order", stress_order, get_args(StressOrder)),
    ):
        if value is not None and value not in choices:
            hint = did_you_mean(value, choices)
            raise ConfigError(f"{option}: got {value!r}; expected one of {', '.join(choices)}{hint}")
    module, name = sources.find(source), folder + sources.display_name(source)
    keys = keys or {}
    names = _stored_names(declared, module, name, keys)
    energy_units = energy_units or module.ENERGY_UNITS
    if energy_units is None and declared.keys() & {"total_energy", "forces"}:
        raise ConfigError(
            f"energy_units: is total_energy in {name} per cell or per atom? The format does not say; give "
            "energy_units='eV' (per cell), 'eV/atom', 'Ha' or 'kcal/mol'"
        )
    stress, left_out = None, tuple[str, ...]()
    if "stress" in declared:
        stress = _stress_options(module, names["stress"], stress_units, stress_sign, stress_order)
        left_out = tuple(names.pop("stress")) if stress is None else ()
    values = {*chain.from_iterable(names.values()), *left_out, *(VIRIALS if "stress" in names else ())}
    entries = module.read(source, None if everything else values)
    if not len(entries):
        raise StructureError(f"{name}: holds no structure; expected at least one")
    conversion = Conversion(
        names,
        energy_units or "eV",
        *(stress or DEFAULT_STRESS),
        force_units,
        force_sign or 1,
        folder,
        declared,
    )
    unread = _unread(entries, left_out, names.get("stress", ()), stress_given=bool(keys.get("stress")))
    return Reading(name, entries, conversion, unread)


def _unread(
    entries: Sequence[Entry], left_out: Sequence[str], stress: Sequence[str], stress_given: bool
) -> str:
    """What to say about stresses that a source holds and that are not read."""
    some = entries if isinstance(entries, list) else [entries[0]]
    stored = {name for entry in some for name in entry.values}
    if stored.intersection(left_out):
        return (
            "stresses are left out, as their unit and sign are not known; give stress_units and stress_sign"
        )
    virial = next((n for entry in some for n in VIRIALS if n in entry.values), None)
    if stress_given or stored.intersection(stress) or virial is None:
        return ""
    return (
        f"no stress is read; {virial!r} is one if it is −stress × volume in eV, as QUIP, GAP and MACE "
        f"store it: --key stress={virial} --stress-units eV --stress-sign -1"
    )


def _stored_names(
    declared: Mapping[str, Quantity | None], module: Source, name: str, keys: Mapping[str, str]
) -> dict[str, Sequence[str]]:
    """The names by which the source may store each label; ConfigError if a target is such a name itself."""
    names: dict[str, Sequence[str]] = {}
    for label, quantity in declared.items():
        owner = next((of for of, stored in module.KEYS.items() if label in stored), label)
        if label not in keys and owner != label and label not in FORCE_FIELD_LABELS:
            likely = "total_energy" if owner == "total_energy" else "energy_and_forces"
            raise ConfigError(
                f"target: got {label!r}, which is how {name} stores {owner}; did you mean {likely!r}?"
            )
        own = module.KEYS.get(label, (label, *(quantity.stored_names if quantity else ())))
        names[label] = own if keys.get(label, own[0]) in own else (keys[label],)
    return names


def _stress_options(
    module: Source, names: Sequence[str], units: str | None, sign: int | None, order: str | None
) -> tuple[str, int, str | None] | None:
    virial = next((n for n in names if "virial" in n.lower() and "stress" not in n.lower()), None)
    if units is None and virial is not None:
        raise ConfigError(
            f"stress_units: is {virial!r} a virial or a stress? If it is −stress × volume in eV, as QUIP, "
            "GAP and MACE store it, give stress_units='eV' and stress_sign=-1 "
            "(--stress-units eV --stress-sign -1)"
        )
    if units == VIRIAL and sign is None:
        raise ConfigError(
            "stress_sign: of virials in eV, expected -1 (−stress × volume, as QUIP, GAP and MACE store it) "
            "or 1 (stress × volume, tension positive)"
        )
    if module.STRESS is not None:
        fixed = module.STRESS
        return units or fixed[0], sign or fixed[1], order or fixed[2]
    if units is None:
        return None
    if sign is None:
        raise ConfigError("stress_sign: expected 1 (tension positive, ASE) or -1 (pressure positive, VASP)")
    return units, sign, order


def is_missing(value: Any) -> bool:
    """None, NaN throughout, and what JARVIS writes for nothing: of a label outside the force field."""
    if isinstance(value, str):
        return value.strip().lower() in MISSING
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return bool(value.size) and bool(np.isnan(value).all())
    return value is None or (isinstance(value, float) and value != value)


def _value(value: Any, name: str, entry: Entry, declared: Quantity | None) -> np.ndarray:
    """Numbers as float64, in the declared shape where only axes are missing; text () or a truth value ()."""
    try:
        array = np.asarray(value)
    except ValueError:  # lists of unequal lengths
        array = np.asarray(None)
    if array.ndim == 0 and array.dtype.kind in "Ub":
        return array
    if array.dtype.kind not in "fiu" or not (array.size or entry.atoms.positions.size == 0):
        expected = "expected a number, an array of numbers, or a class"
        raise StructureError(f"{entry.id}: {name} is {repr(value)[:60]}; {expected}")
    array = array.astype(np.float64)
    shape = array.shape if declared is None else declared.array_shape(len(entry.atoms))
    same_atoms = declared is None or not declared.per_atom or array.shape[:1] == shape[:1]
    return array.reshape(shape) if array.size == np.prod(shape) and same_atoms else array


def _numbers(ident: str, key: str, value: Any) -> np.ndarray:
    try:
        return np.array(value, dtype=float)
    except (TypeError, ValueError) as error:
        shown = repr(value)[:60]
        raise StructureError(f"{ident}: {key} is {shown}, expected numbers; correct the label") from error
