"""Notes of the package as lines on stderr."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import click

from ..notes import LOGGER


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


@contextmanager
def notes_about(name: str) -> Iterator[None]:
    """Name a file in notes of workflows, which call it "structure"."""

    def named(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if message.startswith("structure:"):
            record.msg, record.args = "%s", (name + message.removeprefix("structure"),)
        return True

    LOGGER.addFilter(named)
    try:
        yield
    finally:
        LOGGER.removeFilter(named)
