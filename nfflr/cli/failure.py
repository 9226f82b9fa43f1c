"""Errors as one line on stderr and an exit code."""

from __future__ import annotations

import re
import traceback

import click

from ..errors import ALLOCATION, NFFLrError, StoppedError


def explain(error: BaseException) -> tuple[str, int]:
    """The line and the exit code for an error, whatever raised it."""
    if isinstance(error, StoppedError):
        return str(error), error.exit_code
    if isinstance(error, NFFLrError):
        return str(error), error.exit_code
    if isinstance(error, MemoryError) or ALLOCATION.search(str(error)):
        asked = _asked_for(str(error))
        return f"memory: not enough for this structure{asked}; use fewer atoms or a machine with more", 6
    if isinstance(error, OSError):
        return f"{error.filename or 'I/O'}: {error.strerror or error}; check the path and the disk", 6
    reason = " ".join(str(error).split())  # a defect of ours: the traceback is one flag away
    return f"internal: {type(error).__name__}: {reason}; rerun with --debug and report it", 1


def _asked_for(reason: str) -> str:
    """How much was asked for at once, where the allocator says it."""
    found = re.search(r"allocate ([\d.]+) ?(bytes|[KMGT]iB)", reason)
    if found is None:
        return ""
    amount, unit = found.groups()
    return f" ({float(amount) / 2**30:.1f} GiB more)" if unit == "bytes" else f" ({amount} {unit} more)"


def fail(message: str, code: int, debug: bool) -> int:
    """Print the line, with ``debug`` the traceback of the error being handled too, and return the code."""
    if debug:
        traceback.print_exc()
    click.echo(f"error: {' '.join(message.split())}", err=True)
    return code
