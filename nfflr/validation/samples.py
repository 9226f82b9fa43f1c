"""Structures to check on, limits for each precision, and results of checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ase
import numpy as np
from ase.build import bulk
from ase.data import atomic_numbers, covalent_radii, reference_states
from numpy.typing import ArrayLike

from ..errors import ConfigError

MAX_ELEMENTS = 10  # 55 pairs
SKEW = np.array([[1.02, 0.01, 0.0], [0.0, 0.99, 0.015], [0.0, 0.0, 1.01]])
REACH = 8.0  # Å, taken for a cutoff that is not known
LATTICES = {"fcc", "bcc", "diamond", "sc"}
BOND = {"fcc": 2**-0.5, "bcc": 0.75**0.5, "diamond": 0.1875**0.5, "sc": 1.0}  # nearest distance over a


@dataclass(frozen=True)
class Samples:
    """Structures of one run: ``rattled`` ones without symmetry, and the smallest cell; cutoff in Å."""

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
    """Structures to check on, from the user's own ``structures`` or made of ``elements``.

    Each element gets its crystal (fcc, bcc, diamond or simple cubic as in ``ase.data.reference_states``,
    others fcc with bonds of two covalent radii), and several elements together a rocksalt lattice that holds
    all of them. Own structures have each atom moved a little. Dimers are made of each pair of ``elements`` up
    to ``cutoff`` (Å, None if unknown).

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
        crystals = [atoms.copy() for atoms in structures]
        for crystal in crystals:
            crystal.set_constraint()  # which must not act on forces
        small = min(crystals, key=len)
    else:
        crystals = [_crystal(symbol, cubic=True) for symbol in elements]
        if len(elements) > 1:
            bond = max(nearest(a, b) for a in elements for b in elements)
            mixture = bulk("NaCl", "rocksalt", a=2 * bond, cubic=True)  # 8 sites
            mixture = mixture.repeat((1, 1, 1 if len(elements) <= 4 else 2))
            mixture.symbols = [elements[k % len(elements)] for k in range(len(mixture))]
            crystals.append(mixture)
        small = _crystal(elements[0], cubic=False)
    rattled = tuple(_rattle(atoms, seed) for seed, atoms in enumerate(crystals))
    # A lone atom has no way to be without symmetry but in a skewed cell.
    skewed = small.copy()
    skewed.set_cell(small.cell.array @ SKEW, scale_atoms=True)
    return Samples(tuple(elements), cutoff, rattled, _rattle(skewed, 99))


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


def _rattle(atoms: ase.Atoms, seed: int) -> ase.Atoms:
    """Move each atom by some 4 % of a bond: forces of some eV/Å, no symmetry, no tied distances."""
    atoms, rng = atoms.copy(), np.random.default_rng(seed)
    bond = 2 * covalent_radii[atoms.numbers].mean()
    atoms.positions += 0.04 * bond * rng.normal(size=(len(atoms), 3))
    return atoms


Kind = Literal["required", "advice", "information"]


@dataclass(frozen=True)
class CheckResult:
    """One row of the table.

    Args:
        passed: whether ``value`` is not above ``limit`` (not below it with ``at_least``).
        value: the number measured, None if there was nothing to measure.
        limit: None for information.
        message: what else to know; for a failure, what it means.
        kind: a ``required`` check that fails makes the whole fail; ``advice`` is a warning only.
    """

    name: str
    passed: bool
    value: float | None = None
    unit: str = ""
    limit: float | None = None
    message: str = ""
    kind: Kind = "required"
    at_least: bool = False

    @property
    def status(self) -> str:
        """``pass``, ``fail``, ``warn``, ``info`` or ``skip``."""
        if self.kind == "information":
            return "info"
        if self.passed:
            return "skip" if self.value is None else "pass"
        return "fail" if self.kind == "required" else "warn"


@dataclass(frozen=True)
class Limits:
    """Steps of the differences and the largest error that passes, for one precision."""

    #: Å. Truncation h⁴E⁽⁵⁾/30 and rounding of E over h are about equal.
    step: float
    #: As the step, for a bond of 3 to 5 Å.
    strain: float
    #: Relative to the largest force. That step leaves errors of 1e-8 in float64, 1e-4 in float32.
    forces: float
    #: Relative to the largest component. Every bond crosses its range at once, hence twice in float32.
    stress: float
    #: eV, eV/Å. Rounding of coordinates by 1e-15 or 1e-6 relative, times stiffnesses up to some 100 eV/Å².
    symmetry: float
    #: eV/atom, eV/Å. As above: other images, other orders of sums.
    extensivity: float
    #: eV. A crossing that gives 0.1 meV is lost in kT/250 of 300 K; ASE's EMT leaves 2e-5.
    jump: float
    #: eV/Å. An integrator loses F v Δt at a crossing, 1e-5 eV with atoms that move 0.01 Å in a step.
    force_jump: float
    #: eV. Work of a curl of 3e-6 eV/Å² around 0.03 Å². Quadrature on 64 points leaves 1e-8, float32 1e-6.
    loop: float
    #: eV/Å. Nothing is there to pull.
    isolated_force: float
    #: eV, of a cell of about 500 atoms. Rounding of 500 atomic energies of some eV leaves 5e-6 in float32; a
    #: total in float32 has steps of 2e-4 eV at 3 keV, in which displacements, drift and barriers drown.
    resolution: float
    #: meV/atom/ps at 300 K. Heats by 4 K per ps at most; a run this short does not resolve less.
    drift: float
    #: eV/atom, eV/Å. Same sums, other order.
    batch: float


LIMITS = {
    "float64": Limits(2e-3, 5e-4, 1e-6, 1e-6, 1e-8, 1e-8, 1e-4, 1e-3, 1e-7, 1e-8, 1e-8, 0.5, 1e-8),
    "float32": Limits(3e-2, 5e-3, 1e-3, 2e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-5, 1e-5, 2e-5, 1.0, 1e-4),
}
# float32 against float64, whatever the checked precision: a tenth of what energy differences and forces of
# electronic structure codes are converged to.
ROUNDING_ENERGY = 1e-5  # eV/atom
ROUNDING_FORCE = 1e-3  # eV/Å


def measured(name: str, value: float, unit: str, limit: float, message: str = "", **more) -> CheckResult:
    """A value that passes at or below its limit; NaN never does."""
    return CheckResult(name, bool(value <= limit), float(value), unit, limit, message, **more)


def skipped(name: str, reason: str) -> CheckResult:
    """A check that does not apply."""
    return CheckResult(name, True, message=reason)
