"""The files of a command that judges a potential, and where results of any command are from."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..storage.files import all_or_none, claim_folder, write_figure, write_json
from ..workflows.framework.result_files import refuse_existing, versions
from .printing import say_written

if TYPE_CHECKING:  # nothing else here needs matplotlib
    from matplotlib.figure import Figure


class Judgement:
    """The record and the figure of a command that judges a potential: ``<name>.json`` and ``<name>.png``.

    Raises:
        ConfigError: one of them exists and ``overwrite`` is not set.
    """

    def __init__(self, out: Path, name: str, overwrite: bool):
        self.out, self.paths = out, {kind: out / f"{name}.{kind}" for kind in ("json", "png")}
        self.started = time.perf_counter()
        refuse_existing(self.paths.values(), overwrite)

    def begin(self) -> None:
        """Make the folder, and start the clock."""
        claim_folder(self.out)
        self.started = time.perf_counter()

    def write(self, record: dict[str, Any], figure: Figure) -> None:
        """Write both files or none, with wall time, versions and the command line, and say so."""
        seconds = time.perf_counter() - self.started
        with all_or_none(self.paths.values()):
            write_figure(self.paths["png"], figure)
            write_json(self.paths["json"], {**record, "wall_time_s": seconds, **provenance()})
        say_written(self.paths.values())


def provenance() -> dict[str, Any]:
    """Versions and the command line."""
    return {"versions": versions(), "command": command_line()}


def command_line() -> str:
    """The command as it was typed, which results name as their origin."""
    return shlex.join(["nff", *click.get_current_context().obj])
