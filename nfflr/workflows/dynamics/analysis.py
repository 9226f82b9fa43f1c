"""Averages with errors over the frames of a run, and a verdict in one word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from typing import Any, Literal

import ase
import numpy as np
from ase.units import fs
from scipy.fft import next_fast_len
from scipy.signal import welch
from scipy.stats import linregress

from ..framework.interface import Table
from .guard import pairs
from .preparation import MdSettings, free_axes
from .simulation import COLUMNS, Outcome

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
    """Slope of a line through the block means of y(x), and its standard error; None for too few values."""
    if len(x) < 2 * blocks:
        return None
    centres = [[part.mean() for part in np.array_split(values, blocks)] for values in (x, y)]
    fit = linregress(*centres)
    return float(fit.slope), float(fit.stderr)


def radial_distribution(
    frames: Sequence[ase.Atoms], cutoff: float
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """g(r) averaged over evenly spaced frames of a structure with three periodic axes.

    ``cutoff`` (Å) may exceed half the cell. An atom's own images, which never move, are left out.

    Returns:
        r (B,), centres of the bins in Å, and g (B,) by name: ``"all"``, and with several elements ``"O-Si"``.
    """
    edges = np.arange(0.0, cutoff + WIDTH / 2, WIDTH)
    shells = 4 / 3 * np.pi * np.diff(edges**3)  # Å^3
    groups = _partners(np.array(frames[0].symbols))
    sums = {name: np.zeros(len(shells)) for name in groups}
    indices = _evenly(frames, float(edges[-1]))
    for frame in (frames[int(k)] for k in indices):
        i, j, distance = pairs(frame, edges[-1])
        for name, (first, second) in groups.items():
            selected = distance[(i != j) & first[i] & second[j]]
            counts = np.histogram(selected, len(shells), (0.0, edges[-1]))[0]
            possible = first.sum() * second.sum() - (first & second).sum()
            sums[name] += counts * frame.get_volume() / (max(1, possible) * shells * len(indices))
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
    elements = sorted(set(symbols))
    pairs = combinations_with_replacement(elements, 2) if len(elements) > 1 else ()
    return {"all": (everyone, everyone), **{f"{a}-{b}": (symbols == a, symbols == b) for a, b in pairs}}


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


def motion(frames: Sequence[ase.Atoms], spacing: float, moving: np.ndarray) -> dict[str, Any]:
    """Analyse frames with momenta, ``spacing`` ps apart, of a run that does not wrap atoms into the cell.

    The centre of mass is at rest by subtraction. Displacements are taken in scaled coordinates of the mean
    cell, so that a breathing cell is no diffusion. The ``moving`` atoms, (N,) bool, are read in groups,
    within ``MEMORY``.

    Returns:
        fields of a result, by element and of ``"all"``: ``msd`` (L,) Å² over ``msd_time`` (ps); ``diffusion``
        Å²/ps and ``diffusion_error``, None if the run is too short; ``vacf`` (T,), mass-weighted, 1 at time
        0; ``vdos`` (F,) 1/THz over ``frequency`` (THz), whose integral is 3, the modes of one atom.
    """
    symbols = np.array(frames[0].symbols)
    masses = frames[0].get_masses()
    cell = np.mean([frame.cell.array for frame in frames], axis=0)
    lags = max(1, len(frames) // 2)
    names = sorted(set(symbols[moving]))
    block = np.arange(len(symbols)) % BLOCKS  # neighbours fall into different ones
    counts = {n: np.bincount(block[moving & (symbols == n)], minlength=BLOCKS)[:, None] for n in names}
    sums = {name: np.zeros((BLOCKS, lags)) for name in names}
    vacf, spectrum = np.zeros(min(lags, LAGS)), np.zeros(())
    atoms, size = np.flatnonzero(moving), max(1, MEMORY // (len(frames) * 2 * 3 * 8))
    for group in (atoms[start : start + size] for start in range(0, len(atoms), size)):
        x, v = _coordinates(frames, group, cell, masses)  # (F, n, 3) each
        for name in names:
            for k in range(BLOCKS):
                members = (symbols[group] == name) & (block[group] == k)
                if members.any():
                    sums[name][k] += square_displacements(x[:, members])[:lags]
        v *= np.sqrt(masses[group])[:, None]
        vacf += autocorrelation(v)[: len(vacf)]
        frequency, density = power_spectrum(v, spacing)
        spectrum = spectrum + density
    sums["all"] = np.sum([sums[name] for name in names], axis=0)
    counts["all"] = np.sum([counts[name] for name in names], axis=0)
    norm = np.trapezoid(spectrum, frequency)
    coefficients = {name: diffusion(sums[name], counts[name], spacing) for name in sums}
    return {
        "msd_time": np.arange(lags) * spacing,
        "msd": {name: sums[name].sum(axis=0) / counts[name].sum() for name in sums},
        "diffusion": {name: d[0] for name, d in coefficients.items() if d} or None,
        "diffusion_error": {name: d[1] for name, d in coefficients.items() if d} or None,
        "vacf_time": np.arange(len(vacf)) * spacing,
        "vacf": vacf / vacf[0] if vacf[0] > 0 else vacf,
        "frequency": frequency,
        "vdos": 3 * spectrum / norm if norm > 0 else spectrum,
    }


def square_displacements(x: np.ndarray) -> np.ndarray:
    """|x(t + lag) - x(t)|² averaged over t, summed over atoms: x (F, n, 3) gives (F,).

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
    ``sums`` (B, L) are square displacements by block and lag, over the ``counts`` (B, 1) atoms of each block;
    lags are ``spacing`` ps apart.
    """
    filled = counts[:, 0] > 0
    window = np.arange(int(np.ceil(FIT * sums.shape[1])), sums.shape[1])
    if filled.sum() < 2 or len(window) < 6:
        return None
    blocks = sums[filled] / counts[filled]
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
        for array, values in ((x, positions - first), (v, frame.get_velocities() * 1000 * fs)):
            array[k] = (values - free * (weights @ values))[group]
    return x, v


@dataclass(frozen=True)
class Trace:
    """The table of a run, with NaN for missing values, and how far its F frames are from the first.

    ``displacement`` (F,) Å is the root mean square distance with the centre of mass at rest, ``furthest``
    (F,) the atom that is furthest away.
    """

    step: np.ndarray
    table: Table
    displacement: np.ndarray
    furthest: np.ndarray


def trace(frames: Sequence[ase.Atoms]) -> Trace:
    """Read every frame once. Displacements are in scaled coordinates, so that a cell may breathe."""
    steps, rows, displacement, furthest = [], [], [], []
    first = None
    for frame in frames:
        steps.append(frame.info["step"])
        rows.append([frame.info["thermo"][name] for name in COLUMNS])
        cell = frame.cell.array if frame.cell.rank == 3 else np.eye(3)
        scaled = np.linalg.solve(cell.T, frame.positions.T).T  # (N, 3)
        first = scaled if first is None else first
        moved, masses = (scaled - first) @ cell, frame.get_masses()
        moved -= free_axes(frame) * (masses @ moved) / masses.sum()
        squares = np.square(moved).sum(axis=1)
        displacement.append(np.sqrt(squares.mean()))
        furthest.append(int(squares.argmax()))
    columns = np.array(rows, dtype=float).T  # (columns, F); None becomes NaN
    table = Table(dict(zip(COLUMNS, columns, strict=True)))
    return Trace(np.array(steps), table, np.array(displacement), np.array(furthest))


Word = Literal[
    "stable", "melted", "exploded", "uncertain", "drifting", "outside training range", "off target"
]

# Lindemann (Phys. Z. 11, 609 (1910); J. J. Gilvarry, Phys. Rev. 102, 308 (1956)): crystals melt when atoms
# vibrate by 0.1 to 0.2 of the distance to their neighbours. The start vibrates too, so displacements from
# it are up to √2 larger. This lies beyond both, and a liquid passes it within about a picosecond.
MELTED = 0.3

# A mean is off its target if it misses by this many standard errors and by more than nobody would mind.
ERRORS = 5.0
RELAXATIONS = 3  # times of the thermostat or barostat that a run takes at least to be judged by its mean
TOLERANCES = {"temperature": 0.05, "pressure": 0.01}  # of the target; GPa
UNITS = {"temperature": "K", "pressure": "GPa"}


@dataclass(frozen=True)
class Verdict:
    """The gravest word that applies, one line, and the step and atom that showed it, if any."""

    word: Word
    message: str
    step: int | None = None
    atom: int | None = None


def judge(
    outcome: Outcome,
    trace: Trace,
    start: ase.Atoms,
    drift: tuple[float, float] | None,
    averages: Mapping[str, float | None],
    settings: MdSettings,
) -> Verdict:
    """The gravest of: exploded, uncertain, melted, outside the training range, drifting, off target.

    A run that is none of these is stable. Melting comes before the range, which a liquid leaves as a matter
    of course; the message has both. ``start`` is the first frame, ``drift`` that of the conserved quantity
    with its error in meV/atom/ns; averages are of temperature (K) and pressure (GPa), with errors.
    """
    if outcome.explosion is not None:
        atom, what = outcome.explosion
        step = outcome.steps + 1
        return Verdict("exploded", f"exploded at step {step}: {_name(start, atom)} {what}", step, atom)
    if outcome.excess is not None:
        text = f"uncertain, stopped at step {outcome.steps}: {outcome.excess.text(start)}"
        return Verdict("uncertain", text, outcome.steps, outcome.excess.atom)
    melted, outside = _melted(trace, start, settings), _outside(outcome, start)
    if melted is not None and outside is not None:
        return replace(melted, message=f"{melted.message}; {outside.message}")
    if verdict := melted or outside:
        return verdict
    if drift is not None and abs(drift[0]) > max(settings.max_drift, 3 * drift[1]):
        text = f"drifting: the conserved quantity changes by {drift[0]:.3g} meV/atom/ns"
        return Verdict("drifting", text, outcome.steps)
    misses = [miss for name in TOLERANCES if (miss := _miss(name, averages, settings))]
    if misses:
        return Verdict("off target", f"off target: {'; '.join(misses)}", outcome.steps)
    return Verdict("stable", f"stable for {outcome.steps} steps")


def _miss(name: str, averages: Mapping[str, float | None], settings: MdSettings) -> str | None:
    """A clause about a mean that is further from its target than chance explains, or None."""
    is_temperature = name == "temperature"
    has_target = settings.has_thermostat if is_temperature else settings.has_barostat
    mean, error = averages[name], averages[f"{name}_error"]
    if not has_target or settings.has_ramp or mean is None or error is None:
        return None
    relaxation = settings.thermostat_time if is_temperature else settings.barostat_time
    if settings.steps * settings.timestep * (1 - settings.equilibration) < RELAXATIONS * relaxation:
        return None  # the run has had no time to get there
    target = getattr(settings, name)
    tolerance = TOLERANCES[name] * (target if is_temperature else 1.0)
    if abs(mean - target) <= max(tolerance, ERRORS * error):
        return None
    option = "--thermostat-time" if is_temperature else "--barostat-time"
    if settings.ensemble == "npt-berendsen" and not is_temperature:
        option += ", or raise --compressibility"
    digits = max(2, 1 - int(np.floor(np.log10(error)))) if error else 2
    numbers = f"{mean:.{digits}f} ± {error:.{digits}f} {UNITS[name]} for {target:g} {UNITS[name]}"
    return f"the mean {name} is {numbers}; raise --steps, lower {option}"


def _outside(outcome: Outcome, start: ase.Atoms) -> Verdict | None:
    near = outcome.too_near
    if near is None:
        return None
    text = (
        f"outside the training range from step {near.step}: {_name(start, near.atom)} has a neighbour at "
        f"{near.distance:.2f} Å, clearly nearer than any in the training data"
    )
    return Verdict("outside training range", text, near.step, near.atom)


def _melted(trace: Trace, start: ase.Atoms, settings: MdSettings) -> Verdict | None:
    if not (settings.melting and start.pbc.all()):
        return None
    left = trace.displacement > MELTED * nearest_distance(start)
    if not left[-1]:
        return None
    k = len(left) - int(left[::-1].argmin()) if not left.all() else 0  # after the last that is not
    text = f"melted: from step {trace.step[k]} atoms are {trace.displacement[k]:.2f} Å from their sites"
    text += f" (rms), {_name(start, trace.furthest[k])} furthest"
    return Verdict("melted", text, int(trace.step[k]), int(trace.furthest[k]))


def _name(atoms: ase.Atoms, atom: int) -> str:
    return f"atom {atom} ({atoms.symbols[atom]})"
