"""Radial distribution functions, for all atoms and for each pair of elements."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement

import ase
import numpy as np

from .pairs import pairs

WIDTH = 0.05  # Å of a bin
FRAMES = 100  # at most; more do not make the curve visibly smoother
PAIRS = 3_000_000  # about so many make it smooth, so that a large structure needs fewer frames
FEWEST = 3  # frames


def radial_distribution(
    frames: Sequence[ase.Atoms], cutoff: float
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """g(r) averaged over frames of a structure with three periodic axes.

    Args:
        frames: evenly spaced ones are used, 100 at most, and of a large structure fewer.
        cutoff: Å; may exceed half the cell. An atom's own images, which never move, are left out.

    Returns:
        r (B,), centres of the bins in Å, and g (B,) by name: ``"all"``, and with several elements ``"O-Si"``.
    """
    edges = np.arange(0.0, cutoff + WIDTH / 2, WIDTH)
    shells = 4 / 3 * np.pi * np.diff(edges**3)  # Å^3
    groups = _groups(np.array(frames[0].symbols))
    sums = {name: np.zeros(len(shells)) for name in groups}
    indices = _evenly(frames, float(edges[-1]))
    for k in indices:
        frame = frames[int(k)]
        i, j, distance = pairs(frame, edges[-1])
        others = i != j
        i, j, distance = i[others], j[others], distance[others]
        volume = frame.get_volume()
        for name, (first, second) in groups.items():
            mine = distance if name == "all" else distance[first[i] & second[j]]
            counts = np.histogram(mine, len(shells), (0.0, edges[-1]))[0]
            possible = first.sum() * second.sum() - (first & second).sum()
            sums[name] += counts * volume / (max(1, possible) * shells * len(indices))
    return (edges[:-1] + edges[1:]) / 2, sums


def _evenly(frames: Sequence[ase.Atoms], cutoff: float) -> np.ndarray:
    """Indices of the frames to use."""
    start = frames[0]
    pairs_of_frame = len(start) ** 2 * 4 / 3 * np.pi * cutoff**3 / start.get_volume()
    count = int(np.clip(PAIRS / max(1.0, pairs_of_frame), FEWEST, FRAMES))
    return np.unique(np.linspace(0, len(frames) - 1, min(count, len(frames))).astype(int))


def _groups(symbols: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Masks (N,) of the two partners, by name."""
    everyone = np.ones(len(symbols), dtype=bool)
    groups = {"all": (everyone, everyone)}
    elements = sorted(set(symbols))
    if len(elements) > 1:
        for a, b in combinations_with_replacement(elements, 2):
            groups[f"{a}-{b}"] = (symbols == a, symbols == b)
    return groups


def nearest_distance(atoms: ase.Atoms) -> float:
    """Mean distance to the nearest neighbour, Å; the cutoff is widened until every atom has one."""
    cutoff = 3.0
    while cutoff < 50:
        i, _, distance = pairs(atoms, cutoff)
        nearest = np.full(len(atoms), np.inf)
        np.minimum.at(nearest, i, distance)
        if np.isfinite(nearest).all():
            return float(nearest.mean())
        cutoff *= 1.5
    return np.inf  # no crystal has atoms so far apart
