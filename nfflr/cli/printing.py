"""What the program prints apart from tables: errors, notes, and the files that were written."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from ..errors import StoppedError, as_nfflr_error
from ..notes import LOGGER


def fail(message: str, code: int) -> int:
    """Print an error on one line of stderr and return its exit code."""
    click.echo(f"error: {' '.join(message.split())}", err=True)
    return code


def fail_by(error: BaseException, debug: bool) -> int:
    """Print an error of any kind, with ``debug`` its traceback too, and return its exit code."""
    if debug:
        traceback.print_exception(error)
    known = error if isinstance(error, StoppedError) else as_nfflr_error(error)
    return fail(str(known), known.exit_code)


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
