"""What results of commands have in common: files that are not replaced unasked, and where they are from."""

from __future__ import annotations

import shlex

import click

from ..workflows.framework.result_files import Outputs, refuse_existing, versions

__all__ = ["Outputs", "provenance", "refuse_existing"]


def provenance() -> dict:
    """Versions and the command line."""
    return {"versions": versions(), "command": shlex.join(["nff", *click.get_current_context().obj])}
