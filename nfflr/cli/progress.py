"""Progress on a terminal; silence on a pipe."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

BAR = 12  # its width
FRAME = BAR + 36  # and that of steps, times and spaces


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=BAR),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeElapsedColumn(),
        TextColumn("<"),
        TimeRemainingColumn(),
        console=console,
        redirect_stdout=sys.stdout.isatty(),  # a pipe gets what is printed for it
    )


@contextmanager
def step_bar(name: str) -> Iterator:
    """A ``nfflr.workflows.base.Progress`` that shows the numbers a workflow reports."""
    with training_bar(name) as update:

        def progress(step: int, total: int, numbers: dict[str, float], atoms) -> None:
            update(step, total, "  ".join(f"{key} {steady(value)}" for key, value in numbers.items()))

        yield progress


def steady(value: float) -> str:
    """Four digits, zeros at the end included, so that a line that is written again does not jump."""
    return f"{value:#.4g}".rstrip(".")


@contextmanager
def training_bar(name: str, enabled: bool = True) -> Iterator:
    """``update(done, total, text)`` drawn as one line on stderr."""
    console = Console(file=sys.stderr)
    with _bar(console) if enabled and console.is_terminal else _Silent() as bar:
        task = bar.add_task(name, total=None, numbers="starting")
        room = max(8, console.width - len(name) - FRAME)

        def update(done: int, total: int, text: str) -> None:
            bar.update(
                task, completed=done, total=total, numbers=textwrap.shorten(text, room, placeholder=" …")
            )

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
