"""Which unit, sign and order labels have, by their agreement with energies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from ...errors import ConfigError, StructureError
from ...units import GPA, factor
from ..records import ENERGY_UNITS, PER_ATOM, STRESS_UNITS, VIRIAL, Reading, Record, joined
from ..sources import Entry
from . import Finding
from . import label_checks as checks
from .agreement import Agreement, Slope, Step, agreement, stress_offset

FAR = 1.6  # ratio of a slope to one from which labels contradict each other
SURE = 4  # standard errors that the slope is off
NEAR = 1.15  # ratio to which a unit explains a slope
RARER, ODDER = 0.02, 0.05  # how much the rank below and an unusual size of forces count beside the slope
USUAL_FORCE = 0.7  # eV/Å rms of a component; data near equilibrium have less, liquids more
CONVENTION = "if they are −stress × volume, as QUIP, GAP and MACE store them"
DISTINCT = 0.7  # ratio of unexplained parts from which one order of six numbers is the better
# In the order in which people have them: a sign or unit of VASP's is commoner than its other half.
STRESSES = (("eV/Å^3", 1), ("eV/Å^3", -1), ("kbar", -1), ("GPa", 1), ("GPa", -1), ("kbar", 1))
FAR_PART = 1.3  # likewise for the normal or the shear part of stresses, which no unit explains
LEAST_STRAIN = 1e-3
# Units of energies and forces that occur together by mistake, the commoner first; the sign may be wrong too.
PAIRS = (
    ("eV", "eV/Å"), ("Ha", "eV/Å"), ("eV/atom", "eV/Å"), ("eV", "Ha/Bohr"), ("Ha", "Ha/Bohr"),
    ("kcal/mol", "eV/Å"), ("eV", "kcal/mol/Å"), ("eV", "eV/Bohr"), ("Ry", "Ry/Bohr"), ("eV", "Ry/Bohr"),
    ("Ry", "eV/Å"), ("eV", "Ha/Å"), ("kJ/mol", "eV/Å"), ("eV", "kJ/mol/Å"), ("Ha/atom", "eV/Å"),
    ("Ha", "kcal/mol/Å"), ("kcal/mol", "Ha/Bohr"), ("kJ/mol", "kJ/mol/nm"),
)  # fmt: skip


def contradicts(slope: Slope | None, far: float = FAR) -> bool:
    """Whether energies and labels cannot be of one calculation in these units, as the slope is off one."""
    if slope is None or not slope.sharp or abs(slope.value - 1) < SURE * slope.error:
        return False
    return not 1 / far < slope.value < far


def force_finding(
    slope: Slope | None, records: Sequence[Record], options: Mapping[str, Any]
) -> Finding | None:
    """What a slope of energies along forces, read with ``options``, means if they contradict each other."""
    if slope is None or not contradicts(slope):
        return None
    labelled = [r for r in records if "forces" in r.labels]
    size = float(np.median([len(r.atoms) for r in labelled]))
    squares = [np.mean(r.labels["forces"] ** 2) for r in labelled if len(r.atoms) > 1]
    strength = max(1e-6, float(np.sqrt(np.mean(squares))))  # eV/Å as read now
    now_energy, now_force = _scales(options.get("energy_units", "eV"), options.get("force_units"), size)
    now = slope.value * options.get("force_sign", 1) * now_force / now_energy
    tolerance = max(np.log(NEAR), 3 * slope.error / abs(slope.value))
    fits = []
    for (rank, (energy, force)), sign in product(enumerate(PAIRS), (1, -1)):
        energy_scale, force_scale = _scales(energy, force, size)
        ratio = sign * force_scale / energy_scale / now
        if ratio > 0 and abs(np.log(ratio)) < tolerance:
            size_off = abs(np.log(strength * force_scale / now_force / USUAL_FORCE))
            fits.append((abs(np.log(ratio)) + RARER * rank + ODDER * size_off, energy, force, sign))
    reason = f"energies change by {slope} times what the forces say"
    reason += f" ({slope.count} steps between near structures)"
    if not fits:
        return Finding(reason, "no unit explains it: are they of one calculation?")
    best, *others = sorted(fits)
    reason += f", as if {_meaning(*best[1:])}"
    if others and others[0][0] < best[0] + np.log(NEAR):
        reason += f" (or {_meaning(*others[0][1:])}: {_force_options(*others[0][1:])})"
    return Finding(reason, f"give {_force_options(*best[1:])}", fatal=True)


def _scales(energy_units: str, force_units: str | None, size: float) -> tuple[float, float]:
    """Factors that lead to eV and eV/Å in structures of ``size`` atoms."""
    scale = ENERGY_UNITS[energy_units]
    energy = scale * (size if energy_units.endswith(PER_ATOM) else 1)
    return energy, factor(force_units, "forces") if force_units else scale


def _meaning(energy: str, force: str, sign: int) -> str:
    gradients = "forces were gradients, of the opposite sign"
    if (energy, force) == ("eV", "eV/Å"):
        return gradients
    units = f"energies were in {energy} and forces in {force}"
    return units if sign == 1 else f"{units}, and {gradients}"


def _force_options(energy: str, force: str, sign: int) -> str:
    options = [f"--energy-units {energy}"] if energy != "eV" else []
    if ENERGY_UNITS[energy] != factor(force, "forces"):
        options.append(f"--force-units {force}")
    if sign == -1:
        options.append("--force-sign -1")
    return " ".join(options) or "--force-sign 1"


@dataclass(frozen=True)
class StressReading:
    """How to read stored stresses; ``order`` is None where it does not matter or is unknown."""

    units: str
    sign: int
    order: str | None = None

    def __str__(self) -> str:
        order = f" --stress-order {self.order}" if self.order else ""
        return f"--stress-units {self.units} --stress-sign {self.sign}{order}"


def stress_reading(
    readings: Sequence[Reading], steps: Sequence[Step], stored: str | None = None, six: bool = False
) -> StressReading | None:
    """The unit, sign and order by which stresses agree with energies along strains; None if none does.

    ``stored`` is the name of the values if it is another than that of now; ``six`` says that they are six
    numbers of unknown order.
    """
    fits: list[tuple[float, float, StressReading]] = []  # the best of each order
    for order in ("voigt", "vasp") if six else (None,):
        candidates = []
        for unit in ("eV/Å^3", VIRIAL):  # as they stand: times the volume, or a virial already
            fit = agreement(reread(readings, unit, 1, order, stored), steps)
            candidates += _stress_units(fit, unit, order)
        if candidates:
            fits.append(min(candidates, key=lambda candidate: candidate[1]))
    if not fits:
        return None
    (residual, _, reading), *others = sorted(fits, key=lambda candidate: candidate[0])
    is_distinct = not others or residual < DISTINCT * others[0][0]
    return reading if is_distinct else replace(reading, order=None)


def _stress_units(fit: Agreement, unit: str, order: str | None) -> list[tuple[float, float, StressReading]]:
    """What a fit leaves unexplained, how far its slope is off, and the reading, for each that it allows."""
    slope = fit.stress
    if slope is None or not slope.sharp:
        return []
    units = [VIRIAL] if unit == VIRIAL else [name for name in STRESS_UNITS if name != VIRIAL]
    off = {name: abs(np.log(abs(slope.value) / STRESS_UNITS[name])) for name in units}
    sign = int(np.sign(slope.value))
    return [(fit.residual, o, StressReading(name, sign, order)) for name, o in off.items() if o < np.log(FAR)]


def reread(
    readings: Sequence[Reading], units: str, sign: int, order: str | None, stored: str | None = None
) -> Sequence[Record]:
    """The records with stresses read in another way, from values of the name ``stored``."""
    parts = []
    for reading in readings:
        names = reading.conversion.names
        conversion = replace(
            reading.conversion,
            names={**names, "stress": (stored,)} if stored else names,
            stress_units=units,
            stress_sign=sign,
            stress_order=order or reading.conversion.stress_order or "voigt",
        )
        parts.append(replace(reading, conversion=conversion).records())
    return joined(parts)


def six_numbers(readings: Sequence[Reading], stored: str | None = None, ordered: bool = True) -> str | None:
    """The first structure whose six stress components mean different tensors in different orders.

    With ``ordered`` only where neither the format nor the user says their order.
    """
    for reading in readings:
        if ordered and reading.conversion.stress_order is not None:
            continue
        names = (stored,) if stored else reading.conversion.names.get("stress", ())
        for entry in reading.entries:
            value: Any = next((entry.values[n] for n in names if n in entry.values), None)
            if np.shape(value) == (6,) and np.ptp(np.asarray(value, dtype=float)[3:]) > 0:
                return f"{reading.conversion.folder}{entry.id}"
    return None


def sample_of(entries: Sequence[Entry], most: int) -> Iterator[Entry]:
    return (entries[k] for k in range(0, len(entries), max(1, len(entries) // most)))


def virial_name(readings: Sequence[Reading]) -> str | None:
    """The name of values that are virials by name and shape, where no stress is read."""
    for reading in readings:
        for entry in sample_of(reading.entries, 20):
            for name, value in entry.values.items():
                is_numeric = not isinstance(value, str | dict)
                if "virial" in name.lower() and is_numeric and np.size(value) in (6, 9):
                    return name
    return None


def objection_of(records: Sequence[Record], check: checks.Check) -> str | None:
    """What a check objects to."""
    try:
        checks.run(records, check)
    except StructureError as error:
        return str(error)
    return None


def reason_of(objection: str) -> str:
    """The objection of a check without the Python argument that it proposes."""
    return objection.rpartition(";")[0] or objection


@dataclass(frozen=True)
class StressJudge:
    """Judges the stresses of data.

    Attributes:
        readings, records, steps: the data as they are read now, and steps between near structures.
        options, assumed: arguments of the user by which they were read, and the others.
        six: a structure whose six numbers have no known order, or None.
        fit: of energies along the labels.
    """

    readings: Sequence[Reading]
    records: Sequence[Record]
    steps: Sequence[Step]
    options: Mapping[str, Any]
    assumed: Mapping[str, Any]
    six: str | None
    fit: Agreement

    def findings(self, no_unit: bool) -> list[Finding]:
        """What is wrong with how stresses are read, or what could be read."""
        if not any("stress" in record.labels for record in self.records):
            return self._virials()
        if no_unit:
            likely = stress_reading(self.readings, self.steps) or self._plausible()
            advice = f"to train on them give their unit and sign, likely {likely}" if likely else ""
            return [Finding("stresses are left out, the format fixes no unit for them", advice)]
        if self.six is not None or self.assumed.keys() & {"stress_units", "stress_sign"}:
            return [self._asked()]
        if self.options.get("stress_order") and six_numbers(self.readings, ordered=False):
            likely = stress_reading(self.readings, self.steps, six=True)
            if likely and likely.order not in (None, self.options["stress_order"]):
                reason = "energies along strains contradict the order of stresses"
                return [Finding(reason, f"give {likely}", fatal=True)]
        objection = objection_of(self.records, checks.StressCheck())
        if objection is None and (not contradicts(self.fit.stress) or contradicts(self.fit.forces)):
            return []  # a wrong unit of energies is said elsewhere
        likely = stress_reading(self.readings, self.steps) or self._plausible()
        advice = f"give {likely}" if likely else "correct or drop them"
        if objection is not None:
            return [Finding(reason_of(objection), advice, fatal=True)]
        reason = f"energies along strains change by {self.fit.stress} times what stresses say"
        return [Finding(reason, advice, fatal=likely is not None)]

    def _asked(self) -> Finding:
        """The order of six numbers, or the unit and sign of virials, which have to be given."""
        likely = stress_reading(self.readings, self.steps, six=self.six is not None)
        is_virial = bool(self.assumed.keys() & {"stress_units", "stress_sign"})
        reason = f"{self.six} has six stress components whose order is not known"
        if is_virial:
            reason = "virials are read by --key stress, which says neither their unit nor their sign"
        orders = "--stress-order voigt (ASE: yz, xz, xy) or vasp (xy, yz, zx)"
        conversion = self.readings[0].conversion
        is_read = likely and (likely.units, likely.sign) == (conversion.stress_units, conversion.stress_sign)
        if likely and (likely.order or not self.six):
            choice = f"--stress-order {likely.order}" if is_read and not is_virial else str(likely)
            advice = f"energies along strains agree with {choice}"
            return Finding(reason, advice, fatal=True, kind=ConfigError)
        advices = []
        if likely is None and is_virial:
            advices.append(f"give {StressReading(VIRIAL, -1)} {CONVENTION}")
        if self.six:
            advices.append(f"give {orders}" + (f" with {likely}" if likely and not is_read else ""))
        reason += "; energies along strains do not show it"
        return Finding(reason, "; ".join(advices), fatal=True, kind=ConfigError)

    def _virials(self) -> list[Finding]:
        """Virials beside no stress: by which options they would be read."""
        stored = virial_name(self.readings)
        if stored is None or "stress" in self.options.get("keys", {}):
            return []
        six = six_numbers(self.readings, stored) is not None
        likely = stress_reading(self.readings, self.steps, stored, six)
        basis = "as their agreement with energies along strains shows" if likely else CONVENTION
        likely = likely or StressReading(VIRIAL, -1)
        order = " --stress-order voigt or vasp" if six and likely.order is None else ""
        reason = f"no stress is read; there are values named {stored}"
        return [Finding(reason, f"to train on them give --key stress={stored} {likely}{order}, {basis}")]

    def _plausible(self) -> StressReading | None:
        """The first unit and sign with which stresses grow with volume as in a solid."""
        for unit, sign in STRESSES:
            records = reread(self.readings, unit, sign, None)
            if objection_of(records, checks.StressCheck()) is None:
                return StressReading(unit, sign)
        return None

    def fault(self) -> tuple[list[Finding], str]:
        """What forbids to train on stresses whose unit and sign are right; a few words for the config."""
        advice = "the config leaves stresses out of the loss"
        for part, slope in (("shear", self.fit.shear), ("normal", self.fit.normal)):
            if slope is not None and contradicts(slope, FAR_PART):
                reason = (
                    f"{part} stresses disagree with energies along strains, which change by {slope} times "
                    f"what these stresses say ({slope.count} steps, {self._groups(part)})"
                )
                return [Finding(reason, advice)], f"energies along strains contradict the {part} components"
        offset = stress_offset(self.records)
        if offset is None or not offset.matters:
            return [], ""
        value, error = offset.value / GPA, offset.error / GPA
        reason = f"stresses are off the strain derivative of energies by {value:+.2f} ± {error:.2f} GPa"
        finding = Finding(f"{reason} ({offset.count} strained cells)", advice)
        return [finding], f"stresses are {value:+.1f} GPa off what the energies say"

    def _groups(self, part: str) -> str:
        """Groups of the structures between which a part of the strain differs."""
        names = dict[str, None]()
        for step in self.steps:
            normal = np.diag(np.diag(step.strain))
            strain = normal if part == "normal" else step.strain - normal
            if np.abs(strain).max() > LEAST_STRAIN:
                names[self.records[step.first].group] = None
        return "group " + ", ".join(list(names)[:4])
