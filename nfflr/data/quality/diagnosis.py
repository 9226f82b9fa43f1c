"""Whether labelled data can be trained on as they are, and which argument mends them where not.

The judges are those of ``nfflr.data.quality.label_checks``: where one objects, other readings of the same
numbers are shown to it, and the first that it accepts is proposed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from ...errors import ConfigError
from ...structures.checks import net_force, net_torque
from .. import sources
from ..graph import COINCIDENT
from ..records import FORCE_FIELD_LABELS, VIRIAL, Reading, Record, is_missing, joined, readings
from ..sources import Entry
from . import Finding
from . import label_checks as checks
from .agreement import Agreement, agreement, near_steps
from .scales import StressJudge, force_finding, objection_of, reason_of, sample_of, six_numbers
from .survey import Survey, survey

SAME = 1e-4  # eV, eV/Å or eV/Å³; copies whose labels differ by more contradict each other
FEW = 10  # structures; fewer give no validation that says something
NET = 0.1  # of what unrelated forces add up to; codes leave a thousandth
LEAST_NET = 0.1  # eV/Å of the largest force; below it a net force is noise
LARGE_FORCE = 8.0  # eV/Å rms of a component; a crystal near melting has 1, kcal/mol read as eV 20

WORDS = {"total_energy": ("energy",), "forces": ("force", "forces"), "stress": ("stress",)}
# With one of these words a value is another quantity, or what a model predicts.
# fmt: off
OTHER = {
    "free", "kinetic", "formation", "cohesive", "gap", "band", "fermi", "homo", "lumo", "per",
    "peratom", "atom", "atomic", "above", "hull", "nuclear", "repulsion", "vdw", "dispersion", "d2",
    "d3", "d4", "exchange", "correlation", "entropy", "zero", "zpe", "surface", "adsorption",
    "interaction", "binding", "std", "uncertainty", "error", "err", "var", "variance", "pred",
    "predicted", "mace", "ace", "nep", "nequip", "model", "ml", "mlip", "snap", "eam", "ff",
    "reference", "shift", "correction", "corrected", "delta", "relative", "zeropoint", "point", "max",
    "fmax", "net", "mean", "weight", "weights", "energies", "local",
}
# fmt: on
ENERGY_TOLERANCE = 0.005  # eV/atom; basis sets and smearing leave less
FORCE_TOLERANCE = 0.02  # eV/Å
LOOKED_AT = 400  # structures, evenly spaced
STATES = {  # names of what an energy depends on besides the structure
    "charge": ("charge", "total_charge", "net_charge", "system_charge", "tot_charge", "q_tot"),
    "spin": ("spin", "multiplicity", "spin_multiplicity", "total_spin", "mult", "uhf", "n_unpaired"),
    "magnetic moment": ("magmom", "total_magmom", "magnetization", "magnetic_moment", "tot_magnetization"),
}
LEAST_STATE = {"charge": 0.1, "spin": 0.1, "magnetic moment": 1.0}


@dataclass(frozen=True)
class Diagnosis:
    """What was read, what is in it, and what is wrong with it.

    Attributes:
        options: arguments of ``AtomsDataset`` by which the source is to be read.
        survey: None where labels are malformed, so that nothing could be counted.
        stress_fault: why stresses are not to be trained on; empty if they are sound.
    """

    options: Mapping[str, object]
    survey: Survey | None
    findings: tuple[Finding, ...]
    stress_fault: str = ""

    @property
    def usable(self) -> bool:
        return not any(finding.fatal for finding in self.findings)

    def raise_if_unusable(self) -> None:
        """Raise the first fatal finding as its error, one line."""
        for finding in self.findings:
            if finding.fatal:
                raise finding.kind(str(finding))


def diagnose(source: Any, **options: Any) -> Diagnosis:
    """Read a source and judge it.

    Args:
        source: as ``AtomsDataset`` takes it.
        options: ``energy_units``, ``force_units``, ``force_sign``, ``stress_units``, ``stress_sign``,
            ``stress_order`` and ``keys``, as ``AtomsDataset`` takes them; None or left out: what the format
            fixes.

    Raises:
        ConfigError, StructureError: the source cannot be read at all.
    """
    options = {name: value for name, value in options.items() if value is not None and value != {}}
    modules = [sources.find(part) for part in sources.parts(source)]
    # Where the format fixes no unit and none is given, the numbers are read as they stand, to be looked at.
    assumed: dict[str, Any] = {}
    if any(module.ENERGY_UNITS is None for module in modules) and "energy_units" not in options:
        assumed["energy_units"] = "eV"
    no_stress_unit = any(module.STRESS is None for module in modules) and "stress_units" not in options
    if no_stress_unit:
        assumed |= {"stress_units": "eV/Å^3", "stress_sign": 1, "stress_order": "voigt"}
    stored = str(options.get("keys", {}).get("stress", ""))
    if "virial" in stored.lower() and "stress" not in stored.lower() and "stress_units" not in options:
        assumed |= {"stress_units": VIRIAL, "stress_sign": options.get("stress_sign", -1)}
    elif options.get("stress_units") == VIRIAL and "stress_sign" not in options:
        assumed["stress_sign"] = -1
    found = readings(source, everything=True, **(assumed | options))
    six = None if "stress_order" in options else six_numbers(found)
    if six is not None:
        found = [replace(r, conversion=replace(r.conversion, stress_order="voigt")) for r in found]
    records = joined([reading.records() for reading in found])
    malformed = _malformed(records)
    if malformed:
        return Diagnosis(options, None, tuple(malformed))
    name, steps = sources.display_name(source), near_steps(records)
    rival = rival_finding(found, options, name)
    findings = [*unnamed_findings(found, records, options, name), *([rival] if rival else [])]
    fit = agreement(records, steps)
    findings += _energies(records, "energy_units" in assumed, options, fit)
    stress = StressJudge(found, records, steps, options, assumed, six, fit)
    findings += stress.findings(no_stress_unit)
    if no_stress_unit:
        records = [replace(r, labels={k: v for k, v in r.labels.items() if k != "stress"}) for r in records]
    survey_ = survey(records)
    findings += [*state_findings(found, records), *_unbalanced(records), *_structures(records, survey_, name)]
    if no_stress_unit or any(finding.fatal for finding in findings):
        return Diagnosis(options, survey_, tuple(findings))
    fault, reason = stress.fault()
    return Diagnosis(options, survey_, (*findings, *fault), reason)


def _malformed(records: Sequence[Record]) -> list[Finding]:
    objection = objection_of(records, checks.LabelCheck(()))
    if objection and ": stress " in objection:
        return [
            Finding(
                reason_of(objection), "correct it, or leave all stresses out: --key stress=none", fatal=True
            )
        ]
    return [Finding(objection, fatal=True)] if objection else []


def _energies(
    records: Sequence[Record], assumed: bool, options: Mapping[str, Any], fit: Agreement
) -> list[Finding]:
    objection = objection_of(records, checks.EnergyCheck(len(records)))
    as_mean = [_times(r, "total_energy", len(r.atoms)) for r in records] if objection else []
    per_atom = bool(objection) and objection_of(as_mean, checks.EnergyCheck(len(records))) is None
    if assumed and any("total_energy" in r.labels for r in records):
        return [Finding(_unknown_unit(records, per_atom), fatal=True, kind=ConfigError)]
    if objection and per_atom:
        return [Finding(reason_of(objection), "give --energy-units eV/atom", fatal=True)]
    if objection:
        return [Finding(objection, fatal=True)]
    disagreement = force_finding(fit.forces, records, options)
    return [disagreement] if disagreement else _large_forces(records)


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


def _times(record: Record, label: str, factor: float) -> Record:
    if label not in record.labels:
        return record
    return replace(record, labels={**record.labels, label: record.labels[label] * factor})


def _unbalanced(records: Sequence[Record]) -> list[Finding]:
    """Structures whose forces add up to a force, or to a torque where no axis is periodic."""
    odd: dict[str, list[tuple[float, str]]] = {"force": [], "torque": []}
    for record in records:
        forces, atoms = record.labels.get("forces"), record.atoms
        if forces is None or len(atoms) < 2 or np.linalg.norm(forces, axis=1).max() < LEAST_NET:
            continue
        odd["force"].append((net_force(forces), record.id))
        if not atoms.pbc.any():
            odd["torque"].append((net_torque(atoms.positions, forces), record.id))
    found = []
    for what, values in odd.items():
        beyond = [value for value in values if value[0] > NET]
        if beyond:
            share, ident = max(beyond)
            reason = (
                f"forces of {len(beyond)} structures add up to a net {what} (the largest: {ident}, "
                f"{share:.0%} of what unrelated forces would add up to)"
            )
            advice = "without fixed atoms or a field that is an error: are these the forces of these atoms?"
            found.append(Finding(reason, advice))
    return found


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
        count = len(seen.repeats)
        several = f"{count} structures repeat others" if count > 1 else "1 structure repeats another"
        reason = f"{several} (the first: {second} repeats {first})"
        found.append(Finding(reason, "a copy in both splits would flatter the validation"))
    useful = len(seen) - len(set(seen.isolated) | set(seen.repeats))
    if useful < 2:
        reason = f"{name}: distinct structures of more than isolated atoms: {useful}, expected at least 2"
        found.append(Finding(reason, "give more data", fatal=True))
    elif useful < FEW:
        reason = f"{useful} structures are few: too few to hold some out and judge the errors by them"
        found.append(Finding(reason, "compute more, at least some tens"))
    if seen.labels.get("total_energy") and not seen.labels.get("forces"):
        reason = "no structure has forces, so that energies alone are trained on"
        advice = "one energy says far less than the forces of all atoms; compute forces if you can"
        found.append(Finding(reason, advice))
    if alone := [e for e in seen.elements if e not in seen.bonded]:
        verb = "occurs" if len(alone) == 1 else "occur"
        reason = f"{', '.join(alone)} {verb} only in isolated atoms, which say nothing about neighbours"
        found.append(Finding(reason, "the potential will not know it"))
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


def alike(entry: Entry, label: str) -> list[str]:
    """Names of values that look like a label by name and shape."""
    sizes = {"total_energy": {1}, "forces": {3 * len(entry.atoms)}, "stress": {6, 9}}[label]
    names = []
    for name, value in entry.values.items():
        words = _words(name)
        numeric = not is_missing(value) and not isinstance(value, str | dict | bool)
        named = any(word in words for word in WORDS[label]) and not OTHER & words
        if named and numeric and np.size(value) in sizes:
            names.append(name)
    return names


def _words(name: str) -> set[str]:
    """Lower-case words of a name: ``REF_energy``, ``dftEnergy`` and ``energy.dft`` have two."""
    parted = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    return set(re.split(r"[^a-z0-9]+", parted.lower()))


def rival_finding(readings: Sequence[Reading], options: Mapping[str, Any], name: str) -> Finding | None:
    """Energies or forces of several names that contradict each other, where none was chosen."""
    keys = options.get("keys", {})
    found: dict[str, dict[str, float]] = {}
    for label in ("total_energy", "forces"):
        if label not in keys:
            found[label] = _differences(readings, label)
    limits = {"total_energy": ENERGY_TOLERANCE, "forces": FORCE_TOLERANCE}
    beyond = {label: {n: v for n, v in found[label].items() if v > limits[label]} for label in found}
    if not any(beyond.values()):
        return None
    told, other = [], []
    for label, unit in (("total_energy", "eV/atom"), ("forces", "eV/Å")):
        if beyond.get(label):
            rival = max(beyond[label], key=beyond[label].__getitem__)
            own = readings[0].conversion.names[label][0]
            told.append(f"{own} and {rival} differ by {beyond[label][rival]:.3g} {unit} rms")
            other.append((label, own, rival))
    reason = f"{name}: {', '.join(told)}, so they are of different calculations"
    first, second = (" ".join(f"--key {o[0]}={o[k]}" for o in other) for k in (2, 1))
    return Finding(reason, f"choose by {first}, or by {second}", fatal=True)


def _differences(readings: Sequence[Reading], label: str) -> dict[str, float]:
    """Rms difference of values of other names from the label; of energies less what composition explains."""
    pairs: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = defaultdict(list)
    for reading in readings:
        own = reading.conversion.names.get(label, ())
        for entry in sample_of(reading.entries, LOOKED_AT):
            value = next((entry.values[n] for n in own if n in entry.values), None)
            if value is None:
                continue
            counts = np.bincount(entry.atoms.numbers, minlength=119)
            for name in alike(entry, label):
                if name not in own:
                    pairs[name].append((np.ravel(value), np.ravel(entry.values[name]), counts))
    differences = {}
    for name, values in pairs.items():
        own_values, others = (np.concatenate([v[k] for v in values]).astype(float) for k in (0, 1))
        off = own_values - others
        if label == "total_energy":
            counts = np.array([v[2] for v in values], dtype=float)
            counts = counts[:, counts.any(axis=0)]
            if len(off) > 2 * counts.shape[1]:  # another zero of energies is no contradiction
                off = off - counts @ np.linalg.lstsq(counts, off, rcond=None)[0]
            off = off / counts.sum(axis=1)
        off = off[np.isfinite(off)]
        if len(off):
            differences[name] = float(np.sqrt(np.mean(off**2)))
    return differences


def state_findings(readings: Sequence[Reading], records: Sequence[Record]) -> list[Finding]:
    """Charges, spins and magnetic moments that differ between structures of one composition."""
    findings = []
    energy = {record.id: record for record in records}
    for what, names in STATES.items():
        values = _state_values(readings, names)
        groups: dict[bytes, list[tuple[float, str]]] = defaultdict(list)
        for ident, numbers, value in values:
            groups[numbers].append((value, ident))
        spread = max((_spread(own, what) for own in groups.values()), default=0.0)
        across = what == "charge" and values and np.ptp([v for *_, v in values]) >= LEAST_STATE[what]
        if spread or across:
            findings.append(_state_finding(what, values, groups, energy))
    return findings


def _state_values(readings: Sequence[Reading], names: Sequence[str]) -> list[tuple[str, bytes, float]]:
    found = []
    for reading in readings:
        for entry in reading.entries:
            lowered = {key.lower(): value for key, value in entry.values.items()}
            value = next((lowered[n] for n in names if n in lowered), None)
            try:
                number = float(value)  # type: ignore[arg-type]  # what is none is passed over
            except (TypeError, ValueError):
                continue
            if np.isfinite(number):
                ident = f"{reading.conversion.folder}{entry.id}"
                found.append((ident, np.sort(entry.atoms.numbers).tobytes(), number))
    return found


def _spread(own: Sequence[tuple[float, str]], what: str) -> float:
    values = np.array([value for value, _ in own])
    least = LEAST_STATE[what]
    if what == "magnetic moment":  # it fluctuates in metals
        least = max(least, 0.3 * np.abs(values).max())
    return float(np.ptp(values)) if np.ptp(values) >= least else 0.0


def _state_finding(
    what: str,
    values: Sequence[tuple[str, bytes, float]],
    groups: Mapping[bytes, Sequence[tuple[float, str]]],
    records: Mapping[str, Record],
) -> Finding:
    numbers = sorted({round(value, 3) for *_, value in values})
    listed = ", ".join(f"{n:g}" for n in numbers[:6]) + (", …" if len(numbers) > 6 else "")
    reason = f"the data mix states: {what} {listed}"
    apart = max((_apart(own, records) for own in groups.values()), default=0.0)
    if apart > 0:
        reason += f"; energies of one composition lie {apart:.3g} eV apart between them"
    advice = f"a potential does not know the {what}: train on structures of one {what}"
    return Finding(reason, advice)


def _apart(own: Sequence[tuple[float, str]], records: Mapping[str, Record]) -> float:
    """Largest difference between mean energies (eV) of the states of one composition."""
    energies: dict[float, list[float]] = defaultdict(list)
    for value, ident in own:
        record = records.get(ident)
        if record is not None and "total_energy" in record.labels:
            energies[round(value, 3)].append(float(record.labels["total_energy"]))
    means = [float(np.mean(e)) for e in energies.values()]
    return max(means) - min(means) if len(means) > 1 else 0.0


def unnamed_findings(
    readings: Sequence[Reading], records: Sequence[Record], options: Mapping[str, Any], name: str
) -> list[Finding]:
    """Labels that are nowhere under their own name, while a value of another name looks like them."""
    findings = []
    for label in FORCE_FIELD_LABELS:
        chosen = label in options.get("keys", {}) and label != "total_energy"  # left out on purpose, maybe
        if chosen or any(label in record.labels for record in records):
            continue
        names = {n for r in readings for entry in sample_of(r.entries, 20) for n in alike(entry, label)}
        stored = sorted(names, key=lambda n: ("total" not in n, n))
        if stored:
            advice = f"give --key {label}={stored[0]}"
            reason = f"{name}: no {label}, but values named {', '.join(stored)}"
            findings.append(Finding(reason, advice, fatal=label == "total_energy"))
        elif label == "total_energy":
            reason = f"{name}: no structure has a total_energy, a force field needs it"
            findings.append(Finding(reason, "name it by --key total_energy=NAME, or compute it", fatal=True))
    return findings
