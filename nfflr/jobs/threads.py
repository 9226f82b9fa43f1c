"""How many threads a run computes with: as asked for, or else no more than help."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "OMP_NUM_THREADS"
PER_THREAD = 1000  # atoms; a kernel's second thread costs more than it gives for fewer


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads(
    threads: int | None = None, *, configured: int | None = None, default: tuple[int, str] | None = None
) -> str:
    """Set the threads of this process; returns a line that says how many and why.

    Args:
        threads: what ``--threads`` says, which counts most.
        configured: what a training config says; after it comes the environment.
        default: a number and its reason, where none of these says anything: one thread, since the tensor
            operations of a model that is not compiled are small. With threads they are hardly faster, and on
            a busy machine up to fifty times slower.
    """
    import torch

    variable = os.environ.get(VARIABLE, "").partition(",")[0].strip()
    environment = int(variable) if variable.isdecimal() else None
    choices = ((threads, "--threads"), (configured, "threads of the config"), (environment, VARIABLE))
    number, reason = next(
        ((number, reason) for number, reason in choices if number), default or (1, "--threads N for more")
    )
    if torch.get_num_threads() != number:
        torch.set_num_threads(number)
    return f"threads {number} of {cores()} ({reason})"


def threads_for(atoms: int | None, kernel: bool) -> tuple[int, str]:
    """How many threads help a calculator, and why.

    A compiled kernel divides atoms among threads; anything else gets one. The rule depends on nothing that
    changes from run to run, and neither does the rounding of the results.
    """
    if kernel and atoms:
        return max(1, min(cores(), atoms // PER_THREAD)), f"compiled kernel, {atoms} atoms"
    return 1, "not compiled; --threads N for more"


@contextmanager
def threads_restored() -> Iterator[None]:
    """Give the process its own number of threads back when the block ends."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
