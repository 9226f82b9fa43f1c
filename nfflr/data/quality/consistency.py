"""Whether stresses are the strain derivatives of the energies beside them, told by strained cells."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from scipy.linalg import polar

from ...units import GPA, Unit
from ..records import Record

SAME_SITE = 1e-3  # of a lattice vector; atoms that moved with the cell
LARGEST_STRAIN = 0.06  # beyond it the mean of two stresses is not the mean along the way
TOLERATED = 0.5 * GPA
LEAST_CHANGE = 0.005  # of tr ε over the cells
FEWEST = 8  # strained cells


@dataclass(frozen=True)
class StressOffset:
    """A constant that mean stresses exceed the energies' derivative by, with its standard error."""

    value: Annotated[float, Unit("eV/Å^3")]
    error: Annotated[float, Unit("eV/Å^3")]
    count: int

    @property
    def matters(self) -> bool:
        """Whether it is beyond what basis sets and fits leave, and beyond chance."""
        return abs(self.value) > max(TOLERATED, 6 * self.error)


def stress_offset(records: Sequence[Record]) -> StressOffset | None:
    """Offset of the trace of stresses from energies, over cells strained with their atoms.

    Between two such cells dE = V σ:dε, so ΔE − ⟨Vσ⟩:ε = −⟨V⟩ tr ε δ, with ⟨⟩ the mean of both ends, ε the
    logarithmic strain, and δ the offset, fitted over all families of equal composition together with a term
    in (tr ε)³ for what the mean of two ends misses.

    Returns:
        None where fewer than eight cells of a family have volumes that differ.
    """
    families: dict[bytes, list[Record]] = defaultdict(list)
    for record in records:
        atoms = record.atoms
        if {"total_energy", "stress"} <= record.labels.keys() and atoms.pbc.all():
            families[atoms.numbers.tobytes()].append(record)
    rows = [row for family in families.values() for row in _differences(family)]
    if len(rows) < FEWEST:
        return None
    trace, volume, rest = np.array(rows).T
    # The mean of two stresses misses the curvature between them by a term of third order.
    design = -(volume * trace)[:, None] * np.stack([np.ones(len(trace)), trace**2], axis=1)  # (cells, 2)
    if np.ptp(trace) < LEAST_CHANGE:
        return None
    solution = np.linalg.lstsq(design, rest, rcond=None)[0]
    variance = np.sum((rest - design @ solution) ** 2) / (len(rest) - 2)
    error = np.sqrt(variance * np.linalg.pinv(design.T @ design)[0, 0])
    return StressOffset(float(solution[0]), float(error), len(rest))


def _differences(family: list[Record]) -> list[tuple[float, float, float]]:
    """tr ε, ⟨V⟩ (Å³) and ΔE − ⟨Vσ⟩:ε (eV) of each cell against that of lowest energy."""
    reference = min(family, key=lambda record: float(record.labels["total_energy"]))
    inverse = np.linalg.inv(reference.atoms.cell.array)
    sites = reference.atoms.get_scaled_positions(wrap=False)
    found = []
    for record in family:
        atoms = record.atoms
        moved = atoms.get_scaled_positions(wrap=False) - sites
        moved -= moved[0]
        turn, stretch = polar(inverse @ atoms.cell.array, side="left")
        if record is reference or np.abs(moved - np.round(moved)).max() > SAME_SITE:
            continue
        values, axes = np.linalg.eigh(stretch)
        if values.min() <= 0 or np.abs(values - 1).max() > LARGEST_STRAIN:
            continue
        strain = (axes * np.log(values)) @ axes.T
        turned = turn @ record.labels["stress"] @ turn.T  # into the frame of the reference
        ends = (reference.atoms.get_volume(), reference.labels["stress"]), (atoms.get_volume(), turned)
        work = sum(volume * np.sum(stress * strain) for volume, stress in ends) / 2
        change = float(record.labels["total_energy"] - reference.labels["total_energy"])
        found.append((float(np.trace(strain)), (ends[0][0] + ends[1][0]) / 2, change - work))
    return found
