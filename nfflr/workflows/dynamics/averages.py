"""Averages over a trajectory with errors: series, radial distributions, diffusion, vibrations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import ase
import numpy as np
from ase.units import fs
from scipy.fft import next_fast_len
from scipy.signal import welch
from scipy.stats import linregress

from .guard import pairs
from .preparation import free_axes

BLOCKS = 10  # of a series, or of atoms, whose means count as independent
WIDTH = 0.05  # Å of a bin of g(r)
FRAMES = 100  # at most for g(r); more do not make the curve visibly smoother
PAIRS = 3_000_000  # about so many make it smooth, so that a large structure needs fewer frames
FEWEST = 3  # frames
MEMORY = 2**28  # bytes of coordinates held at a time
FIT = 0.2  # first lag of the straight line, in parts of the longest, which is half the run
RESOLUTION = 4.0  # ps of a segment of the spectrum: a line is 0.25 THz wide, and wider by its window
LAGS = 2000  # longest autocorrelation that is kept


def mean_and_error(series: np.ndarray, blocks: int = BLOCKS) -> tuple[float, float | None]:
    """Mean of a series (n,), and its standard error from the means of equal blocks.

    Blocks much longer than the correlation time are independent (H. Flyvbjerg and H. G. Petersen,
    J. Chem. Phys. 91, 461 (1989)). The error is None where a block would have fewer than two values.
    """
    if len(series) < 2 * blocks:
        return float(np.mean(series)), None
    means = [float(part.mean()) for part in np.array_split(series, blocks)]
    return float(np.mean(series)), float(np.std(means, ddof=1) / np.sqrt(blocks))


def slope_and_error(x: np.ndarray, y: np.ndarray, blocks: int = BLOCKS) -> tuple[float, float] | None:
    """Slope of a straight line through the block means of y(x), with its standard error.

    None where a block would have fewer than two values.
    """
    if len(x) < 2 * blocks:
        return None
    centres = [[part.mean() for part in np.array_split(values, blocks)] for values in (x, y)]
    fit = linregress(*centres)
    return float(fit.slope), float(fit.stderr)


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
    groups = _partners(np.array(frames[0].symbols))
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


def _partners(symbols: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
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


@dataclass(frozen=True)
class Motion:
    """What the frames say about motion; names are elements, and ``"all"``.

    Attributes:
        msd_time: (L,) ps. msd: (L,) Å^2 each.
        diffusion: Å^2/ps with standard error, or None where the run is too short.
        vacf_time: (T,) ps. vacf: (T,) mass-weighted, 1 at time 0.
        frequency: (F,) THz. vdos: (F,) 1/THz; its integral is 3, the modes of one atom.
    """

    msd_time: np.ndarray
    msd: dict[str, np.ndarray]
    diffusion: dict[str, tuple[float, float] | None]
    vacf_time: np.ndarray
    vacf: np.ndarray
    frequency: np.ndarray
    vdos: np.ndarray


def motion(frames: Sequence[ase.Atoms], spacing: float, moving: np.ndarray) -> Motion:
    """Analyse equidistant frames of a run that does not wrap atoms into the cell.

    The centre of mass is at rest by subtraction. Displacements are taken in scaled coordinates of the mean
    cell, so that a breathing cell is no diffusion. Atoms are read in groups, within ``MEMORY``.

    Args:
        frames: F of them, with momenta.
        spacing: ps between frames.
        moving: (N,) bool, the atoms to look at.
    """
    symbols = np.array(frames[0].symbols)
    masses = frames[0].get_masses()
    cell = _mean_cell(frames)
    lags = max(1, len(frames) // 2)
    names = sorted(set(symbols[moving]))
    block = np.arange(len(symbols)) % BLOCKS  # neighbours fall into different ones
    counts = {n: np.bincount(block[moving & (symbols == n)], minlength=BLOCKS)[:, None] for n in names}
    sums = {name: np.zeros((BLOCKS, lags)) for name in names}
    vacf, spectrum = np.zeros(min(lags, LAGS)), np.zeros(())
    for group in _atom_groups(np.flatnonzero(moving), len(frames)):
        x, v = _coordinates(frames, group, cell, masses)  # (F, n, 3) each
        for name in names:
            for k in range(BLOCKS):
                mine = (symbols[group] == name) & (block[group] == k)
                if mine.any():
                    sums[name][k] += square_displacements(x[:, mine])[:lags]
        v *= np.sqrt(masses[group])[:, None]
        vacf += autocorrelation(v)[: len(vacf)]
        frequency, density = power_spectrum(v, spacing)
        spectrum = spectrum + density
    sums["all"] = np.sum([sums[name] for name in names], axis=0)
    counts["all"] = np.sum([counts[name] for name in names], axis=0)
    norm = np.trapezoid(spectrum, frequency)
    return Motion(
        msd_time=np.arange(lags) * spacing,
        msd={name: sums[name].sum(axis=0) / counts[name].sum() for name in sums},
        diffusion={name: diffusion(sums[name], counts[name], spacing) for name in sums},
        vacf_time=np.arange(len(vacf)) * spacing,
        vacf=vacf / vacf[0] if vacf[0] > 0 else vacf,
        frequency=frequency,
        vdos=3 * spectrum / norm if norm > 0 else spectrum,
    )


def square_displacements(x: np.ndarray) -> np.ndarray:
    """|x(t + lag) - x(t)|² averaged over all t, summed over atoms: x (F, n, 3) gives (F,).

    Sums by Fourier transform (G. R. Kneller et al., Comput. Phys. Commun. 91, 191 (1995)).
    """
    count = len(x)
    x = x - x.mean(axis=0)  # displacements do not change, rounding errors do
    squares = np.square(x).sum(axis=(1, 2))  # (F,)
    cumulative = np.concatenate([[0.0], np.cumsum(squares)])
    lag = np.arange(count)
    both = (cumulative[count] - cumulative[lag] + cumulative[count - lag]) / (count - lag)
    return np.maximum(both - 2 * autocorrelation(x), 0.0)


def autocorrelation(x: np.ndarray) -> np.ndarray:
    """x(t + lag)·x(t) averaged over all t, summed over the other axes: (F, …) gives (F,)."""
    count = len(x)
    transform = np.fft.rfft(x.reshape(count, -1), n=next_fast_len(2 * count), axis=0)
    power = np.square(np.abs(transform)).sum(axis=1)
    return np.fft.irfft(power, n=next_fast_len(2 * count))[:count] / (count - np.arange(count))


def diffusion(sums: np.ndarray, counts: np.ndarray, spacing: float) -> tuple[float, float] | None:
    """Einstein's D = slope/6 in Å²/ps, and its error.

    The error is that of the mean over blocks of atoms, and the slope that a misfit as large as that of the
    straight line could hide: where atoms vibrate and do not diffuse, or the run is short, there is no line.

    Args:
        sums: (B, L) square displacements by block and lag, summed over the block's atoms.
        counts: (B, 1) atoms of each block.
        spacing: ps between lags.
    """
    here = counts[:, 0] > 0
    window = np.arange(int(np.ceil(FIT * sums.shape[1])), sums.shape[1])
    if here.sum() < 2 or len(window) < 6:
        return None
    blocks = sums[here] / counts[here]
    time = window * spacing
    slopes = np.polyfit(time, blocks[:, window].T, 1)[0] / 6
    msd = sums[:, window].sum(axis=0) / counts.sum()
    slope, offset = np.polyfit(time, msd, 1)
    hidden = (msd - slope * time - offset).std() / time.std() / 6
    return float(slope / 6), float(np.hypot(slopes.std(ddof=1) / np.sqrt(len(slopes)), hidden))


def power_spectrum(v: np.ndarray, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies (THz) and Welch's estimate of the spectrum of v (F, n, 3), summed over coordinates.

    By Wiener and Khinchin's theorem it is the Fourier transform of the autocorrelation.
    """
    segment = min(len(v), max(8, round(RESOLUTION / spacing)))
    frequency, density = welch(v.reshape(len(v), -1), fs=1 / spacing, nperseg=segment, detrend=False, axis=0)
    total = density.sum(axis=1)
    # Welch folds negative frequencies onto positive ones; those without a partner, 0 and Nyquist's, stay
    # single. Of a density they are points like all others, in bins half as wide.
    total[0] *= 2
    if segment % 2 == 0:
        total[-1] *= 2
    return frequency, total


def _mean_cell(frames: Sequence[ase.Atoms]) -> np.ndarray:
    return sum(frame.cell.array for frame in frames) / len(frames)


def _atom_groups(atoms: np.ndarray, n_frames: int) -> Iterator[np.ndarray]:
    size = max(1, MEMORY // (n_frames * 2 * 3 * 8))
    for start in range(0, len(atoms), size):
        yield atoms[start : start + size]


def _coordinates(frames, group, cell, masses) -> tuple[np.ndarray, np.ndarray]:
    """Displacements (Å) from the first frame and velocities (Å/ps), (F, n, 3), without the centre's."""
    x, v = np.empty((2, len(frames), len(group), 3))
    weights = masses / masses.sum()
    first, free = None, free_axes(frames[0])
    for k, frame in enumerate(frames):
        positions = frame.positions
        if frame.cell.rank == 3:
            positions = frame.cell.scaled_positions(positions) @ cell
        first = positions if first is None else first
        moved, velocities = positions - first, frame.get_velocities() * 1000 * fs
        moved, velocities = (a - free * (weights @ a) for a in (moved, velocities))
        x[k], v[k] = moved[group], velocities[group]
    return x, v
