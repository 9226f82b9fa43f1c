"""The atom sites of a CIF, and the crystal that symmetry operations make of them."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field

import ase
import numpy as np
from ase.cell import Cell
from ase.data import atomic_numbers, covalent_radii

from .cif_values import BadValue, Block, element, formula_of, is_ambiguous, named_by_label, number
from .neighbours import close_pairs
from .operations import CLOSEST, Operations
from .species import ISOTOPES

FRACTIONAL = tuple(f"_atom_site_fract_{axis}" for axis in "xyz")
CARTESIAN = tuple(f"_atom_site_cartn_{axis}" for axis in "xyz")
MULTIPLICITY = ("_atom_site_symmetry_multiplicity", "_atom_site_site_symmetry_multiplicity")
USUAL = re.compile(r"[A-Z][a-z]?(?![A-Za-z])")  # what ASE's reader finds elements in
REPEATED = 0.02  # Å; a site this close to an atom of the same element is that atom once more


@dataclass(frozen=True)
class Site:
    """An atom site.

    Attributes:
        label: its name in the file.
        symbol: of its element, ``D`` and ``T`` among them.
        position: (3,) fractional, or Å in a file with Cartesian coordinates.
        error: (3,) by which rounding may have changed the position.
        multiplicity: number of images in a cell, if the file says it.
    """

    label: str
    symbol: str
    position: np.ndarray
    error: np.ndarray
    multiplicity: float | None


@dataclass
class Sites:
    """The sites of a block, whether their coordinates are fractional, and what a user should know."""

    sites: list[Site]
    fractional: bool
    notes: list[str] = field(default_factory=list)
    usual: bool = True  # whether every element is written as in Si or Si1


@dataclass
class Crystal:
    """Atoms in one cell.

    Attributes:
        positions: (N, 3) fractional, from 0 to below 1.
        places: (N,) the site of each atom, as its place in the list.
        sites: the sites.
        moved: fractional, the furthest that a site was moved to a special position.
        repeated: labels of sites that are images of others.
    """

    positions: np.ndarray
    places: np.ndarray
    sites: list[Site]
    moved: float = 0.0
    repeated: list[str] = field(default_factory=list)

    @property
    def numbers(self) -> np.ndarray:
        """Atomic numbers (N,)."""
        return np.array([number_of_element(self.sites[k].symbol) for k in self.places], int)

    def multiplicities_agree(self) -> bool:
        """Whether every site has as many images as the file says of it."""
        counts = np.bincount(self.places, minlength=len(self.sites))
        return all(
            site.multiplicity in (None, count)
            for site, count in zip(self.sites, counts, strict=True)
            if count
        )

    def same_as(self, other: Crystal, cell: np.ndarray) -> bool:
        """Whether both hold the same atoms at the same places."""
        return len(self.positions) == len(other.positions) and same_atoms(
            ase.Atoms(self.numbers, scaled_positions=self.positions, cell=cell, pbc=True),
            ase.Atoms(other.numbers, scaled_positions=other.positions, cell=cell, pbc=True),
        )


def number_of_element(symbol: str) -> int:
    """Atomic number, of isotopes too."""
    return 1 if symbol in ISOTOPES else atomic_numbers[symbol]


def has_coordinates(block: Block, tags: tuple[str, ...]) -> bool:
    """Whether a block has these coordinates of at least one atom."""
    return all(tag in block.columns for tag in tags) and any(
        value for tag in tags for value in block.columns[tag]
    )


def sites_of(block: Block) -> Sites:
    """The fully occupied sites of a block.

    Raises:
        BadValue: a site has no element or coordinates, is partially occupied, or excludes another.
    """
    fractional = has_coordinates(block, FRACTIONAL) or not has_coordinates(block, CARTESIAN)
    columns = [block.column(tag) for tag in (FRACTIONAL if fractional else CARTESIAN)]
    count = len(columns[0])
    labels, kinds = block.column("_atom_site_label"), block.column("_atom_site_type_symbol")
    if not labels and not kinds:
        raise BadValue("no atom has an element; give _atom_site_type_symbol")
    labels = labels or [f"{kind}{k + 1}" for k, kind in enumerate(kinds)]
    kinds = kinds or [""] * count
    if any(len(column) != count for column in (*columns, labels, kinds)):
        raise BadValue("the columns of its atom sites differ in length; give them in one loop")
    result = Sites([], fractional)
    kept = _occupied(block, labels, result.notes)
    _check_disorder(block, labels, kept)
    formula = frozenset(formula_of(block.first("_chemical_formula_sum")))
    multiplicities = block.column(*MULTIPLICITY) or [""] * count
    for k in kept:
        label = labels[k] or kinds[k]
        try:
            symbol = element(kinds[k], label, formula)
            values = [_coordinate(column[k]) for column in columns]
        except BadValue as error:
            raise BadValue(f"atom {label or k}: {error}") from error
        position, errors = np.array(values).T
        result.sites.append(Site(label, symbol, position, errors, _multiplicity(multiplicities[k])))
    result.usual = all(USUAL.match(kinds[k] or labels[k]) for k in kept)
    result.notes += _doubts(result.sites, [kinds[k] for k in kept], formula)
    return result


def _coordinate(text: str) -> tuple[float, float]:
    if not text:
        raise BadValue("a coordinate is unknown ('?' or '.'); give it, or leave the atom out")
    return number(text)


def _multiplicity(text: str) -> float | None:
    try:
        return number(text)[0] if text else None
    except BadValue:
        return None


def _occupied(block: Block, labels: list[str], notes: list[str]) -> list[int]:
    """Places of the sites that hold an atom."""
    count = len(labels)
    shares = block.column("_atom_site_occupancy") or [""] * count
    flags = block.column("_atom_site_calc_flag") or [""] * count
    hydrogens = block.column("_atom_site_attached_hydrogens") or [""] * count
    kept, empty, partial = [], [], []
    for k, text in enumerate(shares):
        try:
            share = number(text)[0] if text else 1.0
        except BadValue as error:
            raise BadValue(f"atom {labels[k]}: occupancy {error}") from error
        if flags[k].lower() == "dum" or share == 0:
            empty.append(labels[k])
            continue
        if abs(share - 1) > 1e-6:
            partial.append(f"{labels[k]} {text}")
        if hydrogens[k].isdecimal() and int(hydrogens[k]):
            raise BadValue(
                f"atom {labels[k]} has {hydrogens[k]} hydrogen atoms without coordinates "
                "(_atom_site_attached_hydrogens); give them as sites"
            )
        kept.append(k)
    if partial:
        raise BadValue(f"sites are partially occupied ({_some(partial)}); give an ordered structure")
    if empty:
        notes.append(f"sites without an atom are left out ({_some(empty)})")
    if not kept:
        raise BadValue("no site holds an atom; expected at least one")
    return kept


def _check_disorder(block: Block, labels: list[str], kept: list[int]) -> None:
    """Refuse sites of which a crystal holds one or the other."""
    groups = block.column("_atom_site_disorder_group")
    assemblies = block.column("_atom_site_disorder_assembly") or [""] * len(labels)
    members: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for k in kept if groups else []:
        if groups[k] not in ("", "0"):
            members[assemblies[k]][groups[k]].append(labels[k])
    for alternatives in members.values():
        if len(alternatives) > 1 or any(group.startswith("-") for group in alternatives):
            sites = "; ".join(
                f"group {group}: {_some(names)}" for group, names in sorted(alternatives.items())
            )
            raise BadValue(f"sites are disordered and exclude each other ({sites}); keep one group")


def _doubts(sites: list[Site], kinds: list[str], formula: frozenset[str]) -> list[str]:
    """Notes about elements that a file could mean otherwise."""
    notes = []
    unclear = [
        f"{site.label} as {site.symbol}"
        for site, kind in zip(sites, kinds, strict=True)
        if not kind and is_ambiguous(site.label, formula)
    ]
    if unclear:
        notes.append(f"without _atom_site_type_symbol, labels are read as elements ({_some(unclear)})")
    if any(site.symbol == "T" for site in sites):
        notes.append("T is read as tritium, hydrogen of mass 3.016; write Si or Al for tetrahedral sites")
    others = [
        f"{site.label} is {site.symbol}"
        for site in sites
        if (name := named_by_label(site.label)) and name[0] != site.symbol[0]
    ]
    if others:
        notes.append(f"_atom_site_type_symbol counts where the label names another element ({_some(others)})")
    return notes


def _some(names: list[str]) -> str:
    more = f", and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


def crystal_of(sites: list[Site], operations: Operations, cell: np.ndarray) -> Crystal:
    """All atoms of one cell (3, 3) in Å, site after site, images in the order of the operations.

    Raises:
        BadValue: two atoms are closer than ``CLOSEST`` and are not one atom that is given twice.
    """
    positions, places, points = [], [], []
    for k, site in enumerate(sites):
        point, images = operations.orbit(site.position, site.error, cell)
        positions.append(images)
        places += [k] * len(images)
        points.append(point)
    shifts = np.array(points) - [site.position for site in sites]
    moved = float(np.abs(shifts - np.rint(shifts)).max()) if len(operations) > 1 else 0.0
    crystal = Crystal(np.concatenate(positions), np.array(places), sites, moved)
    return _without_repeats(crystal, cell)


def _without_repeats(crystal: Crystal, cell: np.ndarray) -> Crystal:
    """The crystal without sites that an earlier one of the same element generates."""
    pairs = close_pairs(crystal.positions @ cell, cell, np.ones(3, bool), CLOSEST)
    if not len(pairs.distances):
        return crystal
    repeated = set()
    for i, j, distance in zip(pairs.first, pairs.second, pairs.distances, strict=True):
        a, b = sorted((crystal.places[i], crystal.places[j]))
        first, second = crystal.sites[a], crystal.sites[b]
        slack = REPEATED + np.linalg.norm((first.error + second.error) @ np.abs(cell))
        if a == b:
            raise BadValue(
                f"atom {first.label} is {distance:.3g} Å from an image of itself by symmetry; correct its "
                "coordinates, or give more digits"
            )
        if first.symbol != second.symbol or distance > slack:
            raise BadValue(
                f"atoms {first.label} and {second.label}, or their images by symmetry, are {distance:.3g} Å "
                "apart; keep one of them"
            )
        repeated.add(b)
    kept = ~np.isin(crystal.places, list(repeated))
    labels = [crystal.sites[k].label for k in sorted(repeated)]
    return Crystal(crystal.positions[kept], crystal.places[kept], crystal.sites, crystal.moved, labels)


def closeness(crystal: Crystal, cell: np.ndarray) -> float:
    """Shortest distance, as a share of the sum of covalent radii; 1 for any that is not short."""
    radii = covalent_radii[crystal.numbers]
    pairs = close_pairs(crystal.positions @ cell, cell, np.ones(3, bool), 2 * radii.max())
    shares = pairs.distances / (radii[pairs.first] + radii[pairs.second])
    return float(min(1.0, shares.min(initial=1.0)))


def atoms_of(crystal: Crystal, cell: Cell) -> ase.Atoms:
    """The crystal as periodic atoms, with the masses of isotopes."""
    atoms = ase.Atoms(crystal.numbers, scaled_positions=crystal.positions, cell=cell, pbc=True)
    set_masses(atoms, [crystal.sites[k].symbol for k in crystal.places])
    return atoms


def set_masses(atoms: ase.Atoms, symbols: list[str]) -> None:
    """Give D and T their masses; other structures keep none of their own."""
    if ISOTOPES.keys() & set(symbols):
        masses = atoms.get_masses()
        for k, symbol in enumerate(symbols):
            masses[k] = ISOTOPES.get(symbol, masses[k])
        atoms.set_masses(masses)


def same_atoms(atoms: ase.Atoms, others: ase.Atoms, tolerance: float = 0.02) -> bool:
    """Whether two periodic structures in one cell hold the same elements at the same places within Å."""
    if sorted(atoms.numbers) != sorted(others.numbers):
        return False
    joint = np.concatenate([atoms.positions, others.positions])  # (2 N, 3)
    pairs = close_pairs(joint, atoms.cell.array, atoms.pbc, tolerance)
    numbers, count = np.concatenate([atoms.numbers, others.numbers]), len(atoms)
    matching = (pairs.first < count) & (pairs.second >= count)
    matching &= numbers[pairs.first] == numbers[pairs.second]
    return len(set(pairs.first[matching])) == count == len(set(pairs.second[matching]))
