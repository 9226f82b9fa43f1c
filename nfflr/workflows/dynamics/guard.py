"""A calculator between integrator and calculator that stops a run before it evaluates nonsense."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import ase
import numpy as np
from ase.calculators.abc import GetPropertiesMixin
from ase.calculators.calculator import Calculator
from ase.cell import Cell
from matscipy.neighbours import neighbour_list

from ...errors import NumericsError, StructureError
from .settings import MdSettings


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
        self._range = getattr(calculator, "shortest_distances", None)
        self._step = 0
        self._before: np.ndarray | None = None  # (N, 3) where the current step began
        self._seen: tuple[np.ndarray, np.ndarray] | None = None  # positions and cell looked at last
        # Answers for them; ASE's own comparison takes longer than EMT.
        self._known: dict[str, float | np.ndarray] = {}

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
        self._seen = None

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
        now = (atoms.positions, atoms.cell.array)
        if self._seen is not None and all(map(np.array_equal, self._seen, now)):
            return
        if not np.isfinite(atoms.positions).all():
            raise ExplosionError("has a position that is not finite", self.fastest(atoms))
        moved = np.linalg.norm(atoms.positions - self._before, axis=1)
        if moved.max() > self.settings.max_displacement:
            atom = int(moved.argmax())
            raise ExplosionError(f"moved {moved[atom]:.2f} Å in one step", atom)
        self._look_at_distances(atoms, moved)
        self._seen, self._known = tuple(x.copy() for x in now), {}

    def _look_at_distances(self, atoms: ase.Atoms, moved: np.ndarray) -> None:
        known = None if self._range is None else self._range[np.ix_(atoms.numbers, atoms.numbers)]
        reach = max(self.settings.min_distance, 0.0 if known is None else known[np.isfinite(known)].max())
        i, j, distance = pairs(atoms, reach)
        if not len(i):
            return
        k = distance.argmin()
        if distance[k] < self.settings.min_distance:
            atom, other = sorted((int(i[k]), int(j[k])), key=lambda a: -moved[a])
            raise ExplosionError(f"came within {distance[k]:.2f} Å of atom {other}", atom)
        if known is not None and self.too_near is None:
            excess = known[i, j] - distance
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


def pairs(atoms: ase.Atoms, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both directions of all pairs nearer than a cutoff: i (P,), j (P,), distance (P,) Å."""
    cell, positions = atoms.cell.array, atoms.positions
    if not atoms.pbc.all():  # along open axes the search wants a box that holds the atoms
        size = 2 * np.linalg.norm(np.ptp(positions, axis=0)) + 2 * cutoff
        normals = Cell(np.where(atoms.pbc[:, None], cell, 0.0)).complete().array
        cell = np.where(atoms.pbc[:, None], cell, normals * size)
        positions = positions - positions.mean(axis=0) + cell[~atoms.pbc].sum(axis=0) / 2
    # The search sorts atoms into boxes of the cutoff's size, of which a tall vacuum can have billions.
    boxes = max(100_000, len(atoms))
    reach = max(cutoff, (abs(np.linalg.det(cell)) / boxes) ** (1 / 3))
    i, j, distance = neighbour_list("ijd", positions=positions, cell=cell, pbc=atoms.pbc, cutoff=reach)
    near = distance < cutoff
    return i[near], j[near], distance[near]
