"""Checks of labelled data that run before the first epoch; each names the structure it objects to.

A check sees the records one by one (``add``) and judges in the end (``finish``), so that all of them take one
pass over a set that may be larger than memory.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Protocol

import ase
import numpy as np

from ...errors import StructureError
from ...quantities import LABELLED
from ...structures.cells import complete_box
from ...units import GPA
from ..records import Record

MAX_STRESS = 1.5  # eV/Å³ (240 GPa); a typical stress above it was given in GPa or kbar
MOST_COMPARED = 20_000  # structures; more add nothing about the unit of energies
SIZES_TELL = 1.3  # ratio of structure sizes that distinguishes totals from energies per atom
RESOLUTION = 1e-5  # Å; copies of a structure differ by less
BULK_MODULI = (0.002, 10.0)  # eV/Å³ (0.3 to 1,600 GPa): softer than solid helium, stiffer than three diamonds


class Check(Protocol):
    """Looks at every record; either method may raise ``StructureError``."""

    def add(self, index: int, record: Record) -> None: ...

    def finish(self, records: Sequence[Record]) -> None: ...


def run(records: Sequence[Record], *checks: Check) -> None:
    """Show every record to every check, in one pass, and let them judge in their order."""
    for index, record in enumerate(records):
        for check in checks:
            check.add(index, record)
    for check in checks:
        check.finish(records)


class LabelCheck:
    """Refuses non-finite or misshapen labels of force fields, and missing ones that are ``required``."""

    def __init__(self, required: Sequence[str]):
        self.required = required

    def add(self, index: int, record: Record) -> None:
        for key in self.required:
            if key not in record.labels:
                raise StructureError(
                    f"{record.id}: no {key} label; compute it, drop the structure, or set allow_missing=True"
                )
        if "stress" in record.labels and record.atoms.cell.rank < 3:
            raise StructureError(
                f"{record.id}: stress label of a structure whose cell has no volume; drop it"
            )
        for q in LABELLED:
            value, shape = record.labels.get(q.name), q.array_shape(len(record.atoms))
            if value is None:
                continue
            if value.shape != shape:
                raise StructureError(f"{record.id}: {q.name} has shape {value.shape}, expected {shape}")
            if not np.isfinite(value).all():
                raise StructureError(f"{record.id}: {q.name} is not finite; drop the structure or correct it")

    def finish(self, records: Sequence[Record]) -> None:
        pass


class StressCheck:
    """Refuses stresses whose unit or sign cannot be right, naming the structure with the largest.

    The trace of a stress in eV/Å³, tension positive, grows with volume at a rate that is a bulk modulus:
    positive, and within what solids have. Structures of equal composition are compared.
    """

    def __init__(self):
        self.index: list[int] = []
        self.size: list[float] = []
        self.groups: dict[bytes, list[tuple[float, float]]] = defaultdict(list)

    def add(self, index: int, record: Record) -> None:
        if "stress" in record.labels:
            stress, atoms = record.labels["stress"], record.atoms
            self.index.append(index)
            self.size.append(float(np.abs(stress).max()))
            self.groups[np.sort(atoms.numbers).tobytes()].append((atoms.get_volume(), np.trace(stress) / 3))

    def finish(self, records: Sequence[Record]) -> None:
        if not self.size:
            return
        largest = max(self.size)
        worst = records[self.index[self.size.index(largest)]]
        advice = "give stress_units (eV/Å^3, GPa or kbar) and the sign (ASE: tension positive)"
        if np.median(self.size) > MAX_STRESS:
            raise StructureError(
                f"{worst.id}: stress reaches {largest:.3g} eV/Å³ ({largest / GPA:.3g} GPa), "
                f"which looks like another unit; {advice}"
            )
        for volumes, means in (np.array(group).T for group in self.groups.values()):
            log_volume, count = np.log(volumes), len(volumes)
            if count < 5 or np.ptp(log_volume) <= 0.01 or means.std() == 0:
                continue
            slope = np.polyfit(log_volume, means, 1)[0]  # d(trace σ/3)/d ln V
            correlation = np.corrcoef(log_volume, means)[0, 1]
            t_statistic = abs(correlation) * np.sqrt((count - 2) / max(1 - correlation**2, 1e-12))
            if t_statistic < 6:  # chance and temperature would do this
                continue
            if slope < 0:
                raise StructureError(
                    f"{worst.id}: stress falls as volume grows, the sign looks reversed; {advice}"
                )
            if not BULK_MODULI[0] < slope < BULK_MODULI[1]:
                raise StructureError(
                    f"{worst.id}: stresses imply a bulk modulus of {slope / GPA:.3g} GPa, "
                    f"which looks like another unit; {advice}"
                )


class EnergyCheck:
    """Refuses energies per atom that are labelled as totals, in all of ``count`` structures or in some.

    Totals follow Σ n_z e_z; energies per atom follow Σ (n_z/N) e_z. The better fit decides, provided that
    structure sizes differ. Where only some are per atom, letting each structure choose fits far better than
    either. Of a large set, evenly spaced structures are compared.
    """

    def __init__(self, count: int):
        self.stride = max(1, count // MOST_COMPARED)
        self.index: list[int] = []
        self.energy: list[float] = []
        self.counts: list[np.ndarray] = []

    def add(self, index: int, record: Record) -> None:
        if index % self.stride == 0 and "total_energy" in record.labels:
            self.index.append(index)
            self.energy.append(float(record.labels["total_energy"]))
            self.counts.append(np.bincount(record.atoms.numbers, minlength=119))

    def finish(self, records: Sequence[Record]) -> None:
        if len(self.index) < 5:
            return
        energy, counts = np.array(self.energy), np.array(self.counts, dtype=float)
        counts = counts[:, counts.any(axis=0)]  # (structures, elements)
        sizes = counts.sum(axis=1)
        as_total, as_mean = (_misfit(c, energy) for c in (counts, counts / sizes[:, None]))
        if sizes.max() >= SIZES_TELL * sizes.min() and (as_mean**2).sum() < 0.25 * (as_total**2).sum():
            worst = records[self.index[int(np.abs(as_total).argmax())]]
            raise StructureError(
                f"{worst.id}: energies do not grow with the number of atoms, they look like energies per "
                "atom; set energy_units='eV/atom' or give totals"
            )
        place = _mixed(energy, counts, sizes)
        if place is not None:
            raise StructureError(
                f"{records[self.index[place]].id}: total_energy is off by the number of atoms, some energies "
                "are per cell and some per atom: units are mixed; convert the data to one unit, or drop these"
            )


def _mixed(energy: np.ndarray, counts: np.ndarray, sizes: np.ndarray) -> int | None:
    """Index of a structure whose energy fits the others if multiplied or divided by its number of atoms.

    Energies per atom are fitted to composition, each structure being free to choose between its energy and
    that times (or over) N; fit and choice alternate. Data are mixed if at least half of the outliers beyond
    eight deviations lie within two by that factor. Other outliers, as stretched structures are, do not.
    """
    if len(energy) < 3 * counts.shape[1]:
        return None
    share, per_atom = counts / sizes[:, None], energy / sizes
    pairs = ((per_atom, energy), (per_atom, per_atom / sizes))  # read as totals, or multiplied by N when read
    for usual, other in (*pairs, *(pair[::-1] for pair in pairs)):
        for begin in (np.ones(len(energy), bool), np.abs(usual) >= np.median(np.abs(usual))):
            outlier = _outlier(share, usual, other, begin, sizes)
            if outlier is not None:
                return outlier
    return None


def _outlier(
    share: np.ndarray, usual: np.ndarray, other: np.ndarray, begin: np.ndarray, sizes: np.ndarray
) -> int | None:
    """Index of the worst structure whose ``other`` energy per atom fits where its ``usual`` one does not."""
    level = share @ np.linalg.lstsq(share[begin], usual[begin], rcond=None)[0]
    for _ in range(10):
        swap = np.abs(other - level) < np.abs(usual - level)
        level = share @ np.linalg.lstsq(share, np.where(swap, other, usual), rcond=None)[0]
    if swap.mean() > 0.6:  # the other way round will do
        return None
    level = share @ np.linalg.lstsq(share[~swap], usual[~swap], rcond=None)[0]
    off, left = np.abs(usual - level), np.abs(np.where(swap, other, usual) - level)
    deviation = max(1.4826 * np.median(left[~swap]), 1e-3)  # eV/atom
    outliers = (off > 8 * deviation) & (sizes > 1)
    explained = outliers & (left < 2 * deviation) & (np.abs(level) > 8 * deviation)
    explained &= _determined(share, share[~swap])
    if not explained.any() or explained.sum() < 0.5 * outliers.sum():
        return None
    return int(np.where(explained, off, -1).argmax())


def _determined(share: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which compositions (S, elements) have a level that the compositions of ``others`` settle well."""
    square = others.T @ others
    inverse = np.linalg.pinv(square, rcond=1e-10, hermitian=True)
    outside = share - share @ inverse @ square
    leverage = np.einsum("se,ef,sf->s", share, inverse, share)
    return (np.abs(outside).max(axis=1) < 1e-6) & (leverage < 0.5)


def _misfit(design: np.ndarray, energy: np.ndarray) -> np.ndarray:
    return energy - design @ np.linalg.lstsq(design, energy, rcond=None)[0]


def fingerprint(record: Record) -> bytes:
    """Digest of elements, cell and positions to 1e-5 Å, whichever periodic image of an atom is given."""
    atoms = record.atoms
    content = hashlib.sha256(atoms.numbers.tobytes())
    for array in (atoms.cell.array, atoms.positions - _images(atoms) @ atoms.cell.array):
        content.update((np.round(array, 5) + 0.0).tobytes())  # + 0.0: no negative zeros
    return content.digest()


def short_fingerprint(record: Record) -> str:
    """A structure's fingerprint as 16 letters, for records of runs."""
    return fingerprint(record).hex()[:16]


def _images(atoms: ase.Atoms) -> np.ndarray:
    """Lattice steps (N, 3) from the cell to each atom; one at −1e-9 Å is in the cell, as that at 0 is."""
    box = complete_box(atoms.cell.array, atoms.pbc)
    slack = RESOLUTION / np.linalg.norm(box, axis=1)
    return np.floor(atoms.positions @ np.linalg.inv(box) + slack) * atoms.pbc


class DuplicateCheck:
    """Refuses a structure that stands both in the training split and in a held-out one, naming both."""

    def __init__(self, train: Collection[int], held_out: Collection[int]):
        self.train, self.held_out = (set(x) if held_out else set() for x in (train, held_out))
        self.fingerprints: dict[bytes, int] = {}
        self.others: list[tuple[bytes, int]] = []

    def add(self, index: int, record: Record) -> None:
        if index in self.train:
            self.fingerprints[fingerprint(record)] = index
        elif index in self.held_out:
            self.others.append((fingerprint(record), index))

    def finish(self, records: Sequence[Record]) -> None:
        for key, index in self.others:
            if key in self.fingerprints:
                raise StructureError(
                    f"{records[index].id}: the same structure is in the training split as "
                    f"{records[self.fingerprints[key]].id}; remove one, or set allow_duplicates=True"
                )
