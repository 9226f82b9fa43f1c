"""The cost of a call of a calculator: several of them in turn, at a ladder of sizes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import ase
import numpy as np
from ase.calculators.calculator import Calculator
from matplotlib.figure import Figure

from ..workflows.framework.interface import has_stress

STEP = 0.002  # Å, what an atom moves between two calls, as in molecular dynamics
PROCESS = Path("/proc/self")


@dataclass(frozen=True)
class Contestant:
    """An ASE calculator under a name; energy, forces and, if it has one, stress are asked for.

    ``parts`` is called before and after each call, and gives processor seconds so far by part, as neighbours.
    """

    name: str
    calculator: Calculator
    parts: Callable[[], dict[str, float]] = dict


@dataclass
class Timing:
    """One calculator at one size, in seconds of each call.

    Attributes:
        seconds: by the clock.
        processor: on all processors of this process: another job on the machine hardly changes them.
        parts: processor seconds by part.
        memory: MB that a call took at most beyond what was in use before; None if unknown.
        message: why there are no times, if there are none.
    """

    name: str
    atoms: int
    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)
    memory: float | None = None
    message: str = ""

    @property
    def milliseconds(self) -> float | None:
        """Median time of a call by the clock."""
        return _median(self.seconds, 1e3)

    @property
    def processor_milliseconds(self) -> float | None:
        """Median processor time of a call."""
        return _median(self.processor, 1e3)

    @property
    def per_atom(self) -> float | None:
        """The time by the clock in µs per atom."""
        return _median(self.seconds, 1e6 / self.atoms)

    @property
    def processor_per_atom(self) -> float | None:
        """The processor time in µs per atom."""
        return _median(self.processor, 1e6 / self.atoms)

    def split(self) -> dict[str, float]:
        """Median processor ms of each part, and of what is none of them: ASE."""
        medians = {name: 1e3 * statistics.median(times) for name, times in self.parts.items()}
        if not medians or self.processor_milliseconds is None:
            return {}
        return medians | {"ase": max(0.0, self.processor_milliseconds - sum(medians.values()))}


def _median(times: list[float], scale: float) -> float | None:
    return scale * statistics.median(times) if times else None


def measure_speed(
    contestants: Sequence[Contestant],
    structures: Sequence[ase.Atoms],
    rounds: int = 7,
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> list[Timing]:
    """Time of energy, forces and stress through ASE after a small move of every atom.

    In each round every calculator has its turn, so that what else the machine does falls on all of them. Of
    each, ``rounds`` calls are counted after two that are not; ``progress`` gets rounds done, all, and the
    size.

    Returns:
        one for each size and calculator, in that order. A calculator that fails at a size says why.
    """
    timings = []
    for k, atoms in enumerate(structures):
        runs = [_Run(contestant, atoms) for contestant in contestants]
        for n in range(-2, rounds):
            progress(k * rounds + max(n, 0), len(structures) * rounds, f"{len(atoms)} atoms")
            for run in runs:
                run.step(counted=n >= 0)
        timings += [run.timing for run in runs]
    return timings


def ratios(timings: Sequence[Timing], processor: bool = True) -> dict[tuple[str, int], float]:
    """Median over rounds of a call's processor time (or that by the clock) over the first calculator's."""
    first: dict[int, Timing] = {}
    values = {}
    for timing in timings:
        ours = first.setdefault(timing.atoms, timing)
        times = [t.processor if processor else t.seconds for t in (timing, ours)]
        if timing is not ours and all(times):
            pairs = zip(*times, strict=True)
            values[timing.name, timing.atoms] = statistics.median(theirs / mine for theirs, mine in pairs)
    return values


class _Run:
    """One calculator with its own copy of a structure."""

    def __init__(self, contestant: Contestant, atoms: ase.Atoms):
        self.contestant, self.atoms = contestant, atoms.copy()
        self.timing = Timing(contestant.name, len(atoms))
        self.rng = np.random.default_rng(0)
        names = ("energy", "forces", "stress")[: 2 + has_stress(atoms)]
        self.properties = [p for p in names if p in contestant.calculator.implemented_properties]

    def step(self, counted: bool) -> None:
        if self.timing.message:
            return
        self.atoms.positions += STEP * self.rng.normal(size=self.atoms.positions.shape)
        try:
            self._call(counted)
        except Exception as error:  # of any calculator: what it raises is its result
            message = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self.timing = Timing(self.timing.name, self.timing.atoms, message=message)

    def _call(self, counted: bool) -> None:
        timing, parts = self.timing, self.contestant.parts
        before, memory = parts(), None if counted else _reset_peak()
        start = time.perf_counter(), time.process_time()
        for name in self.properties:
            self.contestant.calculator.get_property(name, self.atoms)
        end = time.perf_counter(), time.process_time()
        if counted:
            timing.seconds.append(end[0] - start[0])
            timing.processor.append(end[1] - start[1])
            for name, total in parts().items():
                timing.parts.setdefault(name, []).append(total - before[name])
        elif memory is not None:
            timing.memory = max(timing.memory or 0.0, _status("VmHWM") - memory)


def _reset_peak() -> float | None:
    """MB in use, from where the peak is counted; None where the system cannot tell."""
    with suppress(OSError):
        (PROCESS / "clear_refs").write_text("5")
        return _status("VmRSS")
    return None


def _status(key: str) -> float:
    lines = (PROCESS / "status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def plot_speed(timings: Sequence[Timing], title: str = "") -> Figure:
    """Processor µs per atom over the number of atoms, and what a call of the first calculator is made of."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    cost, share = figure.subplots(1, 2)
    names = list(dict.fromkeys(timing.name for timing in timings))
    for k, name in enumerate(names):
        if measured := [t for t in timings if t.name == name and t.seconds]:
            sizes, costs = [t.atoms for t in measured], [t.processor_per_atom for t in measured]
            cost.loglog(sizes, costs, "o-", color=f"C{k}", label=name)
    cost.set(xlabel="atoms", ylabel="energy, forces, stress (processor µs/atom)")
    cost.legend(fontsize=8, frameon=False)
    first = [t for t in timings if t.name == names[0] and t.parts]
    splits = [timing.split() for timing in first]
    base = np.zeros(len(splits))
    for part in splits[0] if splits else ():
        height = np.array([100 * split[part] / sum(split.values()) for split in splits])
        share.bar([str(t.atoms) for t in first], height, bottom=base, label={"ase": "ASE"}.get(part, part))
        base += height
    if splits:
        share.legend(fontsize=8, frameon=False, ncols=3, loc="upper center")
        share.set_ylim(0, 112)
    share.set(xlabel="atoms", ylabel=f"{names[0]}: processor time of a call (%)")
    for panel in (cost, share):
        panel.tick_params(direction="in", top=True, right=True, which="both")
    figure.suptitle(title, fontsize=11)
    return figure
