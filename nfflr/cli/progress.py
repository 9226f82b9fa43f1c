"""Progress on a terminal; silence on a pipe."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .console import Console

BAR = 12  # its width
COUNTED = 35  # of the number of steps, times and spaces
PLAIN = 10  # of the time and spaces, where the number of steps is not known
NUMBERS = 24  # least room for the numbers that matter; a bar that takes more is left out


def _columns(counted: bool, bar: bool) -> tuple[ProgressColumn, ...]:
    """What is shown; without a number of steps, ``0/?`` and the time that remains would say nothing."""
    name = TextColumn("{task.description}", style="bold", markup=False)
    text, elapsed = TextColumn("{task.fields[numbers]}", markup=False), TimeElapsedColumn()
    if not counted:
        return name, text, elapsed
    steps = (*((BarColumn(bar_width=BAR),) if bar else ()), MofNCompleteColumn())
    return name, *steps, text, elapsed, TextColumn("<"), TimeRemainingColumn()


def _bar(console: Console) -> Progress:
    return Progress(
        *_columns(counted=False, bar=False),
        console=console,
        redirect_stdout=sys.stdout.isatty(),  # a pipe gets what is printed for it
    )


@contextmanager
def step_bar(name: str) -> Iterator:
    """A ``nfflr.workflows.framework.interface.Progress`` that shows the numbers a workflow reports."""
    with training_bar(name) as update:

        def progress(step: int, total: int, numbers: dict[str, float], atoms) -> None:
            update(step, total, "  ".join(f"{key} {steady(value)}" for key, value in numbers.items()))

        yield progress


def steady(value: float) -> str:
    """Four digits, zeros at the end included, so that a line that is written again does not jump."""
    return f"{value:#.4g}".rstrip(".")


def fitting(text: str, room: int) -> str:
    """The first of the numbers, which two spaces part, as far as there is room: none without its value."""
    parts = text.split("  ")
    while len(parts) > 1 and len("  ".join(parts)) > room:
        parts.pop()
    kept = "  ".join(parts)
    return kept if len(kept) <= room else textwrap.shorten(kept, room, placeholder=" …")


@contextmanager
def training_bar(name: str, enabled: bool = True) -> Iterator:
    """``update(done, total, text)`` drawn as one line on stderr; a total of None: not known yet."""
    console = Console(file=sys.stderr)
    with _bar(console) if enabled and console.is_terminal else _Silent() as bar:
        task = bar.add_task(name, total=None, numbers="starting")

        def update(done: int, total: int | None, text: str) -> None:
            room = console.width - len(name) - (PLAIN if total is None else COUNTED)
            bar_fits = room - BAR - 1 >= NUMBERS
            room = max(8, room - BAR - 1 if bar_fits and total is not None else room)
            bar.columns = _columns(total is not None, bar_fits)
            bar.update(task, completed=done, total=total, numbers=fitting(text, room))

        yield update


class _Silent:
    """Stands in for a bar where nobody watches."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def add_task(self, *_, **__):
        return 0

    def update(self, *_, **__):
        return None
