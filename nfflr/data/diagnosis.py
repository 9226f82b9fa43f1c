"""Whether labelled data can be trained on as they are, and which argument mends them where not.

The judges are those of ``nfflr.data.checks``: where one objects, other readings of the same numbers are shown
to it, and the first that it accepts is proposed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import ase
import numpy as np

from ..errors import ConfigError, NFFLrError, StructureError
from ..units import GPA
from . import checks, sources
from .consistency import StressOffset, stress_offset
from .graph import COINCIDENT
from .records import FORCE_FIELD_LABELS, STRESS_UNITS, Record, is_missing, read_records
from .survey import Survey, survey

# In the order in which people have them: a sign or unit of VASP's is commoner than its other half.
STRESSES = (("eV/Å^3", 1), ("eV/Å^3", -1), ("kbar", -1), ("GPa", 1), ("GPa", -1), ("kbar", 1))
SAME = 1e-4  # eV, eV/Å or eV/Å³; copies whose labels differ by more contradict each other
LARGE_FORCE = 8.0  # eV/Å rms of a component; a crystal near melting has 1, kcal/mol read as eV 20


@dataclass(frozen=True)
class Finding:
    """Something to tell: ``advice`` is the argument or act that mends it; ``fatal`` forbids training."""

    reason: str
    advice: str = ""
    fatal: bool = False
    kind: type[NFFLrError] = StructureError

    def __str__(self) -> str:
        return f"{self.reason}; {self.advice}" if self.advice else self.reason


@dataclass(frozen=True)
class Diagnosis:
    """What was read, what is in it, and what is wrong with it.

    Attributes:
        options: arguments of ``AtomsDataset`` by which the source is to be read.
        offset: of stresses from energies, where it matters.
        survey: None where labels are malformed, so that nothing could be counted.
    """

    options: Mapping[str, object]
    survey: Survey | None
    findings: tuple[Finding, ...]
    offset: StressOffset | None = None

    @property
    def usable(self) -> bool:
        return not any(finding.fatal for finding in self.findings)

    def raise_if_unusable(self) -> None:
        """Raise the first fatal finding as its error, one line."""
        for finding in self.findings:
            if finding.fatal:
                raise finding.kind(str(finding))


def diagnose(source: str | Path | Sequence[ase.Atoms], **options: Any) -> Diagnosis:
    """Read a source and judge it.

    Args:
        source: as ``AtomsDataset`` takes it.
        options: ``energy_units``, ``stress_units``, ``stress_sign``, ``stress_order`` and ``keys``, as
            ``AtomsDataset`` takes them; None or left out: what the format fixes.

    Raises:
        ConfigError, StructureError: the source cannot be read at all.
    """
    options = {name: value for name, value in options.items() if value is not None and value != {}}
    module = sources.find(source)
    # Where the format fixes no unit and none is given, the numbers are read as they stand, to be looked at.
    assumed: dict[str, Any] = {"energy_units": "eV"} if module.ENERGY_UNITS is None else {}
    no_stress_unit = module.STRESS is None and "stress_units" not in options
    if no_stress_unit:
        assumed |= {"stress_units": "eV/Å^3", "stress_sign": 1, "stress_order": "voigt"}
    records = read_records(source, **(assumed | options))
    malformed = _malformed(records)
    if malformed:
        return Diagnosis(options, None, tuple(malformed))
    found = [
        *_unnamed(records, source, module, options),
        *_energies(records, "energy_units" in assumed, options),
    ]
    if no_stress_unit:
        found += _unread_stress(records)
        records = [replace(r, labels={k: v for k, v in r.labels.items() if k != "stress"}) for r in records]
    else:
        found += _stresses(records, options)
    seen = survey(records)
    found += _structures(records, seen, sources.display_name(source))
    offset = None if any(finding.fatal for finding in found) else stress_offset(records)
    if offset is None or not offset.matters:
        return Diagnosis(options, seen, tuple(found))
    size = f"{offset.value / GPA:+.2f} ± {offset.error / GPA:.2f} GPa"
    reason = f"stresses are off the strain derivative of energies by {size} ({offset.count} strained cells)"
    found.append(Finding(reason, "the config leaves them out of the loss"))
    return Diagnosis(options, seen, tuple(found), offset)


def _objection(records: Sequence[Record], check: checks.Check) -> str | None:
    try:
        checks.run(records, check)
    except StructureError as error:
        return str(error)
    return None


def _malformed(records: Sequence[Record]) -> list[Finding]:
    objection = _objection(records, checks.LabelCheck(()))
    if objection and ": stress " in objection:
        return [
            Finding(
                _reason(objection), "correct it, or leave all stresses out: --key stress=none", fatal=True
            )
        ]
    return [Finding(objection, fatal=True)] if objection else []


def _unnamed(records, source, module, options) -> list[Finding]:
    """Labels that are nowhere under their own name, while a value of another name looks like them."""
    found = []
    for label, word in zip(FORCE_FIELD_LABELS, ("energy", "force", "stress"), strict=True):
        chosen = label in options.get("keys", {}) and label != "total_energy"  # left out on purpose, maybe
        if chosen or any(label in record.labels for record in records):
            continue
        alike = {n for entry in _sample(module.read(source)) for n in _alike(entry, label, word)}
        stored = sorted(alike, key=lambda name: ("total" not in name, name))
        if stored:
            advice = f"give --key {label}={stored[0]}"
            reason = f"{sources.display_name(source)}: no {label}, but values named {', '.join(stored)}"
            found.append(Finding(reason, advice, fatal=label == "total_energy"))
        elif label == "total_energy":
            reason = (
                f"{sources.display_name(source)}: no structure has a total_energy, a force field needs it"
            )
            found.append(Finding(reason, "name it by --key total_energy=NAME, or compute it", fatal=True))
    return found


def _sample(entries: Sequence[sources.Entry]) -> list[sources.Entry]:
    return [entries[k] for k in range(0, len(entries), max(1, len(entries) // 20))]


def _alike(entry: sources.Entry, label: str, word: str) -> list[str]:
    sizes = {"total_energy": {1}, "forces": {3 * len(entry.atoms)}, "stress": {6, 9}}[label]
    names = []
    for name, value in entry.values.items():
        numeric = not is_missing(value) and not isinstance(value, str | dict | bool)
        if word in name.lower() and numeric and np.size(value) in sizes and not name.startswith("free"):
            names.append(name)
    return names


def _energies(records: Sequence[Record], assumed: bool, options: Mapping) -> list[Finding]:
    assumed = assumed and "energy_units" not in options
    objection = _objection(records, checks.EnergyCheck(len(records)))
    as_mean = [_times(r, "total_energy", len(r.atoms)) for r in records] if objection else []
    per_atom = bool(objection) and _objection(as_mean, checks.EnergyCheck(len(records))) is None
    if assumed and any("total_energy" in r.labels for r in records):
        return [Finding(_unknown_unit(records, per_atom), fatal=True, kind=ConfigError)]
    if objection and per_atom:
        return [Finding(_reason(objection), "give --energy-units eV/atom", fatal=True)]
    return [Finding(objection, fatal=True)] if objection else _large_forces(records)


def _unknown_unit(records: Sequence[Record], per_atom: bool) -> str:
    """Both readings of energies without a unit, and what tells between them."""
    known = [(float(r.labels["total_energy"]), len(r.atoms)) for r in records if "total_energy" in r.labels]
    energy, sizes = np.array(known).T
    told = "the format does not say, and structures of equal size do not tell"
    if sizes.max() >= checks.SIZES_TELL * sizes.min():
        told = (
            f"the format does not say; they look like energies {'per atom' if per_atom else 'of whole cells'}"
        )
    total, mean = (f"{e.min():.4g} … {e.max():.4g} eV/atom" for e in (energy / sizes, energy))
    others = "Ha or kcal/mol (MD17)"
    return f"energy_units: {told}; give --energy-units eV (then they are {total}), eV/atom ({mean}), {others}"


def _large_forces(records: Sequence[Record]) -> list[Finding]:
    squares = [np.mean(r.labels["forces"] ** 2) for r in records if "forces" in r.labels]
    rms = float(np.sqrt(np.median(squares))) if squares else 0.0
    if rms < LARGE_FORCE:
        return []
    reason = f"forces: a component is typically {rms:.3g} eV/Å, which looks like another unit"
    return [Finding(reason, "if they are in kcal/mol, give --energy-units kcal/mol")]


def _stresses(records: Sequence[Record], options: Mapping) -> list[Finding]:
    objection = _objection(records, checks.StressCheck())
    if objection is None:
        return []
    scale = STRESS_UNITS[options.get("stress_units", "eV/Å^3")] * options.get("stress_sign", 1)
    likely = _likely_stress([_times(r, "stress", 1 / scale) for r in records])
    return [Finding(_reason(objection), f"give {likely}" if likely else "correct or drop them", fatal=True)]


def _unread_stress(records: Sequence[Record]) -> list[Finding]:
    if not any("stress" in r.labels for r in records):
        return []
    likely = _likely_stress(records)
    advice = f"to train on them give their unit and sign, likely {likely}" if likely else ""
    return [Finding("stresses are left out, the format fixes no unit for them", advice)]


def _likely_stress(raw: Sequence[Record]) -> str | None:
    """Options for the first reading of stresses as stored that the check accepts."""
    for unit, sign in STRESSES:
        records = [_times(r, "stress", sign * STRESS_UNITS[unit]) for r in raw]
        if _objection(records, checks.StressCheck()) is None:
            return f"--stress-units {unit} --stress-sign {sign}"
    return None


def _times(record: Record, label: str, factor: float) -> Record:
    if label not in record.labels:
        return record
    return replace(record, labels={**record.labels, label: record.labels[label] * factor})


def _reason(objection: str) -> str:
    """What a check found, without the Python argument that it proposes."""
    return objection.rpartition(";")[0] or objection


def _structures(records: Sequence[Record], seen: Survey, name: str) -> list[Finding]:
    found = []
    for same in seen.copies:
        for a, b in pairwise(same):
            label = _differing(records[a], records[b])
            if label:
                reason = f"{seen.ids[a]} and {seen.ids[b]} are the same structure with different {label}"
                found.append(Finding(reason, "keep the one that is right", fatal=True))
    if seen.copies:
        first, second = (seen.ids[k] for k in seen.copies[0][:2])
        reason = f"{len(seen.repeats)} structures repeat others (the first: {second} repeats {first})"
        found.append(Finding(reason, "a copy in both splits would flatter the validation"))
    useful = len(seen) - len(set(seen.isolated) | set(seen.repeats))
    if useful < 2:
        reason = f"{name}: distinct structures of more than isolated atoms: {useful}, expected at least 2"
        found.append(Finding(reason, "give more data", fatal=True))
    for distance in seen.pairs.values():
        if distance.min() < COINCIDENT:
            reason = f"{seen.ids[int(distance.argmin())]}: two atoms coincide"
            found.append(Finding(reason, "move or remove one of them", fatal=True))
    for label in ("total_energy", "forces", "stress"):
        if 0 < seen.labels.get(label, 0) < len(seen):
            first = next(r.id for r in records if label not in r.labels)
            found.append(Finding(f"{seen.missing(label)} structures have no {label} (the first: {first})"))
    return found


def _differing(first: Record, second: Record) -> str | None:
    """A label that two records of the same structure contradict each other in."""
    for label in first.labels.keys() & second.labels.keys():
        if not np.allclose(first.labels[label], second.labels[label], rtol=0, atol=SAME):
            return label
    return None
