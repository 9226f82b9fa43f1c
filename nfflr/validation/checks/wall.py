"""Whether atoms are kept apart: the energy that it takes to press two of them together."""

from __future__ import annotations

from collections.abc import Sequence

import ase
import numpy as np
from ase.calculators.calculator import Calculator

from .derivatives import energies
from .dimers import SHORTEST, Dimer
from .result import CheckResult
from .samples import nearest

WALL = 3.0  # eV: twenty kT at 1700 K, so that a hot solid or a melt does not get over it
DIP = 0.05  # eV by which the energy may fall on the way in; more is the far side of a barrier
STEP = 0.05  # Å
MOST = 256  # atoms


def check_wall_in_crystal(calculator: Calculator, structures: Sequence[ase.Atoms]) -> list[CheckResult]:
    """For each pair of elements: two neighbours pressed together in their crystal, down to 0.5 Å.

    Required. What is measured is the highest energy that they climb before it falls again; behind that is a
    hole in which atoms fuse.
    """
    lowest: dict[tuple[str, str], tuple[float, float]] = {}
    for atoms in structures:
        atoms = _roomy(atoms)
        for pair, (i, j) in _closest_pairs(atoms).items():
            distance = np.append(np.arange(SHORTEST, atoms.get_distance(i, j, mic=True), STEP), np.nan)
            distance[-1] = atoms.get_distance(i, j, mic=True)
            energy = energies(calculator, [_pressed(atoms, i, j, d) for d in distance])
            found = wall_height(distance, energy - energy[-1], nearest(*pair))
            lowest[pair] = min(found, lowest.get(pair, found))
    return [_row(f"wall {a}–{b} in the crystal", *found) for (a, b), found in lowest.items()]


def check_wall_of_dimers(dimers: Sequence[Dimer]) -> list[CheckResult]:
    """The same for two atoms alone, from their bond inwards, above free atoms.

    Advice only: a potential of solids never saw two atoms in vacuum, and atoms of a solid meet among their
    neighbours, where the check is required. A warning here matters for gases, clusters and deposition.
    """
    rows = []
    for dimer in dimers:
        bond = nearest(*dimer.pair)
        inner = dimer.distance <= max(1.25 * bond, 2 * SHORTEST)
        found = wall_height(dimer.distance[inner], dimer.energy[inner], bond)
        rows.append(_row(f"wall {dimer.label} in vacuum", *found, kind="advice"))
    return rows


def wall_height(distance: np.ndarray, energy: np.ndarray, bond: float) -> tuple[float, float]:
    """Highest energy (eV) met on the way in from the bond before it falls, and where (Å).

    The bond is the lowest point beyond 80 % of the usual length: some bonds are shorter than covalent radii
    add up to, and falling into them is no defect.

    Args:
        distance: (n,) Å, rising.
        energy: (n,) eV, above the state that is pressed together.
        bond: the usual length, Å.
    """
    outer = np.where(distance >= min(0.8 * bond, distance[-1]), energy, np.inf)
    inwards = energy[: int(np.argmin(outer)) + 1][::-1]
    highest = np.maximum.accumulate(inwards)
    beyond = np.flatnonzero(~(highest - inwards <= DIP))  # NaN is a fall too
    top = int(np.argmax(inwards[: max(1, beyond[0])] if beyond.size else inwards))
    return float(inwards[top]), float(distance[len(inwards) - 1 - top])


def _row(name: str, height: float, at: float, **more) -> CheckResult:
    passed = bool(height >= WALL)
    message = f"at {at:.2f} Å" + (", lower behind: atoms can fuse" if at > SHORTEST + STEP / 2 else "")
    return CheckResult(name, passed, height, "eV", WALL, message, at_least=True, **more)


def _roomy(atoms: ase.Atoms) -> ase.Atoms:
    """Repeated where that stays small, so that the images of the two atoms are not pressed as well."""
    repeat = np.where(atoms.pbc, 2, 1)
    return atoms.repeat(repeat) if len(atoms) * repeat.prod() <= MOST else atoms


def _closest_pairs(atoms: ase.Atoms) -> dict[tuple[str, str], tuple[int, int]]:
    """Indices of the two nearest atoms of each pair of elements."""
    distances = atoms.get_all_distances(mic=True)  # (N, N)
    np.fill_diagonal(distances, np.inf)
    symbols, pairs = np.array(atoms.symbols), {}
    for a in sorted(set(symbols)):
        for b in sorted(set(symbols)):
            block = np.where((symbols[:, None] == a) & (symbols == b), distances, np.inf)
            i, j = np.unravel_index(np.argmin(block), block.shape)
            if a <= b and np.isfinite(block[i, j]):
                pairs[a, b] = (int(i), int(j))
    return pairs


def _pressed(atoms: ase.Atoms, i: int, j: int, distance: float) -> ase.Atoms:
    pressed = atoms.copy()
    pressed.set_distance(i, j, distance, fix=0.5, mic=True)
    return pressed
