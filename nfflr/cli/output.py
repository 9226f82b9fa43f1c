"""Errors, notes and names of files on the terminal, and the record and figure of a judgement.

Every call of ``nff`` imports this file, so that it loads neither ASE nor numpy by itself.
"""

from __future__ import annotations

import logging
import math
import shlex
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import StoppedError, as_nfflr_error
from ..notes import LOGGER

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator
    from matplotlib.figure import Figure


def fail(message: str, code: int) -> int:
    """Print an error on one line of stderr and return its exit code."""
    click.echo(f"error: {' '.join(message.split())}", err=True)
    return code


def fail_by(error: BaseException, debug: bool) -> int:
    """Print an error of any kind, with ``debug`` its traceback too, and return its exit code."""
    if debug:
        traceback.print_exception(error)
    typed = error if isinstance(error, StoppedError) else as_nfflr_error(error)
    return fail(str(typed), typed.exit_code)


def say_written(paths: Iterable[Path]) -> None:
    for path in paths:
        click.echo(f"  wrote {path}")


class NoteHandler(logging.Handler):
    """Writes each message once, as ``note: ...``."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = " ".join(record.getMessage().split())
        if message not in self.messages:
            self.messages.add(message)
            click.echo(f"note: {message}", err=True)


@contextmanager
def printed_notes() -> Iterator[None]:
    """Print notes while a command runs."""
    handler = NoteHandler()
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)


class Judgement:
    """The record and the figure of a command that judges a potential: ``<name>.json`` and ``<name>.png``.

    Raises:
        ConfigError: one of them exists and ``overwrite`` is not set.
    """

    def __init__(self, out: Path, name: str, overwrite: bool):
        from ..workflows.framework.result_files import refuse_existing

        self.out, self.paths = out, {kind: out / f"{name}.{kind}" for kind in ("json", "png")}
        self.started = time.perf_counter()
        refuse_existing(self.paths.values(), overwrite)

    def begin(self) -> None:
        """Make the folder, and start the clock."""
        from ..storage.files import claim_folder

        claim_folder(self.out)
        self.started = time.perf_counter()

    def write(self, record: dict[str, Any], figure: Figure) -> None:
        """Write both files or none, with wall time, versions and the command line, and say so."""
        from ..storage.files import all_or_none, write_figure, write_json

        seconds = time.perf_counter() - self.started
        with all_or_none(self.paths.values()):
            write_figure(self.paths["png"], figure)
            write_json(self.paths["json"], {**record, "wall_time_s": seconds, **provenance()})
        say_written(self.paths.values())


def provenance() -> dict[str, Any]:
    """Versions and the command line."""
    from ..workflows.framework.result_files import versions

    return {"versions": versions(), "command": command_line()}


def command_line() -> str:
    """The command as it was typed, which results name as their origin."""
    return shlex.join(["nff", *click.get_current_context().obj])


def describe(calculator: Calculator, *names: str) -> dict[str, Any]:
    """The class of a calculator, and those entries of its description that it has."""
    description, kind = calculator.todict(), type(calculator)
    entries = {name: description[name] for name in names if name in description}
    return {"class": f"{kind.__module__}.{kind.__qualname__}", **entries}


def finite(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """The same values for JSON, which knows no NaN and no infinity."""
    return {n: None if value is None or not math.isfinite(value) else value for n, value in values.items()}
