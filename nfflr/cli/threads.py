"""How many threads a command computes with: as asked for, or else no more than help."""

from __future__ import annotations

import os

import click

KEY = "nfflr.threads"  # of the option, in the context of the command
VARIABLE = "OMP_NUM_THREADS"
PER_THREAD = 1000  # atoms; a kernel's second thread costs more than it gives for fewer


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
