"""Checks of labelled data that run before the first epoch; each names the structure it objects to."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from ..errors import StructureError
from ..units import GPA
from .records import Record

MAX_STRESS = 1.5  # eV/Å³ (240 GPa); a typical stress above it was given in GPa or kbar
BULK_MODULI = (0.002, 10.0)  # eV/Å³ (0.3 to 1,600 GPa): softer than solid helium, stiffer than three diamonds


def check_labels(records: Sequence[Record], required: Sequence[str]) -> None:
    """Refuse missing, non-finite or misshapen labels.

    Raises:
        StructureError: naming the structure and the label.
    """
    for record in records:
        n = len(record.atoms)
        shapes = {"total_energy": (), "forces": (n, 3), "stress": (3, 3)}
        for key in required:
            if key not in record.labels:
                raise StructureError(
                    f"{record.id}: no {key} label; compute it, drop the structure, or set allow_missing=True"
                )
        if "stress" in record.labels and record.atoms.cell.rank < 3:
            raise StructureError(
                f"{record.id}: stress label of a structure whose cell has no volume; drop it"
            )
        for key, value in record.labels.items():
            if value.shape != shapes[key]:
                raise StructureError(f"{record.id}: {key} has shape {value.shape}, expected {shapes[key]}")
            if not np.isfinite(value).all():
                raise StructureError(f"{record.id}: {key} is not finite; drop the structure or correct it")


def check_stress(records: Sequence[Record]) -> None:
    """Refuse stresses whose unit or sign cannot be right.

    The trace of a stress in eV/Å³, tension positive, grows with volume at a rate that is a bulk modulus:
    positive, and within what solids have. Structures of equal composition are compared.

    Raises:
        StructureError: naming the structure with the largest stress.
    """
    labelled = [r for r in records if "stress" in r.labels]
    if not labelled:
        return
    size = np.array([np.abs(r.labels["stress"]).max() for r in labelled])
    worst = labelled[int(size.argmax())]
    advice = "give stress_units (eV/Å^3, GPa or kbar) and the sign (ASE: tension positive)"
    if np.median(size) > MAX_STRESS:
        raise StructureError(
            f"{worst.id}: stress reaches {size.max():.3g} eV/Å³ ({size.max() / GPA:.3g} GPa), "
            f"which looks like another unit; {advice}"
        )
    for slope, correlation, count in _stiffness(labelled):
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


def _stiffness(records: Sequence[Record]) -> list[tuple[float, float, int]]:
    """d(trace σ/3)/d ln V, correlation and count, for each composition with volumes that differ."""
    groups = defaultdict(list)
    for record in records:
        volume = record.atoms.get_volume()
        groups[record.atoms.get_chemical_formula()].append((volume, np.trace(record.labels["stress"]) / 3))
    found = []
    for values in groups.values():
        log_v, mean = np.log([v for v, _ in values]), np.array([s for _, s in values])
        if len(values) >= 5 and np.ptp(log_v) > 0.01 and mean.std() > 0:
            slope = np.polyfit(log_v, mean, 1)[0]
            found.append((float(slope), float(np.corrcoef(log_v, mean)[0, 1]), len(values)))
    return found


def check_energies(records: Sequence[Record]) -> None:
    """Refuse energies per atom that are labelled as totals.

    Totals follow Σ n_z e_z; energies per atom follow Σ (n_z/N) e_z. The better fit tells, provided that
    structure sizes differ.

    Raises:
        StructureError: naming the structure where the difference is largest.
    """
    labelled = [r for r in records if "total_energy" in r.labels]
    sizes = np.array([len(r.atoms) for r in labelled])
    if len(labelled) < 5 or sizes.max() < 1.3 * sizes.min():
        return
    energy = np.array([float(r.labels["total_energy"]) for r in labelled])
    counts = composition(labelled)
    as_total, as_mean = (_residuals(c, energy) for c in (counts, counts / sizes[:, None]))
    if (as_mean**2).sum() < 0.25 * (as_total**2).sum():
        worst = labelled[int(np.abs(as_total).argmax())]
        raise StructureError(
            f"{worst.id}: energies do not grow with the number of atoms, they look like energies per atom; "
            "set energy_units='eV/atom' or give totals"
        )


def composition(records: Sequence[Record]) -> np.ndarray:
    """Number of atoms of each element present, (structures, elements), elements by atomic number."""
    counts = np.stack([np.bincount(r.atoms.numbers, minlength=119) for r in records]).astype(float)
    return counts[:, counts.any(axis=0)]


def _residuals(design: np.ndarray, energy: np.ndarray) -> np.ndarray:
    return energy - design @ np.linalg.lstsq(design, energy, rcond=None)[0]


def fingerprint(record: Record) -> str:
    """Digest of elements, cell and positions to 1e-5 Å; equal for copies of a structure."""
    atoms = record.atoms
    content = hashlib.sha256(atoms.numbers.tobytes())
    for array in (atoms.cell.array, atoms.positions):
        content.update((np.round(array, 5) + 0.0).tobytes())  # + 0.0: no negative zeros
    return content.hexdigest()


def check_duplicates(train: Sequence[Record], held_out: Sequence[Record]) -> None:
    """Refuse a structure that stands both in the training split and in a held-out one.

    Raises:
        StructureError: naming both.
    """
    seen = {fingerprint(r): r.id for r in train}
    for record in held_out:
        twin = seen.get(fingerprint(record))
        if twin is not None:
            raise StructureError(
                f"{record.id}: the same structure is in the training split as {twin}; "
                "remove one, or set allow_duplicates=True"
            )
