"""Notes: what a user should know although nothing failed.

A note is one line through the logger ``nfflr``. Python prints it to stderr unless the user's program handles
that logger otherwise; the command line prints it there as ``note: ...``, each note once.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

LOGGER = logging.getLogger("nfflr")
_QUIET = ContextVar("quiet", default=False)
_STRUCTURE = ContextVar("structure", default="structure")


def note(message: str) -> None:
    """Give a note; the message is written on one line and begins with the file or item that it is about."""
    if not _QUIET.get():
        item, colon, text = " ".join(message.split()).partition(": ")
        LOGGER.warning("%s", (_STRUCTURE.get() if item == "structure" else item) + colon + text)


@contextmanager
def notes_about(name: str) -> Iterator[None]:
    """Name the structure in notes of workflows meanwhile, which call it "structure"."""
    token = _STRUCTURE.set(name)
    try:
        yield
    finally:
        _STRUCTURE.reset(token)


@contextmanager
def quiet() -> Iterator[None]:
    """Give no notes meanwhile: about structures that the program made itself, or that belong to a suite."""
    token = _QUIET.set(True)
    try:
        yield
    finally:
        _QUIET.reset(token)
