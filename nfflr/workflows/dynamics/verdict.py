"""What a run leaves behind in one pass over its frames, and the verdict in one word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import ase
import numpy as np

from ..framework.interface import Table
from .averages import nearest_distance
from .preparation import MdSettings, free_axes
from .simulation import COLUMNS, Outcome


@dataclass(frozen=True)
class Trace:
    """Attributes:
    step: (F,) of the frames.
    table: a row per frame; NaN where there is no such quantity.
    displacement: (F,) Å, root mean square distance from the first frame, the centre of mass at rest.
    furthest: (F,) the atom that is furthest away.
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
        scaled = frame.cell.rank == 3
        positions = frame.cell.scaled_positions(frame.positions) if scaled else frame.positions
        first = positions if first is None else first
        moved = (positions - first) @ (frame.cell.array if scaled else np.eye(3))  # (N, 3)
        masses = frame.get_masses()
        moved = moved - free_axes(frame) * (masses @ moved) / masses.sum()
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
    """Attributes:
    word: see ``Word``; the gravest that applies.
    message: one line; after what befell the crystal it says whether atoms left the training range.
    step, atom: what showed it, where there is such a step or atom.
    """

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

    Stable if it is none of these. Melting comes before the range, which a liquid leaves as a matter of
    course; the message has both.

    Args:
        start: the first frame.
        drift: of the conserved quantity with its error, meV/atom/ns.
        averages: of temperature (K) and pressure (GPa), with their errors as ``temperature_error``.
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
    """What to say where a mean is further from what a thermostat or barostat holds than chance explains."""
    held = settings.has_thermostat if name == "temperature" else settings.has_barostat
    mean, error = averages[name], averages[f"{name}_error"]
    if not held or settings.has_ramp or mean is None or error is None:
        return None
    relaxation = settings.thermostat_time if name == "temperature" else settings.barostat_time
    if settings.steps * settings.timestep * (1 - settings.equilibration) < RELAXATIONS * relaxation:
        return None  # the run has had no time to get there
    target = getattr(settings, name)
    tolerance = TOLERANCES[name] * (target if name == "temperature" else 1.0)
    if abs(mean - target) <= max(tolerance, ERRORS * error):
        return None
    option = "--thermostat-time" if name == "temperature" else "--barostat-time"
    if settings.ensemble == "npt-berendsen" and name == "pressure":
        option += ", or raise --compressibility"
    digits = max(2, 1 - int(np.floor(np.log10(error)))) if error else 2
    numbers = f"{mean:.{digits}f} ± {error:.{digits}f} {UNITS[name]} for {target:g} {UNITS[name]}"
    return f"the mean {name} is {numbers}; raise --steps, lower {option}"


def _outside(outcome: Outcome, start: ase.Atoms) -> Verdict | None:
    near = outcome.too_near
    if near is None:
        return None
    text = f"outside the training range from step {near.step}: {_name(start, near.atom)}"
    text += f" has a neighbour at {near.distance:.2f} Å, nearer than any in the training data"
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
