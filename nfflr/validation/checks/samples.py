"""Structures to check a calculator on, made from the elements it covers or from those of the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ase
import numpy as np
from ase.build import bulk
from ase.data import atomic_numbers, covalent_radii, reference_states
from numpy.typing import ArrayLike

from ...errors import ConfigError

MAX_ELEMENTS = 10  # 55 pairs
REACH = 8.0  # Å, taken for a cutoff that is not known
LATTICES = {"fcc", "bcc", "diamond", "sc"}
BOND = {"fcc": 2**-0.5, "bcc": 0.75**0.5, "diamond": 0.1875**0.5, "sc": 1.0}  # nearest distance over a


@dataclass(frozen=True)
class Samples:
    """Structures of one run; none carries a calculator.

    Args:
        elements: symbols.
        cutoff: Å, None if not known.
        rattled: structures without symmetry, for derivatives and invariances.
        small: the smallest cell, primitive where it was made here, distorted.
    """

    elements: tuple[str, ...]
    cutoff: float | None
    rattled: tuple[ase.Atoms, ...]
    small: ase.Atoms

    @property
    def reach(self) -> float:
        """The cutoff, or a distance at which little is left, Å."""
        return self.cutoff or REACH

    def sized(self, n_atoms: int) -> ase.Atoms:
        """The first rattled structure repeated to about ``n_atoms``, and rattled again."""
        atoms, rng = self.rattled[0], np.random.default_rng(7)
        n = max(1, round((n_atoms / len(atoms)) ** (1 / max(1, atoms.pbc.sum()))))
        atoms = atoms.repeat(np.where(atoms.pbc, n, 1))
        atoms.positions += 0.03 * rng.normal(size=(len(atoms), 3))
        return atoms


def make_samples(
    elements: Sequence[str], structures: Sequence[ase.Atoms] = (), cutoff: float | None = None
) -> Samples:
    """Structures to check on.

    Without ``structures`` each element gets its crystal (fcc, bcc, diamond or simple cubic as in
    ``ase.data.reference_states``, others fcc with bonds of two covalent radii), and several elements together
    a rocksalt lattice that holds all of them.

    Args:
        elements: symbols; dimers are made of each pair.
        structures: the user's own, instead; each atom is moved a little.
        cutoff: Å, None if not known.

    Raises:
        ConfigError: no elements, or more than ``MAX_ELEMENTS``.
    """
    if not elements:
        raise ConfigError("elements: none known of this calculator; give --elements Cu or --structure cu.cif")
    if len(elements) > MAX_ELEMENTS:
        raise ConfigError(
            f"elements: {len(elements)} are covered, at most {MAX_ELEMENTS} are checked at once; "
            f"choose, such as --elements {' --elements '.join(elements[:2])}"
        )
    if structures:
        crystals = [plain_copy(atoms) for atoms in structures]
        small = min(crystals, key=len)
    else:
        crystals = [_crystal(symbol, cubic=True) for symbol in elements]
        if len(elements) > 1:
            crystals.append(_mixture(elements))
        small = _crystal(elements[0], cubic=False)
    rattled = tuple(_rattle(atoms, seed) for seed, atoms in enumerate(crystals))
    return Samples(tuple(elements), cutoff, rattled, _rattle(_strained(small), 99))


def plain_copy(atoms: ase.Atoms) -> ase.Atoms:
    """Copy without constraints, which must not act on forces."""
    copy = atoms.copy()
    copy.set_constraint()
    return copy


def nearest(first: str, second: str) -> float:
    """Sum of covalent radii, Å."""
    return float(sum(covalent_radii[atomic_numbers[s]] for s in (first, second)))


def open_box(symbols: Sequence[str], places: ArrayLike, room: float) -> ase.Atoms:
    """Atoms without periodicity; the cell around them is for calculators that cannot do without one."""
    positions = np.asarray(places, dtype=float)  # (N, 3)
    low = positions.min(axis=0) - room
    return ase.Atoms(symbols, positions - low, cell=np.ptp(positions, axis=0) + 2 * room, pbc=False)


def _crystal(symbol: str, cubic: bool) -> ase.Atoms:
    state: dict[str, Any] = reference_states[atomic_numbers[symbol]] or {}
    lattice, a = "fcc", None
    if state.get("symmetry") in LATTICES:
        lattice, a = state["symmetry"], state.get("a")
    return bulk(symbol, lattice, a=a or nearest(symbol, symbol) / BOND[lattice], cubic=cubic)


def _mixture(elements: Sequence[str]) -> ase.Atoms:
    d = max(nearest(a, b) for a in elements for b in elements)
    atoms = bulk("NaCl", "rocksalt", a=2 * d, cubic=True)  # 8 sites
    atoms = atoms.repeat((1, 1, 1 if len(elements) <= 4 else 2))
    atoms.symbols = [elements[k % len(elements)] for k in range(len(atoms))]
    return atoms


def _rattle(atoms: ase.Atoms, seed: int) -> ase.Atoms:
    """Move each atom by some 4 % of a bond: forces of some eV/Å, no symmetry, no tied distances."""
    atoms, rng = atoms.copy(), np.random.default_rng(seed)
    bond = 2 * covalent_radii[atoms.numbers].mean()
    atoms.positions += 0.04 * bond * rng.normal(size=(len(atoms), 3))
    return atoms


def _strained(atoms: ase.Atoms) -> ase.Atoms:
    """The crystal in a skewed cell: a lone atom has no other way to be without symmetry."""
    strain = np.array([[1.02, 0.01, 0.0], [0.0, 0.99, 0.015], [0.0, 0.0, 1.01]])
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    return atoms
