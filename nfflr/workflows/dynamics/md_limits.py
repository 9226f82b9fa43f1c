"""A calculator between integrator and calculator that stops a run before it evaluates nonsense."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import ase
import numpy as np
from ase.calculators.abc import GetPropertiesMixin
from ase.calculators.calculator import Calculator
from ase.data import chemical_symbols

from ...errors import NumericsError, StructureError
from .md_settings import MdSettings
from .pairs import NearPairs

EVERY_PAIR = (len(chemical_symbols), len(chemical_symbols))


class ExplosionError(Exception):
    """The run cannot go on; ``message`` says what happened to ``atom``."""

    def __init__(self, message: str, atom: int):
        super().__init__(message)
        self.message, self.atom = message, atom


@dataclass(frozen=True)
class TooNear:
    """Two atoms nearer to each other than any in the training data."""

    step: int
    atom: int
    distance: float  # Å


class Guard(GetPropertiesMixin):
    """Hands every question to a calculator, after a look at the geometry and before one at the answer.

    Args:
        calculator: any ASE calculator. Where it has ``shortest_distances``, an array (Z, Z) in Å by atomic
            numbers of what its training data contain, the first pair of atoms that is nearer is noted.
        settings: the limits.
    """

    def __init__(self, calculator: Calculator, settings: MdSettings):
        self.calculator, self.settings = calculator, settings
        self.name = getattr(calculator, "name", type(calculator).__name__)
        self.too_near: TooNear | None = None
        self._shortest = _shortest_distances(calculator)
        self._near: NearPairs | None = None  # made for the first structure
        self._step = 0
        self._before: np.ndarray | None = None  # (N, 3) where the current step began
        self._seen: tuple[bytes, bytes] | None = None  # positions and cell looked at last
        self._known: dict[str, float | np.ndarray] = {}  # answers for them

    @property
    def results(self) -> dict:
        """Of the calculator."""
        return self.calculator.results

    @property
    def implemented_properties(self) -> list[str]:
        """Of the calculator."""
        return self.calculator.implemented_properties

    def reset(self) -> None:
        """Forget, and let the calculator forget, what came before."""
        self.calculator.reset()
        self._seen = self._near = None

    def begin(self, atoms: ase.Atoms, step: int) -> None:
        """Note where step number ``step`` begins."""
        self._before, self._step = atoms.get_positions(), step

    def get_property(self, name: str, atoms: ase.Atoms | None = None, allow_calculation: bool = True):
        """As ASE's calculators.

        Raises:
            ExplosionError: an atom moved too far, two are too near, or the answer is not finite.
        """
        assert atoms is not None  # ASE's signature; its atoms always pass themselves
        self._look(atoms)
        if name == "free_energy" and name not in self.calculator.implemented_properties:
            name = "energy"
        if name not in self._known:
            self._known[name] = self._ask(name, atoms, allow_calculation)
        return copy(self._known[name])

    def _ask(self, name: str, atoms: ase.Atoms, allow_calculation: bool):
        try:
            if self._known and name in self.calculator.results:  # which are of these atoms, as ASE's rule is
                value = self.calculator.results[name]
            else:
                value = self.calculator.get_property(name, atoms, allow_calculation)
        except (NumericsError, StructureError) as error:
            reason = str(error).removeprefix("structure: ")
            raise ExplosionError(
                f"was fastest when the model gave up: {reason}", self.fastest(atoms)
            ) from error
        finite = np.isfinite(value)
        if not np.all(finite):
            rows: Sequence[int] | np.ndarray = np.flatnonzero(~finite.all(axis=1)) if name == "forces" else []
            atom = int(rows[0]) if len(rows) else self.fastest(atoms)
            raise ExplosionError(f"was there when the {name} became infinite or NaN", atom)
        return value

    def _look(self, atoms: ase.Atoms) -> None:
        # Bytes are compared, since numpy's and ASE's comparisons take as long as a small cell's forces.
        geometry = (atoms.positions.tobytes(), atoms.cell.array.tobytes())
        if geometry == self._seen:
            return
        moved = atoms.positions - self._before  # (N, 3)
        squares = np.einsum("ij,ij->i", moved, moved)
        furthest = np.sqrt(squares.max())
        if not np.isfinite(furthest):
            raise ExplosionError("has a position that is not finite", self.fastest(atoms))
        if furthest > self.settings.max_displacement:
            raise ExplosionError(f"moved {furthest:.2f} Å in one step", int(squares.argmax()))
        self._look_at_distances(atoms, squares)
        self._seen, self._known = geometry, {}

    def _look_at_distances(self, atoms: ase.Atoms, moved: np.ndarray) -> None:
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
        forces = self._known.get("forces")
        if forces is not None and not np.isfinite(energy).any():
            return int(np.square(forces).sum(axis=1).argmax())
        return int(np.argmax(np.where(np.isfinite(energy), energy, np.inf)))

    def fastest(self, atoms: ase.Atoms) -> int:
        """The atom with the highest speed; one whose speed is not finite before all others."""
        speed = np.square(atoms.get_velocities()).sum(axis=1)
        return int(np.argmax(np.where(np.isfinite(speed), speed, np.inf)))


def _shortest_distances(calculator: Calculator) -> np.ndarray | None:
    """(Z, Z) Å, what the calculator says of its training data, 0 where it says nothing of a pair; or None.

    Elements that the data never show near each other (infinity) count as the pair that stays furthest apart.
    """
    distances = getattr(calculator, "shortest_distances", None)
    if distances is None:
        return None
    longest = distances[np.isfinite(distances)].max(initial=0.0)
    distances = np.nan_to_num(distances, nan=0.0, posinf=longest)
    return np.maximum(distances, distances.T)
