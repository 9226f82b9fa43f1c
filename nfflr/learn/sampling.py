"""Structures to label: strained and rattled ones, frames of MD and relaxations, and the choice among them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import ase
import numpy as np
from ase.calculators.calculator import Calculator
from ase.data import covalent_radii

from ..errors import NumericsError, StructureError
from ..storage.archives import Archive
from ..structures.cells import strained
from ..structures.neighbours import close_pairs
from ..workflows.molecular_dynamics import MdSettings, md
from ..workflows.relaxation import RelaxSettings, relax

OVERLAP = 0.6  # of the sum of covalent radii; no bond is shorter
REACH = 8.0  # Å within which an atom has a neighbour
AMPLITUDES = np.array([0.2, 0.4, 0.7, 1.0])  # of the largest rattling
LARGEST = 0.05  # standard deviation of a coordinate over the nearest distance; crystals melt at about 0.06
STRAINS = np.array([0.0, 0.01, 0.02, 0.03])  # largest component
PURE = np.array([0.02, -0.02, 0.01, -0.01, 0.03, -0.03])  # of a strain along one of the axes below
AXES = np.array([[1, 1, 1, 0, 0, 0], *np.eye(6)])  # volume, three lengths, three shears (Voigt)
RUNGS = np.array([0.3, 0.65, 1.0])  # of the highest temperature
FRAMES = 20  # of one walk
STRAIN = 0.015  # largest component of the cell's strain, as of a hot crystal


class _DoubtfulError(Exception):
    """The members of the committee disagree too much."""


def too_close(atoms: ase.Atoms) -> bool:
    """Whether two atoms are nearer than any bond."""
    radii = OVERLAP * covalent_radii[atoms.numbers]  # (N,) Å
    pairs = close_pairs(atoms.positions, atoms.cell.array, atoms.pbc, 2 * radii.max(initial=0.0))
    return bool((pairs.distances < radii[pairs.first] + radii[pairs.second]).any())


def spacing(atoms: ase.Atoms) -> float:
    """The shortest distance between two atoms, Å; infinite if there is none within ``REACH``."""
    pairs = close_pairs(atoms.positions, atoms.cell.array, atoms.pbc, REACH)
    return float(pairs.distances.min(initial=np.inf))


def strained_crystal(atoms: ase.Atoms, strain: np.ndarray) -> ase.Atoms:
    """A copy under a strain (6,), see ``strained``; without one where an axis is open."""
    return strained(atoms, strain) if atoms.pbc.all() else atoms.copy()


def pure_strains(atoms: ase.Atoms, count: int) -> list[ase.Atoms]:
    """``count`` cells under one strain each: volume, lengths, shears, then again with another size."""
    frames = []
    for k in range(count if atoms.pbc.all() else 0):
        frames.append(strained(atoms, PURE[k // len(AXES) % len(PURE)] * AXES[k % len(AXES)]))
        frames[-1].info = {"config_type": "strained"}
    return frames


def rattled(
    supercell: ase.Atoms, count: int, temperature: float, rng: np.random.Generator
) -> list[ase.Atoms]:
    """``count`` copies, randomly strained and with Gaussian displacements, small and large ones alike.

    Args:
        temperature: K; displacements grow with its root, to ``LARGEST`` at 1000 K.
    """
    distance = spacing(supercell)
    largest = min(0.2, LARGEST * np.sqrt(temperature / 1000) * min(distance, REACH))  # Å
    frames: list[ase.Atoms] = []
    for k in range(count):
        size = STRAINS[k // len(AMPLITUDES) % len(STRAINS)]
        frame = strained_crystal(supercell, size * rng.uniform(-1, 1, 6))
        frame.positions += rng.normal(scale=AMPLITUDES[k % len(AMPLITUDES)] * largest, size=(len(frame), 3))
        frame.info = {"config_type": "rattled"}
        if not too_close(frame):
            frames.append(frame)
    return frames


def seed_structures(
    cells: dict[str, ase.Atoms],
    supercells: dict[str, ase.Atoms],
    count: int,
    temperature: float,
    rng: np.random.Generator,
) -> list[ase.Atoms]:
    """The first structures to label: the given ones, strained ones, and mostly rattled supercells."""
    frames: list[ase.Atoms] = []
    share = max(2, count // len(cells))
    for name, atoms in cells.items():
        own = [atoms.copy()]
        own[0].info = {"config_type": "given"}
        own += pure_strains(atoms, share // 6)
        frames += own + rattled(supercells[name], share - len(own), temperature, rng)
    return frames[:count]


def timestep(atoms: ase.Atoms) -> float:
    """fs: hydrogen needs short ones."""
    return 0.5 if 1 in atoms.numbers else 2.0


def walk(atoms: ase.Atoms, calculator: Calculator, settings: MdSettings, limit: float) -> list[ase.Atoms]:
    """Frames of an MD run as long as the forces of a committee agree to ``limit`` (eV/Å).

    An explosion ends a walk too.
    """
    archive, agreed = Archive(), 0

    def watch(step: int, total: int, numbers: dict[str, float], atoms: ase.Atoms) -> None:
        nonlocal agreed
        if np.max(calculator.results.get("forces_std", 0.0)) > limit:  # of this frame
            raise _DoubtfulError
        agreed += 1

    with suppress(_DoubtfulError, NumericsError, StructureError):
        md(atoms, calculator, settings, watch, archive)
    frames = [frame.copy() for frame in archive.frames()[1 : 1 + agreed]]
    for frame in frames:
        frame.info = {"config_type": "md"}
        frame.arrays.pop("momenta", None)
    return [frame for frame in frames if not too_close(frame)]


def md_frames(
    supercells: Mapping[str, ase.Atoms],
    calculator: Calculator,
    temperature: float,
    steps: int,
    limit: float,
    rng: np.random.Generator,
) -> list[ase.Atoms]:
    """Frames of walks at a ladder of temperatures, each from a slightly strained and rattled supercell."""
    frames = []
    for supercell in supercells.values():
        for rung in RUNGS * temperature:
            start = strained_crystal(supercell, STRAIN * rng.uniform(-1, 1, 6))
            start.set_constraint()
            settings = MdSettings(
                temperature=rung,
                timestep=timestep(supercell),
                steps=steps,
                interval=max(1, steps // FRAMES),
                thermostat_time=50,
                seed=int(rng.integers(2**31)),
                melting=False,
            )
            frames += walk(start, calculator, settings, limit)
    return frames


def relaxation_frames(
    supercells: Mapping[str, ase.Atoms], calculator: Calculator, temperature: float, rng: np.random.Generator
) -> list[ase.Atoms]:
    """Some steps of relaxations of rattled supercells."""
    frames = []
    for supercell in supercells.values():
        for start in rattled(supercell, 4, temperature, rng)[-1:]:
            try:
                path = relax(start, calculator, RelaxSettings(fmax=0.05, steps=20))
            except (NumericsError, StructureError):
                continue
            frames += [frame.copy() for frame in path.trajectory[3::6]]
    for frame in frames:
        frame.info = {"config_type": "relaxation"}
    return [frame for frame in frames if not too_close(frame)]


def choose(
    disagreement: np.ndarray, points: np.ndarray, labelled: np.ndarray, count: int, share: float = 0.5
) -> list[int]:
    """Indices of candidates: of the ``share`` with the largest disagreement, the farthest apart.

    Args:
        disagreement: (C,) of the committee.
        points: (C, D) descriptors.
        labelled: (K, D) descriptors of structures with labels.
    """
    most = max(count, int(np.ceil(share * len(disagreement))))
    uncertain = np.argsort(-disagreement, kind="stable")[:most]
    return [int(uncertain[k]) for k in farthest_points(points[uncertain], labelled, count)]


def farthest_points(points: np.ndarray, labelled: np.ndarray, count: int) -> list[int]:
    """Greedy choice of ``count`` points (C, D), each the farthest from ``labelled`` (K, D) and those before.

    Gonzalez, Theor. Comput. Sci. 38, 293 (1985). Copies of what is labelled or taken are never taken.
    """
    distance = np.full(len(points), np.inf)
    for point in labelled:
        distance = np.minimum(distance, np.linalg.norm(points - point, axis=1))
    indices: list[int] = []
    while len(indices) < count and distance.max(initial=0) > 0:
        indices.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.linalg.norm(points - points[indices[-1]], axis=1))
    return indices
