"""Which unit and sign labels have, as their agreement with energies tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...units import factor
from ..records import ENERGY_UNITS, PER_ATOM, STRESS_UNITS, VIRIAL, Reading, Record, joined
from .agreement import Agreement, Slope, agreement
from .findings import Finding
from .steps import Step

FAR = 1.6  # ratio of a slope to one from which labels contradict each other
SURE = 4  # standard errors that the slope is off
NEAR = 1.15  # ratio to which a unit explains a slope
RARER, ODDER = 0.02, 0.05  # how much the rank below and an unusual size of forces count beside the slope
USUAL_FORCE = 0.7  # eV/Å rms of a component; data near equilibrium have less, liquids more
DISTINCT = 0.7  # ratio of unexplained parts from which one order of six numbers is the better
# Units of energies and forces that occur together by mistake, the commoner first; the sign may be wrong too.
PAIRS = (
    ("eV", "eV/Å"),
    ("Ha", "eV/Å"),
    ("eV/atom", "eV/Å"),
    ("eV", "Ha/Bohr"),
    ("Ha", "Ha/Bohr"),
    ("kcal/mol", "eV/Å"),
    ("eV", "kcal/mol/Å"),
    ("eV", "eV/Bohr"),
    ("Ry", "Ry/Bohr"),
    ("eV", "Ry/Bohr"),
    ("Ry", "eV/Å"),
    ("eV", "Ha/Å"),
    ("kJ/mol", "eV/Å"),
    ("eV", "kJ/mol/Å"),
    ("Ha/atom", "eV/Å"),
    ("Ha", "kcal/mol/Å"),
    ("kcal/mol", "Ha/Bohr"),
    ("kJ/mol", "kJ/mol/nm"),
)


def contradicts(slope: Slope | None) -> bool:
    """Whether energies and labels cannot be of one calculation in these units."""
    if slope is None or not slope.sharp or abs(slope.value - 1) < SURE * slope.error:
        return False
    return slope.value <= 0 or not 1 / FAR < slope.value < FAR


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
