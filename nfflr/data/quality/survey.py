"""What is in a set of labelled structures: counts, ranges, distances, copies, outliers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Annotated

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from scipy.stats import median_abs_deviation

from ...structures.cells import complete_box, heights
from ...structures.neighbours import neighbor_list
from ...units import Unit
from ..records import FORCE_FIELD_LABELS, Record
from .label_checks import fingerprint

SEARCH = (4.0, 8.0)  # Å; the second where an atom has no neighbour within the first
OVERLAP = 0.6  # of the sum of covalent radii; nothing bonds so shortly
DEVIATIONS = 12  # robust standard deviations; thermal motion and strained cells stay within
LEAST_ENERGY = 0.1  # eV/atom; less is no outlier however narrow the rest
LEAST_FORCE = 20.0  # eV/Å


@dataclass(frozen=True)
class Outlier:
    """A structure unlike the others: ``what`` gives the quantity and its value with unit."""

    index: int
    id: str
    what: str


@dataclass(frozen=True)
class Survey:
    """Numbers about S structures; NaN where a label is missing, infinity where there is no such pair.

    Attributes:
        compositions: reduced formula of each structure.
        labels: how many structures have each label.
        largest_stress: largest component of each structure's stress.
        references: least-squares energies per element, Σ n_z e_z fitted to the total energies of structures
            that are not isolated atoms; ``determined`` says whether compositions fix them.
        residuals: what the fit leaves.
        pairs: shortest distance of each pair of elements in each structure, (S,).
        spacing: of each element, the median distance from an atom to its nearest neighbour.
        copies: indices of structures that are equal in elements, cell and positions.
        isolated: indices of structures in which no atom has a neighbour.
        bonded: elements of the other structures.
        heights: least distance between the faces of each cell along a periodic axis; infinity without one.
    """

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    compositions: tuple[str, ...]
    elements: tuple[str, ...]
    sizes: np.ndarray  # (S,)
    labels: dict[str, int]
    energy: Annotated[np.ndarray, Unit("eV/atom")]  # (S,)
    force_norms: Annotated[np.ndarray, Unit("eV/Å")]  # (all atoms with forces,)
    largest_force: Annotated[np.ndarray, Unit("eV/Å")]  # (S,)
    largest_stress: Annotated[np.ndarray, Unit("eV/Å^3")]  # (S,)
    references: Annotated[dict[str, float], Unit("eV")]
    determined: bool
    residuals: Annotated[np.ndarray, Unit("eV/atom")]  # (S,)
    pairs: Annotated[dict[tuple[str, str], np.ndarray], Unit("Å")]
    spacing: Annotated[dict[str, float], Unit("Å")]
    copies: tuple[tuple[int, ...], ...]
    isolated: tuple[int, ...]
    bonded: tuple[str, ...]
    heights: Annotated[np.ndarray, Unit("Å")]  # (S,)
    outliers: tuple[Outlier, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def missing(self, label: str) -> int:
        return len(self) - self.labels.get(label, 0)

    @property
    def repeats(self) -> list[int]:
        """Every copy but the first of its kind."""
        return sorted(k for same in self.copies for k in same[1:])


def survey(records: Sequence[Record]) -> Survey:
    """Look at every record once; needs sound label shapes (see ``LabelCheck``)."""
    count, labels, isolated = len(records), Counter[str](), []
    copies: dict[bytes, list[int]] = defaultdict(list)
    shortest: dict[tuple[int, int], np.ndarray] = {}
    nearest: dict[int, list[np.ndarray]] = defaultdict(list)
    rows, norms, counts = [], [], []
    for k, record in enumerate(records):
        atoms = record.atoms
        formula = atoms.symbols.formula.reduce()[0].format("hill")
        norms.append(np.linalg.norm(record.labels.get("forces", np.zeros((0, 3))), axis=1))
        rows.append((record.id, record.group, formula, _height(atoms), *_sizes(record)))
        counts.append(np.bincount(atoms.numbers, minlength=119))
        copies[fingerprint(record)].append(k)
        labels.update(label for label in FORCE_FIELD_LABELS if label in record.labels)
        if not _distances(atoms, k, count, shortest, nearest):
            isolated.append(k)
    ids, groups, formulas, heights, *columns = zip(*rows, strict=True)
    energy, force, stress = np.array(columns)
    per_element = np.array(counts)
    numbers = np.flatnonzero(per_element.any(axis=0)).tolist()
    references, residuals, determined = _references(per_element[:, numbers], energy, isolated)
    symbols = [chemical_symbols[z] for z in numbers]
    pairs = {
        (chemical_symbols[a], chemical_symbols[b]): shortest.get((a, b), np.full(count, np.inf))
        for a, b in combinations_with_replacement(numbers, 2)
    }
    distances = {chemical_symbols[z]: np.concatenate(nearest[z]) for z in sorted(nearest)}
    bonded = np.delete(per_element, isolated, axis=0).any(axis=0)
    return Survey(
        ids=ids,
        groups=groups,
        compositions=formulas,
        elements=tuple(symbols),
        sizes=per_element.sum(axis=1),
        labels=dict(labels),
        energy=energy,
        force_norms=np.concatenate(norms),
        largest_force=force,
        largest_stress=stress,
        references=dict(zip(symbols, references.tolist(), strict=True)),
        determined=determined,
        residuals=residuals,
        pairs=pairs,
        spacing={symbol: float(np.median(d)) for symbol, d in distances.items() if len(d)},
        copies=tuple(tuple(group) for group in copies.values() if len(group) > 1),
        isolated=tuple(isolated),
        bonded=tuple(chemical_symbols[z] for z in np.flatnonzero(bonded)),
        heights=np.array(heights),
        outliers=_outliers(ids, groups, residuals, force, pairs),
    )


def _sizes(record: Record) -> tuple[float, float, float]:
    """Energy per atom, largest force and largest component of stress; NaN for a missing label."""
    energy, forces, stress = (np.asarray(record.labels.get(n, np.nan)) for n in FORCE_FIELD_LABELS)
    force = np.linalg.norm(np.atleast_2d(forces), axis=1).max()
    return float(energy) / len(record.atoms), float(force), float(np.abs(stress).max())


def _height(atoms) -> float:
    """Least distance between opposite faces of the cell along a periodic axis (Å), infinity without one."""
    if not atoms.pbc.any():
        return float("inf")
    box = complete_box(atoms.cell.array, atoms.pbc)
    return float(heights(box)[atoms.pbc].min())


def _distances(atoms, k: int, count: int, shortest: dict, nearest: dict) -> bool:
    """Add a structure's shortest distances per pair and per atom; False if no atom has a neighbour."""
    numbers = atoms.numbers
    for radius in SEARCH:
        i, j, shift = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, radius)
        if len(np.unique(i)) == len(atoms):
            break
    if not len(i):
        return False
    r = np.linalg.norm(atoms.positions[j] - atoms.positions[i] + shift @ atoms.cell.array, axis=1)
    own = np.full(len(atoms), np.inf)
    np.minimum.at(own, i, r)
    for z in np.unique(numbers):
        nearest[int(z)].append(own[(numbers == z) & np.isfinite(own)])
    low, high = np.sort((numbers[i], numbers[j]), axis=0)
    code, where = np.unique(low * 119 + high, return_inverse=True)
    least = np.full(len(code), np.inf)
    np.minimum.at(least, where, r)
    for pair, distance in zip(code.tolist(), least, strict=True):
        shortest.setdefault(divmod(pair, 119), np.full(count, np.inf))[k] = distance
    return True


def _references(
    counts: np.ndarray, energy: np.ndarray, isolated: list[int]
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Energies per element (elements,), residuals per atom (S,), and whether the former are determined."""
    usable = np.isfinite(energy)
    usable[isolated] = False
    if not usable.any():
        return np.full(counts.shape[1], np.nan), np.full(len(energy), np.nan), False
    sizes = counts.sum(axis=1)
    solution, _, rank, _ = np.linalg.lstsq(counts[usable], (energy * sizes)[usable], rcond=None)
    residuals = np.where(usable, energy - counts @ solution / sizes, np.nan)
    return solution, residuals, bool(rank == counts.shape[1])


def _outliers(
    ids: Sequence[str],
    groups: Sequence[str],
    residuals: np.ndarray,
    force: np.ndarray,
    pairs: dict[tuple[str, str], np.ndarray],
) -> tuple[Outlier, ...]:
    """The worst first within each kind: energies and forces far from those of their group, distances."""
    outliers: list[Outlier] = []

    def add(excess: np.ndarray, values: np.ndarray, what: str) -> None:
        order = np.argsort(-excess, kind="stable")
        outliers.extend(Outlier(k, ids[k], what.format(values[k])) for k in order.tolist() if excess[k] > 0)

    names = np.array(groups)
    energy_text = "energy is {:+.3g} eV/atom off the composition fit"
    add(_excess(residuals, names, LEAST_ENERGY), residuals, energy_text)
    add(_excess(force, names, LEAST_FORCE), force, "force reaches {:.3g} eV/Å")
    for (a, b), distance in pairs.items():
        touching = covalent_radii[[chemical_symbols.index(a), chemical_symbols.index(b)]].sum()
        add(OVERLAP * touching - distance, distance, f"{a}–{b} distance is {{:.3g}} Å")
    return tuple(outliers)


def _excess(values: np.ndarray, groups: np.ndarray, least: float) -> np.ndarray:
    """How much farther values (S,) lie from their group's median than its spread, or all values', allows."""
    excess, finite = np.zeros(len(values)), np.isfinite(values)
    if not finite.any():
        return excess
    spread = median_abs_deviation(values[finite], scale="normal")
    for group in set(groups[finite].tolist()):
        own = finite & (groups == group)
        limit = max(least, DEVIATIONS * max(spread, median_abs_deviation(values[own], scale="normal")))
        excess[own] = np.maximum(np.abs(values[own] - np.median(values[own])) - limit, 0)
    return excess
