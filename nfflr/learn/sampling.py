"""Structures near a given one: strained cells, and supercells that are strained and rattled."""

from __future__ import annotations

import ase
import numpy as np
from ase.data import covalent_radii

from ..structures.cells import strained
from ..structures.neighbours import close_pairs

OVERLAP = 0.6  # of the sum of covalent radii; nothing bonds so shortly
REACH = 8.0  # Å within which an atom has a neighbour
AMPLITUDES = np.array([0.2, 0.4, 0.7, 1.0])  # of the largest rattling
LARGEST = 0.05  # standard deviation of a coordinate over the nearest distance; crystals melt at about 0.06
STRAINS = np.array([0.0, 0.01, 0.02, 0.03])  # largest component
PURE = np.array([0.02, -0.02, 0.01, -0.01, 0.03, -0.03])  # of a strain along one of the axes below
AXES = np.array([[1, 1, 1, 0, 0, 0], *np.eye(6)])  # volume, three lengths, three shears (Voigt)


def too_close(atoms: ase.Atoms) -> bool:
    """Whether two atoms are nearer than anything bonds."""
    radii = OVERLAP * covalent_radii[atoms.numbers]  # (N,) Å
    pairs = close_pairs(atoms.positions, atoms.cell.array, atoms.pbc, 2 * radii.max(initial=0.0))
    return bool((pairs.distances < radii[pairs.first] + radii[pairs.second]).any())


def spacing(atoms: ase.Atoms) -> float:
    """The shortest distance between two atoms, Å; infinite if there is none within ``REACH``."""
    pairs = close_pairs(atoms.positions, atoms.cell.array, atoms.pbc, REACH)
    return float(pairs.distances.min(initial=np.inf))


def strained_crystal(atoms: ase.Atoms, strain: np.ndarray) -> ase.Atoms:
    """Copy under a strain (6,), see ``strained``; as it is where an axis is open."""
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
    """What is labelled first: the structures, strained ones, and mostly rattled supercells."""
    frames: list[ase.Atoms] = []
    share = max(2, count // len(cells))
    for name, atoms in cells.items():
        own = [atoms.copy()]
        own[0].info = {"config_type": "given"}
        own += pure_strains(atoms, share // 6)
        frames += own + rattled(supercells[name], share - len(own), temperature, rng)
    return frames[:count]
