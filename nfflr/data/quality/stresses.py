"""Whether stresses are read in their unit, sign and order, and whether they belong to the energies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import ConfigError, StructureError
from ...units import GPA
from ..records import VIRIAL, Reading, Record
from . import label_checks as checks
from .agreement import Agreement, Slope
from .consistency import stress_offset
from .findings import Finding
from .rivals import virial_name
from .scales import StressReading, contradicts, reread, six_numbers, stress_reading
from .steps import Step

# In the order in which people have them: a sign or unit of VASP's is commoner than its other half.
STRESSES = (("eV/Å^3", 1), ("eV/Å^3", -1), ("kbar", -1), ("GPa", 1), ("GPa", -1), ("kbar", 1))
WRONG_PART = 0.3  # by which a slope of normal or shear stresses is off one
SURE_PART = 5  # standard errors
LEAST_STRAIN = 1e-3


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
            if slope is not None and _wrong(slope):
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


def _wrong(slope: Slope) -> bool:
    return slope.sharp and abs(slope.value - 1) > max(WRONG_PART, SURE_PART * slope.error)
