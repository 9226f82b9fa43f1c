"""Runs that can be resumed: where their archive is, and when it goes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from ..errors import ConfigError, NFFLrError, StoppedError
from ..storage.archives import FolderArchive
from ..storage.files import claim_folder
from ..storage.lock import locked

OPTION = click.Option(
    ["--resume"],
    is_flag=True,
    help="Continue the run that was interrupted, or a finished md to more --steps.",
)


@contextmanager
def archive_folder(
    folder: Path, resume: bool, overwrite: bool, trajectory: Path | None = None
) -> Iterator[FolderArchive]:
    """The archive of a run; deleted when the block ends, kept when the run is interrupted.

    A run that is refused before it saved anything leaves nothing. Of a run that can be made longer, whose
    frames go to ``trajectory``, the records stay.

    Raises:
        ConfigError: another run was interrupted here, and neither option says what to do with it.
        ResourceError: another run is going on here.
        StoppedError: an interrupt came; says how to go on.
    """
    claim_folder(folder)
    with locked(folder):
        if _begun(folder) and not resume:
            finished = trajectory is not None and FolderArchive(folder).is_finished()
            if not overwrite and not finished:
                raise ConfigError(
                    f"{folder}: a run was interrupted here; use --resume, or --overwrite to drop it"
                )
            for path in _begun(folder):
                path.unlink()
        if _begun(folder):
            click.echo(f"resuming from {folder}")
        archive = FolderArchive(folder)
        if trajectory is not None:
            archive.reopen(trajectory)
        try:
            yield archive
        except NFFLrError:
            if archive.is_new():
                archive.remove()
            raise
        except KeyboardInterrupt as error:
            if archive.is_new():
                archive.remove()
                raise
            text = f"{folder}: interrupted, what is finished is kept there; continue with --resume"
            raise StoppedError(text, getattr(error, "signum", signal.SIGINT)) from error
        finally:
            archive.close()
        if trajectory is None:
            archive.remove()
        else:
            archive.keep_records()


def drop_archive(folder: Path) -> None:
    """Delete the archive of a run that was killed after its results were written, if there is one."""
    if folder.is_dir():
        with locked(folder):
            FolderArchive(folder).remove()


def settle_archive(folder: Path) -> None:
    """Keep the records alone of a run that was killed after its results were written."""
    if folder.is_dir():
        with locked(folder):
            FolderArchive(folder).keep_records()


def _begun(folder: Path) -> list[Path]:
    """What a run left in its folder, which has begun if there is something."""
    return [path for path in folder.iterdir() if path.name[0] != "."]
