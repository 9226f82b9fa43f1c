"""How many threads a command computes with: as asked for, or else no more than help."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import click

KEY = "nfflr.threads"  # of the option, in the context of the command
VARIABLE = "OMP_NUM_THREADS"
PER_THREAD = 1000  # atoms; a kernel's second thread costs more than it gives for fewer
PAIRS, WARM_UP = (
    6,
    2,
)  # steps of a training that are timed with each number of threads, after some that are not
GAIN = 1.2  # how much faster twice the threads have to be


def keep(context: click.Context, parameter: click.Parameter, number: int | None) -> None:
    """The callback of ``--threads``."""
    context.meta[KEY] = number


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def option() -> int | None:
    """What ``--threads`` says."""
    context = click.get_current_context(silent=True)
    return context.meta.get(KEY) if context else None


def demand(configured: int | None = None) -> tuple[int, str] | None:
    """The number that the option, a config or the environment asks for, in this order, and which of them."""
    number = option()
    if number:
        return number, "--threads"
    if configured:
        return configured, "threads of the config"
    first = os.environ.get(VARIABLE, "").partition(",")[0].strip()
    return (int(first), VARIABLE) if first.isdecimal() and int(first) > 0 else None


def set_threads(atoms: int | None = None, kernel: bool = False) -> str:
    """Set the threads of this process for a calculator; returns a line that says how many and why.

    The tensor operations of a model as it is are small: with threads they are hardly faster, and on a busy
    machine up to fifty times slower, so it gets one. A compiled kernel divides atoms among threads. The rule
    depends on nothing that changes from run to run, and neither does the rounding of the results.

    Args:
        atoms: of the structure, where one is known.
        kernel: whether a compiled kernel evaluates it.
    """
    asked = demand()
    if asked is not None:
        number, reason = asked
    elif kernel and atoms:
        number, reason = max(1, min(cores(), atoms // PER_THREAD)), f"compiled kernel, {atoms} atoms"
    else:
        number, reason = 1, "not compiled; --threads N for more"
    return apply(number, reason)


def apply(number: int, reason: str) -> str:
    """Set the threads of this process; returns the line that says so."""
    import torch

    if torch.get_num_threads() != number:
        torch.set_num_threads(number)
    return f"threads {number} of {cores()} ({reason})"


class Trial:
    """Finds by a training's first steps how many threads help; called after each step.

    It begins with one. Steps with one and with two take turns; if two are faster by a fifth, steps with two
    and with four do, and so on.

    Args:
        most: how many there may be.
        say: is given the line with the outcome.
        clock: s, for tests.
    """

    def __init__(self, most: int, say: Callable[[str], None], clock: Callable[[], float] = time.perf_counter):
        self.most, self.say, self.clock = most, say, clock
        self.number, self.step, self.over = 1, -WARM_UP, most < 2
        self.seconds: dict[int, list[float]] = {1: [], 2: []}
        self.last = clock()
        if self.over:
            say(apply(1, "there is one processor"))
        else:
            apply(1, "")

    def __call__(self) -> None:
        """A step is over."""
        if self.over:
            return
        now = self.clock()
        factor = 1 + self.step % 2
        if self.step >= 0:
            self.seconds[factor].append(now - self.last)
        self.step += 1
        if self.step == 2 * PAIRS or (self.step == 4 and self._are_worse()):
            self._judge()
        if not self.over:
            apply(self.number * (1 + self.step % 2), "")
        self.last = self.clock()

    def _are_worse(self) -> bool:
        """Whether twice the threads are so slow that there is nothing more to measure."""
        return min(self.seconds[2]) > 1.5 * max(self.seconds[1])

    def _judge(self) -> None:
        slow, fast = (statistics.median(self.seconds[k]) for k in (1, 2))
        if slow < GAIN * fast:
            self.over = True
            reason = f"{2 * self.number} are {slow / fast:.2g} times as fast"
        else:
            self.number, self.step = 2 * self.number, -WARM_UP
            self.seconds = {1: [], 2: []}
            self.over = 2 * self.number > self.most
            reason = f"{slow / fast:.2g} times as fast as {self.number // 2}"
        if self.over:
            self.say(apply(self.number, f"measured: {reason}"))
