"""Pairs of atoms that come too near, and all else at which a run cannot go on."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import ase
import numpy as np
from ase.calculators.abc import GetPropertiesMixin
from ase.calculators.calculator import Calculator
from ase.data import chemical_symbols

from ...errors import NumericsError, StructureError
from ...structures.cells import complete_box
from ...structures.neighbours import counted_once, neighbor_list
from .preparation import MdSettings

NONE = (np.empty(0, dtype=int), np.empty(0, dtype=int), np.empty(0))
# Share of the shortest distance in the training data below which a pair is outside of them. A long run comes
# a little nearer than a few hundred structures do: in 20 ps of ethanol at 600 K, H–H came to 0.935 of the
# shortest in 1000 structures at 500 K. Networks that fade out begin to do so at 0.9.
CLEARLY = 0.9
SKIN = 1.0  # Å beyond the reach, within which pairs are kept between two searches


def pairs(atoms: ase.Atoms, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both directions of all pairs nearer than a cutoff: i (P,), j (P,), distance (P,) Å."""
    i, j, _, distance = _search(atoms, cutoff)
    return i, j, distance


def _search(atoms: ase.Atoms, cutoff: float) -> tuple[np.ndarray, ...]:
    """``pairs``, with the shift (P, 3) of j in cell vectors before the distance."""
    i, j, shift = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff, "matscipy")
    bond = atoms.positions[j] - atoms.positions[i] + shift @ atoms.cell.array
    return i, j, shift, np.sqrt(np.einsum("ij,ij->i", bond, bond))


@dataclass
class _Candidates:
    """Pairs (P,), each once, that were within their reach and a skin where the search took place.

    The reach of pair p is ``reach[p]``; ``slack[p]``, what it was from there, ascends with p.
    """

    positions: np.ndarray  # (N, 3) Å, at the search
    cell: np.ndarray  # (3, 3) Å
    box: np.ndarray  # (3, 3) Å, with unit normals along open axes
    i: np.ndarray
    j: np.ndarray
    shift: np.ndarray  # (P, 3), in cell vectors
    reach: np.ndarray  # Å
    slack: np.ndarray  # Å


class NearPairs:
    """Finds pairs that are nearer than a reach for their elements, in a structure that changes step by step.

    Candidates are searched when an atom has moved half a skin. With a cell deformed by F since the search,
    and atoms moved by u at most beside it, a distance d is no less than σ d − 2u, where σ is the least
    singular value of F (``nfflr/data/verlet.py`` derives this bound). So a step looks only at pairs whose
    slack may be used up, which in a crystal are none. Memory and time grow as N. ``reach`` is (Z, Z) Å by
    atomic numbers, symmetric.
    """

    def __init__(self, numbers: np.ndarray, reach: np.ndarray):
        present, self._kind = np.unique(numbers, return_inverse=True)
        self._reach = reach[np.ix_(present, present)]  # (K, K)
        self._longest = float(self._reach.max())  # Å
        self._candidates: _Candidates | None = None
        self.searches = 0

    def forget(self) -> None:
        """Search anew for the next structure, whatever it is."""
        self._candidates = None

    def find(self, atoms: ase.Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs within their reach, each once: i (P,), j (P,), distance (P,) Å, of finite coordinates."""
        used = np.inf if self._candidates is None else self._used(atoms, self._candidates)
        if not used < SKIN:
            self._candidates, used = self._collect(atoms), 0.0
            self.searches += 1
        pairs = self._candidates
        assert pairs is not None
        count = int(np.searchsorted(pairs.slack, used, side="right"))
        if not count:
            return NONE
        i, j = pairs.i[:count], pairs.j[:count]
        bond = atoms.positions[j] - atoms.positions[i] + pairs.shift[:count] @ atoms.cell.array
        distance = np.sqrt(np.einsum("ij,ij->i", bond, bond))
        near = distance < pairs.reach[:count]
        return i[near], j[near], distance[near]

    def _used(self, atoms: ase.Atoms, pairs: _Candidates) -> float:
        """Upper bound of how much a slack has shrunk since the search, Å."""
        start, least = pairs.positions, 1.0
        if pairs.cell.tobytes() != atoms.cell.array.tobytes():
            if atoms.cell.rank < pairs.cell.any(axis=1).sum():
                return np.inf
            deformation = np.linalg.solve(pairs.box, complete_box(atoms.cell.array, atoms.pbc))
            start, least = start @ deformation, float(np.linalg.svd(deformation, compute_uv=False)[-1])
        if not least > 0:
            return np.inf
        moved = atoms.positions - start
        furthest = np.sqrt(np.einsum("ij,ij->i", moved, moved).max(initial=0.0))
        return float((max(0.0, 1 - least) * self._longest + 2 * furthest) / least)

    def _collect(self, atoms: ase.Atoms) -> _Candidates:
        i, j, shift, distance = _search(atoms, self._longest + SKIN)
        reach = self._reach[self._kind[i], self._kind[j]]
        slack = distance - reach
        near = np.flatnonzero((slack < SKIN) & counted_once(i, j, shift))
        near = near[np.argsort(slack[near], kind="stable")]
        shift, cell = shift[near].astype(float), atoms.cell.array.copy()
        box, positions = complete_box(cell, atoms.pbc), atoms.positions.copy()
        return _Candidates(positions, cell, box, i[near], j[near], shift, reach[near], slack[near])


EVERY_PAIR = (len(chemical_symbols), len(chemical_symbols))


class ExplosionError(Exception):
    """The run cannot go on; ``message`` says what happened to ``atom``."""

    def __init__(self, message: str, atom: int):
        super().__init__(message)
        self.message, self.atom = message, atom


@dataclass(frozen=True)
class TooNear:
    """Two atoms clearly nearer to each other than any in the training data."""

    step: int
    atom: int
    distance: float  # Å


class Guard(GetPropertiesMixin):
    """A calculator that checks the geometry before, and the answer after, it asks another one.

    Where that has ``shortest_distances`` of its training data, (Z, Z) in Å by atomic numbers, the first pair
    of atoms that is clearly nearer is noted.
    """

    def __init__(self, calculator: Calculator, settings: MdSettings):
        self.calculator, self.settings = calculator, settings
        self.name = getattr(calculator, "name", type(calculator).__name__)
        self.too_near: TooNear | None = None
        self._shortest = _shortest_distances(calculator)
        self._near: NearPairs | None = None  # made for the first structure
        self._step = 0
        self._before: np.ndarray | None = None  # (N, 3) where the current step began
        self._geometry: tuple[bytes, bytes] | None = None  # positions and cell that were checked last
        self._answers: dict[str, float | np.ndarray] = {}  # for them

    results = property(lambda self: self.calculator.results)
    implemented_properties = property(lambda self: self.calculator.implemented_properties)

    def reset(self) -> None:
        """Forget, and let the calculator forget, what came before."""
        self.calculator.reset()
        self._geometry = self._near = None

    def begin(self, atoms: ase.Atoms, step: int) -> None:
        """Note where step number ``step`` begins."""
        self._before, self._step = atoms.get_positions(), step

    def get_property(self, name: str, atoms: ase.Atoms | None = None, allow_calculation: bool = True):
        """A property as ASE's calculators give it, or ``ExplosionError`` where something is not sound."""
        assert atoms is not None  # ASE's signature; its atoms always pass themselves
        self._check(atoms)
        if name == "free_energy" and name not in self.calculator.implemented_properties:
            name = "energy"
        if name not in self._answers:
            self._answers[name] = self._ask(name, atoms, allow_calculation)
        return copy(self._answers[name])

    def _ask(self, name: str, atoms: ase.Atoms, allow_calculation: bool):
        try:
            # By ASE's rule the calculator's results belong to these atoms.
            if self._answers and name in self.calculator.results:
                value = self.calculator.results[name]
            else:
                value = self.calculator.get_property(name, atoms, allow_calculation)
        except (NumericsError, StructureError) as error:
            reason = f"was fastest when the model gave up: {str(error).removeprefix('structure: ')}"
            raise ExplosionError(reason, self.fastest(atoms)) from error
        finite = np.isfinite(value)
        if not np.all(finite):
            atom = int(finite.all(axis=1).argmin()) if name == "forces" else self.fastest(atoms)
            raise ExplosionError(f"was there when the {name} became infinite or NaN", atom)
        return value

    def _check(self, atoms: ase.Atoms) -> None:
        # Bytes are compared, since numpy's and ASE's comparisons take as long as a small cell's forces.
        geometry = (atoms.positions.tobytes(), atoms.cell.array.tobytes())
        if geometry == self._geometry:
            return
        moved = atoms.positions - self._before  # (N, 3)
        squares = np.einsum("ij,ij->i", moved, moved)
        furthest = np.sqrt(squares.max())
        if not np.isfinite(furthest):
            raise ExplosionError("has a position that is not finite", self.fastest(atoms))
        if furthest > self.settings.max_displacement:
            raise ExplosionError(f"moved {furthest:.2f} Å in one step", int(squares.argmax()))
        self._check_distances(atoms, squares)
        self._geometry, self._answers = geometry, {}

    def _check_distances(self, atoms: ase.Atoms, moved: np.ndarray) -> None:
        if self._near is None:
            least = self.settings.min_distance
            reach = self._shortest.clip(least) if self._shortest is not None else np.full(EVERY_PAIR, least)
            self._near = NearPairs(atoms.numbers, reach)
        i, j, distance = self._near.find(atoms)
        if not len(i):
            return
        k = distance.argmin()
        if distance[k] < self.settings.min_distance:
            atom, other = sorted((int(i[k]), int(j[k])), key=lambda a: -moved[a])
            raise ExplosionError(f"came within {distance[k]:.2f} Å of atom {other}", atom)
        if self._shortest is not None and self.too_near is None:
            excess = self._shortest[atoms.numbers[i], atoms.numbers[j]] - distance
            k = excess.argmax()
            if excess[k] > 0:
                self.too_near = TooNear(self._step, int(i[k]), float(distance[k]))

    def hottest(self, atoms: ase.Atoms) -> int:
        """The atom with the highest kinetic energy; the one with the largest force where none is finite."""
        energy = np.square(atoms.get_momenta()).sum(axis=1) / atoms.get_masses()
        forces = self._answers.get("forces")
        if forces is not None and not np.isfinite(energy).any():
            return int(np.square(forces).sum(axis=1).argmax())
        return _highest(energy)

    def fastest(self, atoms: ase.Atoms) -> int:
        """The atom with the highest speed; one whose speed is not finite before all others."""
        return _highest(np.square(atoms.get_velocities()).sum(axis=1))


def _highest(values: np.ndarray) -> int:
    """Index of the highest value; of one that is not finite before all others."""
    return int(np.argmax(np.where(np.isfinite(values), values, np.inf)))


def _shortest_distances(calculator: Calculator) -> np.ndarray | None:
    """(Z, Z) Å below which a pair is outside of the training data, 0 where they say nothing; None if unknown.

    Elements that the data never show near each other (infinity) count as the pair that stays furthest apart.
    """
    distances = getattr(calculator, "shortest_distances", None)
    if distances is None:
        return None
    longest = distances[np.isfinite(distances)].max(initial=0.0)
    distances = np.nan_to_num(distances, nan=0.0, posinf=longest)
    return CLEARLY * np.maximum(distances, distances.T)
