"""How atoms move: mean square displacement, diffusion, velocity autocorrelation, vibrational spectrum."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import ase
import numpy as np
from ase.units import fs
from scipy.fft import next_fast_len
from scipy.signal import welch

from .start import free_axes

MEMORY = 2**28  # bytes of coordinates held at a time
BLOCKS = 10  # groups of atoms that give a diffusion coefficient each
FIT = 0.2  # first lag of the straight line, in parts of the longest, which is half the run
RESOLUTION = 4.0  # ps of a segment of the spectrum: a line is 0.25 THz wide, and wider by its window
LAGS = 2000  # longest autocorrelation that is kept


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
    for group in _groups(np.flatnonzero(moving), len(frames)):
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


def _groups(atoms: np.ndarray, n_frames: int) -> Iterator[np.ndarray]:
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
