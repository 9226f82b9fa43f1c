"""Errors as one line on stderr and an exit code."""

from __future__ import annotations

import traceback

import click

from ..errors import NFFLrError, StoppedError


def explain(error: BaseException) -> tuple[str, int]:
    """The line and the exit code for an error, whatever raised it."""
    if isinstance(error, StoppedError):
        return str(error), error.exit_code
    if isinstance(error, NFFLrError):
        return str(error), error.exit_code
    if isinstance(error, MemoryError):
        return "memory: not enough for this structure; use fewer atoms or a machine with more", 6
    if isinstance(error, OSError):
        return f"{error.filename or 'I/O'}: {error.strerror or error}; check the path and the disk", 6
    reason = " ".join(str(error).split())  # a defect of ours: the traceback is one flag away
    return f"internal: {type(error).__name__}: {reason}; rerun with --debug and report it", 1


def fail(message: str, code: int, debug: bool) -> int:
    """Print the line, with ``debug`` the traceback of the error being handled too, and return the code."""
    if debug:
        traceback.print_exc()
    click.echo(f"error: {' '.join(message.split())}", err=True)
    return code
