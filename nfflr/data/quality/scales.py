"""Which unit, sign and order labels have, as their agreement with energies tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
    slope: Slope | None, records: Sequence[Record], options: Mapping[str, object]
) -> Finding | None:
    """What a slope of energies along forces means, if they contradict each other.

    Args:
        slope: of the labels as they are read with ``options``, arguments of ``AtomsDataset``.
        records: the data.
    """
    if slope is None or not contradicts(slope):
        return None
    energy_units, force_units = str(options.get("energy_units", "eV")), options.get("force_units")
    size = float(np.median([len(r.atoms) for r in records if "forces" in r.labels]))
    squares = [np.mean(r.labels["forces"] ** 2) for r in records if "forces" in r.labels and len(r.atoms) > 1]
    strength = max(1e-6, float(np.sqrt(np.mean(squares))))  # eV/Å as read now
    now_force = abs(_force_scale(energy_units, force_units, 1))
    now = _force_scale(energy_units, force_units, options.get("force_sign", 1)) / _energy_scale(
        energy_units, size
    )
    tolerance = max(np.log(NEAR), 3 * slope.error / abs(slope.value))
    fits = []
    for rank, (energy, force) in enumerate(PAIRS):
        for sign in (1, -1):
            ratio = _force_scale(energy, force, sign) / _energy_scale(energy, size) / (slope.value * now)
            if ratio > 0 and abs(np.log(ratio)) < tolerance:
                size_off = abs(np.log(strength * _force_scale(energy, force, 1) / now_force / USUAL_FORCE))
                fits.append((abs(np.log(ratio)) + RARER * rank + ODDER * size_off, energy, force, sign))
    told = (
        f"energies change by {slope} times what the forces say ({slope.count} steps between near structures)"
    )
    if not fits:
        return Finding(told, "no unit explains it: are they of one calculation?")
    best, *others = sorted(fits)
    meaning = f"{told}, as if {_meaning(*best[1:])}"
    alike = [other for other in others if other[0] < best[0] + np.log(NEAR)]
    if alike:
        meaning += f" (or {_meaning(*alike[0][1:])}: {_force_options(*alike[0][1:])})"
    return Finding(meaning, f"give {_force_options(*best[1:])}", fatal=True)


def _energy_scale(units: str, size: float) -> float:
    return ENERGY_UNITS[units] * (size if units.endswith(PER_ATOM) else 1)


def _force_scale(energy_units: str, force_units: object, sign: object) -> float:
    scale = factor(str(force_units), "forces") if force_units else ENERGY_UNITS[energy_units]
    return scale * (-1 if sign == -1 else 1)


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
    return " ".join(options)


@dataclass(frozen=True)
class StressReading:
    """How stored stresses are to be read; ``order`` None where it does not matter or is not told."""

    units: str
    sign: int
    order: str | None = None

    @property
    def sign_and_unit(self) -> tuple[str, int]:
        return self.units, self.sign

    def __str__(self) -> str:
        order = f" --stress-order {self.order}" if self.order else ""
        return f"--stress-units {self.units} --stress-sign {self.sign}{order}"


def stress_reading(
    readings: Sequence[Reading], steps: Sequence[Step], stored: str | None = None, six: bool = False
) -> StressReading | None:
    """The unit, sign and order by which stresses agree with energies along strains; None if none does.

    Args:
        readings: the data as they are read now.
        steps: between their structures.
        stored: the name of the values; default: those that are read now.
        six: whether they are six numbers of unknown order.
    """
    best: tuple[float, StressReading] | None = None
    residuals: dict[str | None, float] = {}
    for order in ("voigt", "vasp") if six else (None,):
        fits = []
        for unit in ("eV/Å^3", VIRIAL):  # as they stand: times the volume, or a virial already
            found = agreement(reread(readings, unit, 1, order, stored), steps)
            fits += _stress_units(found, unit, order)
        if fits:
            off, reading, residuals[order] = min(fits, key=lambda fit: fit[0])
            if best is None or residuals[order] < residuals[best[1].order]:
                best = (off, reading)
    if best is None or not six:
        return best and best[1]
    other = residuals.get("vasp" if best[1].order == "voigt" else "voigt", np.inf)
    told = residuals[best[1].order] < DISTINCT * other
    return best[1] if told else replace(best[1], order=None)


def _stress_units(found: Agreement, unit: str, order: str | None) -> list[tuple[float, StressReading, float]]:
    """Readings that a slope along numbers as stored allows, with how far it is off."""
    slope = found.stress
    if slope is None or not slope.sharp:
        return []
    fits = []
    for name, scale in {VIRIAL: 1.0}.items() if unit == VIRIAL else STRESS_UNITS.items():
        if (name == VIRIAL) == (unit == VIRIAL):
            off = abs(np.log(abs(slope.value) / scale))
            if off < np.log(FAR):
                fits.append((off, StressReading(name, int(np.sign(slope.value)), order), found.residual))
    return fits


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
            value = next((entry.values[n] for n in names if n in entry.values), None)
            if (
                value is not None
                and np.shape(value) == (6,)
                and np.ptp(np.asarray(value, dtype=float)[3:]) > 0
            ):
                return f"{reading.conversion.folder}{entry.id}"
    return None


def sample_of(entries: Sequence[Entry], most: int) -> Iterator[Entry]:
    return (entries[k] for k in range(0, len(entries), max(1, len(entries) // most)))


def virial_name(readings: Sequence[Reading]) -> str | None:
    """The name of values that are virials by name and shape, where no stress is read."""
    for reading in readings:
        for entry in sample_of(reading.entries, 20):
            for name, value in entry.values.items():
                if (
                    "virial" in name.lower()
                    and not isinstance(value, str | dict)
                    and np.size(value) in (6, 9)
                ):
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
    """What a check found, without the Python argument that it proposes."""
    return objection.rpartition(";")[0] or objection


@dataclass(frozen=True)
class StressJudge:
    """Judges the stresses of data.

    Attributes:
        readings, records, steps: the data as they are read now, and steps between near structures.
        options, assumed: arguments by which they were read: those that were given, and those that were not.
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
                return [
                    Finding(
                        "energies along strains contradict the order of stresses",
                        f"give {likely}",
                        fatal=True,
                    )
                ]
        objection = objection_of(self.records, checks.StressCheck())
        if not contradicts(self.fit.stress) and objection is None:
            return []
        if contradicts(self.fit.forces) and objection is None:
            return []  # energies are in another unit; that is said first
        likely = stress_reading(self.readings, self.steps) or self._plausible()
        advice = f"give {likely}" if likely else "correct or drop them"
        if objection is not None:
            return [Finding(reason_of(objection), advice, fatal=True)]
        reason = f"energies along strains change by {self.fit.stress} times what stresses say"
        return [Finding(reason, advice, fatal=likely is not None)]

    def _asked(self) -> Finding:
        """The order of six numbers, or the unit and sign of virials, which have to be given."""
        likely = stress_reading(self.readings, self.steps, six=self.six is not None)
        virial = bool(self.assumed.keys() & {"stress_units", "stress_sign"})
        what = f"{self.six} has six stress components whose order is not known" if self.six else ""
        if virial:
            what = "virials are read by --key stress, which says neither their unit nor their sign"
        if likely is None:
            guess = StressReading(VIRIAL, -1) if virial else None
            advice = (
                f"give {guess} if they are −stress × volume, as QUIP, GAP and MACE store them"
                if guess
                else ""
            )
            orders = "--stress-order voigt (ASE: yz, xz, xy) or --stress-order vasp (xy, yz, zx)"
            advice = "; ".join(part for part in (advice, f"give {orders}" if self.six else "") if part)
            return Finding(
                f"{what}; energies along strains do not tell", advice, fatal=True, kind=ConfigError
            )
        if self.six and likely.order is None:
            orders = "--stress-order voigt (ASE: yz, xz, xy) or vasp (xy, yz, zx)"
            what, advice = f"{what}; energies along strains do not tell", f"give {orders}"
            advice += f" with {likely}" if str(likely) != str(self._now()) else ""
            return Finding(what, advice, fatal=True, kind=ConfigError)
        known = likely.sign_and_unit == self._now().sign_and_unit and not virial
        given = f"--stress-order {likely.order}" if known else str(likely)
        return Finding(what, f"energies along strains agree with {given}", fatal=True, kind=ConfigError)

    def _now(self) -> StressReading:
        conversion = self.readings[0].conversion
        return StressReading(conversion.stress_units, conversion.stress_sign)

    def _virials(self) -> list[Finding]:
        """Virials beside no stress: by which options they would be read."""
        stored = virial_name(self.readings)
        if stored is None or "stress" in self.options.get("keys", {}):
            return []
        six = six_numbers(self.readings, stored) is not None
        likely = stress_reading(self.readings, self.steps, stored, six)
        told = "as their agreement with energies along strains tells"
        if likely is None:
            likely, told = (
                StressReading(VIRIAL, -1),
                "if they are −stress × volume, as QUIP, GAP and MACE store them",
            )
        order = " --stress-order voigt or vasp" if six and likely.order is None else ""
        reason = f"no stress is read; there are values named {stored}"
        return [Finding(reason, f"to train on them give --key stress={stored} {likely}{order}, {told}")]

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
                    f"{part} stresses disagree with energies along strains, which change by {slope} times"
                )
                reason += f" what these stresses say ({slope.count} steps, {self._groups(part)})"
                return [Finding(reason, advice)], f"energies along strains contradict the {part} components"
        offset = stress_offset(self.records)
        if offset is None or not offset.matters:
            return [], ""
        size = f"{offset.value / GPA:+.2f} ± {offset.error / GPA:.2f} GPa"
        reason = (
            f"stresses are off the strain derivative of energies by {size} ({offset.count} strained cells)"
        )
        return [
            Finding(reason, advice)
        ], f"stresses are {offset.value / GPA:+.1f} GPa off what the energies say"

    def _groups(self, part: str) -> str:
        """Groups of the structures between which a part of the strain differs."""
        names = dict[str, None]()
        for step in self.steps:
            normal = np.diag(np.diag(step.strain))
            strain = normal if part == "normal" else step.strain - normal
            if np.abs(strain).max() > LEAST_STRAIN:
                names[self.records[step.first].group] = None
        return "group " + ", ".join(list(names)[:4])
