"""Whether labelled data can be trained on as they are, and which argument mends them where not.

The judges are those of ``nfflr.data.quality.label_checks``: where one objects, other readings of the same
numbers are shown to it, and the first that it accepts is proposed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from ...errors import ConfigError
from ...structures.checks import net_force, net_torque
from .. import sources
from ..graph import COINCIDENT
from ..records import VIRIAL, Record, joined, readings
from . import Finding
from . import label_checks as checks
from .agreement import Agreement, agreement
from .rivals import rival_finding, state_findings, unnamed_findings
from .scales import StressJudge, force_finding, objection_of, reason_of, six_numbers
from .steps import near_steps
from .survey import Survey, survey

SAME = 1e-4  # eV, eV/Å or eV/Å³; copies whose labels differ by more contradict each other
FEW = 10  # structures; fewer give no validation that says something
NET = 0.1  # of what unrelated forces add up to; codes leave a thousandth
LEAST_NET = 0.1  # eV/Å of the largest force; below it a net force is noise
LARGE_FORCE = 8.0  # eV/Å rms of a component; a crystal near melting has 1, kcal/mol read as eV 20


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
