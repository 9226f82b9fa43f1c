"""Progress of long work on a terminal and in a notebook; silence on a pipe."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

BAR = 12  # its width
COUNTED = 35  # of the number of steps, times and spaces
PLAIN = 10  # of the time and spaces, where the number of steps is not known
NUMBERS = 24  # least room for the numbers that matter; a bar that takes more is left out
INTERVAL = 0.1  # s between two lines in a notebook

Update = Callable[[int, int | None, str], None]


class ProgressBar(AbstractContextManager):
    """A ``Progress`` for workflows that are called from Python: ``relax(atoms, progress=progress_bar())``.

    It shows itself with the first step, and ends with the workflow.
    """

    def __init__(self, name: str = "workflow"):
        self.name = name
        self._stack = ExitStack()
        self._report: Callable | None = None

    def __call__(self, step: int, total: int, numbers: dict[str, float], atoms: Any = None) -> None:
        if self._report is None:
            self._report = self._stack.enter_context(step_bar(self.name))
        self._report(step, total, numbers, atoms)

    def __exit__(self, *exception: object) -> None:
        self._report = None
        self._stack.close()


def progress_bar(name: str = "workflow") -> ProgressBar:
    """A bar with the numbers that matter, for ``progress=`` of a workflow; ``progress=True`` shows it too."""
    return ProgressBar(name)


@contextmanager
def step_bar(name: str) -> Iterator[Callable]:
    """A ``nfflr.workflows.framework.interface.Progress`` that shows the numbers a workflow reports."""
    with training_bar(name) as update:

        def progress(step: int, total: int, numbers: dict[str, float], atoms: Any) -> None:
            update(step, total, "  ".join(f"{key} {steady(value)}" for key, value in numbers.items()))

        yield progress


@contextmanager
def training_bar(name: str, enabled: bool = True) -> Iterator[Update]:
    """``update(done, total, text)`` drawn as one line on stderr; a total of None is unknown."""
    console = Console(file=sys.stderr, markup=False, emoji=False)
    if enabled and console.is_jupyter:
        yield _notebook_line(name)
    elif enabled and console.is_terminal:
        # A pipe gets what is printed for it.
        with Progress(console=console, redirect_stdout=sys.stdout.isatty()) as bar:
            bar.columns = _columns(counted=False, bar=False)
            yield _terminal_line(name, console, bar)
    else:
        yield lambda done, total, text: None


def _notebook_line(name: str) -> Update:
    """One line of text that changes. Rich's own bar would need ipywidgets."""
    from IPython.display import display

    handle = display({"text/plain": f"{name}: starting"}, raw=True, display_id=True)
    updated = 0.0

    def update(done: int, total: int | None, text: str) -> None:
        nonlocal updated
        if done == total or time.monotonic() - updated > INTERVAL:
            updated = time.monotonic()
            steps = "" if total is None else f"{done}/{total}  "
            handle.update({"text/plain": f"{name}  {steps}{text}"}, raw=True)

    return update


def _columns(counted: bool, bar: bool) -> tuple[ProgressColumn, ...]:
    """The columns; without a number of steps, ``0/?`` and the time that remains would say nothing."""
    name = TextColumn("{task.description}", style="bold", markup=False)
    text, elapsed = TextColumn("{task.fields[numbers]}", markup=False), TimeElapsedColumn()
    if not counted:
        return name, text, elapsed
    steps = (*((BarColumn(bar_width=BAR),) if bar else ()), MofNCompleteColumn())
    return name, *steps, text, elapsed, TextColumn("<"), TimeRemainingColumn()


def _terminal_line(name: str, console: Console, bar: Progress) -> Update:
    task = bar.add_task(name, total=None, numbers="starting")

    def update(done: int, total: int | None, text: str) -> None:
        room = console.width - len(name) - (PLAIN if total is None else COUNTED)
        bar_fits = room - BAR - 1 >= NUMBERS
        room = max(8, room - BAR - 1 if bar_fits and total is not None else room)
        bar.columns = _columns(total is not None, bar_fits)
        bar.update(task, completed=done, total=total, numbers=fitting(text, room))

    return update


def steady(value: float) -> str:
    """Four digits, zeros at the end included, so that a line that is written again does not jump."""
    return f"{value:#.4g}".rstrip(".")


def fitting(text: str, room: int) -> str:
    """The first of the numbers, which two spaces part, as far as there is room: none without its value."""
    parts = text.split("  ")
    while len(parts) > 1 and len("  ".join(parts)) > room:
        parts.pop()
    numbers = "  ".join(parts)
    return numbers if len(numbers) <= room else textwrap.shorten(numbers, room, placeholder=" …")
