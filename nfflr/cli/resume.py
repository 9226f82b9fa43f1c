"""Runs that can be resumed: where their archive is, and when it goes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from ..errors import ConfigError, NFFLrError
from ..workflows.archive import FolderArchive

OPTION = click.Option(
    ["--resume"], is_flag=True, help="Continue the run that was interrupted, if there is one."
)


@contextmanager
def archive_folder(folder: Path, resume: bool, overwrite: bool) -> Iterator[FolderArchive]:
    """The archive of a run; deleted when the block ends, kept when the run is interrupted.

    A run that is refused before it saved anything leaves nothing.

    Raises:
        ConfigError: another run was interrupted here, and neither option says what to do with it.
    """
    if folder.exists() and not resume:
        if not overwrite:
            raise ConfigError(
                f"{folder}: a run was interrupted here; use --resume, or --overwrite to drop it"
            )
        shutil.rmtree(folder)
    if folder.exists():
        click.echo(f"resuming from {folder}")
    archive = FolderArchive(folder)
    try:
        yield archive
    except NFFLrError:
        if archive.is_new():
            archive.remove()
        raise
    finally:
        archive.close()
    archive.remove()
