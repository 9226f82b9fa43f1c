"""Whether labelled data can be trained on as they are, and which argument mends them where not.

Where a check of ``nfflr.data.quality.label_checks`` objects, other readings of the same numbers are shown to
it, and the first that it accepts is proposed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, pairwise
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
OTHER_WORDS = (
    "free kinetic formation cohesive gap band fermi homo lumo per peratom atom atomic above hull nuclear "
    "repulsion vdw dispersion d2 d3 d4 exchange correlation entropy zero zpe surface adsorption interaction "
    "binding std uncertainty error err var variance pred predicted mace ace nep nequip model ml mlip snap "
    "eam ff reference shift correction corrected delta relative zeropoint point max fmax net mean weight "
    "weights energies local"
)
OTHER = frozenset(OTHER_WORDS.split())
# Differences that basis sets and smearing leave.
TOLERANCES = (("total_energy", "eV/atom", 0.005), ("forces", "eV/Å", 0.02))
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
        options: units, signs, ``stress_order`` and ``keys`` as ``AtomsDataset`` takes them; None or left out:
            the format fixes it, or the numbers are judged as they stand.

    Raises:
        ConfigError, StructureError: the source cannot be read at all.
    """
    options = {name: value for name, value in options.items() if value is not None and value != {}}
    assumed = _assumed(source, options)
    opened = readings(source, everything=True, **(assumed | options))
    six = None if "stress_order" in options else six_numbers(opened)
    if six is not None:
        opened = [replace(r, conversion=replace(r.conversion, stress_order="voigt")) for r in opened]
    records = joined([reading.records() for reading in opened])
    if malformed := _malformed(records):
        return Diagnosis(options, None, (malformed,))
    name, steps = sources.display_name(source), near_steps(records)
    findings = [*unnamed_findings(opened, records, options, name), *rival_findings(opened, options, name)]
    fit = agreement(records, steps)
    findings += _energies(records, "energy_units" in assumed, options, fit)
    stress = StressJudge(opened, records, steps, options, assumed, six, fit)
    no_stress_unit = "stress_order" in assumed
    findings += stress.findings(no_stress_unit)
    if no_stress_unit:
        records = [replace(r, labels={k: v for k, v in r.labels.items() if k != "stress"}) for r in records]
    counts = survey(records)
    findings += [*state_findings(opened, records), *_unbalanced(records), *_structures(records, counts, name)]
    if no_stress_unit or any(finding.fatal for finding in findings):
        return Diagnosis(options, counts, tuple(findings))
    fault, reason = stress.fault()
    return Diagnosis(options, counts, (*findings, *fault), reason)


def _assumed(source: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Units and signs by which numbers are looked at where neither the format nor the user fixes them."""
    modules = [sources.find(part) for part in sources.parts(source)]
    assumed: dict[str, Any] = {}
    if any(module.ENERGY_UNITS is None for module in modules) and "energy_units" not in options:
        assumed["energy_units"] = "eV"
    if any(module.STRESS is None for module in modules) and "stress_units" not in options:
        assumed |= {"stress_units": "eV/Å^3", "stress_sign": 1, "stress_order": "voigt"}
    stored = str(options.get("keys", {}).get("stress", "")).lower()
    if "virial" in stored and "stress" not in stored and "stress_units" not in options:
        assumed |= {"stress_units": VIRIAL, "stress_sign": options.get("stress_sign", -1)}
    elif options.get("stress_units") == VIRIAL and "stress_sign" not in options:
        assumed["stress_sign"] = -1
    return assumed


def _malformed(records: Sequence[Record]) -> Finding | None:
    objection = objection_of(records, checks.LabelCheck(()))
    if objection and ": stress " in objection:
        advice = "correct it, or leave all stresses out: --key stress=none"
        return Finding(reason_of(objection), advice, fatal=True)
    return Finding(objection, fatal=True) if objection else None


def _energies(
    records: Sequence[Record], assumed: bool, options: Mapping[str, Any], fit: Agreement
) -> list[Finding]:
    objection = objection_of(records, checks.EnergyCheck(len(records)))
    as_totals = [_as_total(record) for record in records] if objection else []
    per_atom = bool(objection) and objection_of(as_totals, checks.EnergyCheck(len(records))) is None
    if assumed and any("total_energy" in r.labels for r in records):
        return [Finding(_unknown_unit(records, per_atom), fatal=True, kind=ConfigError)]
    if objection and per_atom:
        return [Finding(reason_of(objection), "give --energy-units eV/atom", fatal=True)]
    if objection:
        return [Finding(objection, fatal=True)]
    disagreement = force_finding(fit.forces, records, options)
    return [disagreement] if disagreement else _large_forces(records)


def _unknown_unit(records: Sequence[Record], per_atom: bool) -> str:
    """Both readings of energies without a unit, and the evidence for either."""
    labelled = [r for r in records if "total_energy" in r.labels]
    energy = np.array([float(r.labels["total_energy"]) for r in labelled])
    sizes = np.array([len(r.atoms) for r in labelled])
    evidence = "structures of equal size do not show it"
    if sizes.max() >= checks.SIZES_TELL * sizes.min():
        evidence = f"they look like energies {'per atom' if per_atom else 'of whole cells'}"
    total, mean = (f"{e.min():.4g} … {e.max():.4g} eV/atom" for e in (energy / sizes, energy))
    return (
        f"energy_units: the format does not say; {evidence}; give --energy-units eV (then they are {total}), "
        f"eV/atom ({mean}), Ha or kcal/mol (MD17)"
    )


def _large_forces(records: Sequence[Record]) -> list[Finding]:
    squares = [np.mean(r.labels["forces"] ** 2) for r in records if "forces" in r.labels]
    rms = float(np.sqrt(np.median(squares))) if squares else 0.0
    if rms < LARGE_FORCE:
        return []
    reason = f"forces: a component is typically {rms:.3g} eV/Å, which looks like another unit"
    return [Finding(reason, "if they are in kcal/mol, give --energy-units kcal/mol")]


def _as_total(record: Record) -> Record:
    """The record, its energy read as one per atom."""
    totals = {k: v * len(record.atoms) for k, v in record.labels.items() if k == "total_energy"}
    return replace(record, labels={**record.labels, **totals})


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
    findings = []
    for what, values in odd.items():
        beyond = [value for value in values if value[0] > NET]
        if beyond:
            share, ident = max(beyond)
            reason = (
                f"forces of {len(beyond)} structures add up to a net {what} (the largest: {ident}, "
                f"{share:.0%} of what unrelated forces would add up to)"
            )
            advice = "without fixed atoms or a field that is an error: are these the forces of these atoms?"
            findings.append(Finding(reason, advice))
    return findings


def _structures(records: Sequence[Record], counts: Survey, name: str) -> list[Finding]:
    findings = _copies(records, counts)
    useful = len(counts) - len({*counts.isolated, *counts.repeats})
    if useful < 2:
        reason = f"{name}: distinct structures of more than isolated atoms: {useful}, expected at least 2"
        findings.append(Finding(reason, "give more data", fatal=True))
    elif useful < FEW:
        reason = f"{useful} structures are few: too few to hold some out and judge the errors by them"
        findings.append(Finding(reason, "compute more, at least some tens"))
    if counts.labels.get("total_energy") and not counts.labels.get("forces"):
        reason = "no structure has forces, so that energies alone are trained on"
        advice = "one energy says far less than the forces of all atoms; compute forces if you can"
        findings.append(Finding(reason, advice))
    if alone := [e for e in counts.elements if e not in counts.bonded]:
        verb = "occurs" if len(alone) == 1 else "occur"
        reason = f"{', '.join(alone)} {verb} only in isolated atoms, which say nothing about neighbours"
        findings.append(Finding(reason, "the potential will not know it"))
    for distance in counts.pairs.values():
        if distance.min() < COINCIDENT:
            reason = f"{counts.ids[int(distance.argmin())]}: two atoms coincide"
            findings.append(Finding(reason, "move or remove one of them", fatal=True))
    for label in FORCE_FIELD_LABELS:
        if 0 < counts.labels.get(label, 0) < len(counts):
            first = next(r.id for r in records if label not in r.labels)
            reason = f"{counts.missing(label)} structures have no {label} (the first: {first})"
            findings.append(Finding(reason))
    return findings


def _copies(records: Sequence[Record], counts: Survey) -> list[Finding]:
    findings = []
    for a, b in chain.from_iterable(map(pairwise, counts.copies)):
        if label := _differing(records[a], records[b]):
            reason = f"{counts.ids[a]} and {counts.ids[b]} are the same structure with different {label}"
            findings.append(Finding(reason, "keep the one that is right", fatal=True))
    if counts.copies:
        first, second = (counts.ids[k] for k in counts.copies[0][:2])
        count = len(counts.repeats)
        several = f"{count} structures repeat others" if count > 1 else "1 structure repeats another"
        reason = f"{several} (the first: {second} repeats {first})"
        findings.append(Finding(reason, "a copy in both splits would flatter the validation"))
    return findings


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


def rival_findings(readings: Sequence[Reading], options: Mapping[str, Any], name: str) -> list[Finding]:
    """Energies or forces of several names that contradict each other, unless ``keys`` name one."""
    reasons, choices = [], []
    for label, unit, tolerance in TOLERANCES:
        differences = {} if label in options.get("keys", {}) else _differences(readings, label)
        rival = max(differences, key=differences.__getitem__, default="")
        if rival and differences[rival] > tolerance:
            own = readings[0].conversion.names[label][0]
            reasons.append(f"{own} and {rival} differ by {differences[rival]:.3g} {unit} rms")
            choices.append((f"--key {label}={rival}", f"--key {label}={own}"))
    if not choices:
        return []
    reason = f"{name}: {', '.join(reasons)}, so they are of different calculations"
    first, second = (" ".join(options) for options in zip(*choices, strict=True))
    return [Finding(reason, f"choose by {first}, or by {second}", fatal=True)]


def _differences(readings: Sequence[Reading], label: str) -> dict[str, float]:
    """Rms difference of values of other names from the label; of energies less what composition explains."""
    pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)  # differences and composition
    for reading in readings:
        own = reading.conversion.names.get(label, ())
        for entry in sample_of(reading.entries, LOOKED_AT):
            value = next((entry.values[n] for n in own if n in entry.values), None)
            if value is None:
                continue
            counts = np.bincount(entry.atoms.numbers, minlength=119).astype(float)
            for name in alike(entry, label):
                if name not in own:
                    off = np.ravel(value).astype(float) - np.ravel(entry.values[name]).astype(float)
                    pairs[name].append((off, counts))
    differences = {}
    for name, values in pairs.items():
        off = np.concatenate([value[0] for value in values])
        if label == "total_energy":
            counts = np.array([value[1] for value in values])
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
    energy = {r.id: float(r.labels["total_energy"]) for r in records if "total_energy" in r.labels}
    for what, names in STATES.items():
        groups = _states(readings, names)  # of each composition
        values = np.array([value for group in groups for value in group.values()])
        across = what == "charge" and len(values) and np.ptp(values) >= LEAST_STATE[what]
        if not across and not any(_differ(list(group.values()), what) for group in groups):
            continue
        numbers = sorted(set(np.round(values, 3).tolist()))
        listed = ", ".join(f"{n:g}" for n in numbers[:6]) + (", …" if len(numbers) > 6 else "")
        reason = f"the data mix states: {what} {listed}"
        apart = max(_apart(group, energy) for group in groups)
        if apart > 0:
            reason += f"; energies of one composition lie {apart:.3g} eV apart between them"
        advice = f"a potential does not know the {what}: train on structures of one {what}"
        findings.append(Finding(reason, advice))
    return findings


def _states(readings: Sequence[Reading], names: Sequence[str]) -> list[dict[str, float]]:
    """Values of a state by the name of the structure, for each composition."""
    groups: dict[bytes, dict[str, float]] = defaultdict(dict)
    for reading in readings:
        for entry in reading.entries:
            lowered = {key.lower(): value for key, value in entry.values.items()}
            value: Any = next((lowered[n] for n in names if n in lowered), None)
            with suppress(TypeError, ValueError):  # what is no number is passed over
                if np.isfinite(float(value)):
                    composition = np.sort(entry.atoms.numbers).tobytes()
                    groups[composition][f"{reading.conversion.folder}{entry.id}"] = float(value)
    return list(groups.values())


def _differ(values: Sequence[float], what: str) -> bool:
    least = LEAST_STATE[what]
    if what == "magnetic moment":  # it fluctuates in metals
        least = max(least, 0.3 * np.abs(values).max())
    return bool(np.ptp(values) >= least)


def _apart(group: Mapping[str, float], energy: Mapping[str, float]) -> float:
    """Largest difference between mean energies (eV) of the states of one composition."""
    energies: dict[float, list[float]] = defaultdict(list)
    for ident, value in group.items():
        if ident in energy:
            energies[round(value, 3)].append(energy[ident])
    return float(np.ptp([np.mean(values) for values in energies.values()])) if energies else 0.0


def unnamed_findings(
    readings: Sequence[Reading], records: Sequence[Record], options: Mapping[str, Any], name: str
) -> list[Finding]:
    """Labels that are nowhere under their own name, while a value of another name looks like them."""
    findings = []
    for label in FORCE_FIELD_LABELS:
        is_named = label in options.get("keys", {}) and label != "total_energy"  # perhaps to leave it out
        if is_named or any(label in record.labels for record in records):
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
