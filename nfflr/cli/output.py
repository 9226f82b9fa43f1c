"""Result files: names claimed before the work, written whole or not at all."""

from __future__ import annotations

import importlib.metadata
import io
import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import ase
import ase.io
import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ..checkpoint import library_versions
from ..errors import ConfigError
from ..files import claim_folder, write_atomically, write_figure, write_json
from ..units import unit_of
from ..workflows.base import Table
from .tables import write_table
from .trajectories import write_trajectory


class Outputs:
    """Files of one structure's result: ``si-relax.json``, ``si-relaxed.cif``, ``si-relax.traj`` and a figure.

    Args:
        folder: where they go.
        stem: the structure file's stem, ``si``.
        workflow: ``relax``.
        fields: the result's fields; one of type ``ase.Atoms`` becomes ``<stem>-<field>.cif`` (extended XYZ
            where an axis is open, which CIF cannot say), a list or sequence of them
            ``<stem>-<workflow>.traj``, a ``Table``
            ``<stem>-<workflow>.csv``.
        periodic: whether the structure is periodic along all axes.
        has_plot: whether a figure is written.
    """

    def __init__(
        self,
        folder: Path,
        stem: str,
        workflow: str,
        fields: dict[str, FieldInfo],
        periodic: bool,
        has_plot: bool,
    ):
        self.folder, self.fields = folder, fields
        self.structures = [n for n, f in fields.items() if f.annotation is ase.Atoms]
        frames = (list[ase.Atoms], Sequence[ase.Atoms])
        self.trajectories = [n for n, f in fields.items() if f.annotation in frames]
        self.tables = [n for n, f in fields.items() if f.annotation is Table]
        self.structure_format = "cif" if periodic else "extxyz"
        names = {"json": f"{stem}-{workflow}.json"}
        names |= {n: f"{stem}-{n}.{'cif' if periodic else 'xyz'}" for n in self.structures}
        names |= {n: f"{stem}-{workflow}.traj" for n in self.trajectories}
        names |= {n: f"{stem}-{workflow}.csv" for n in self.tables}
        names |= {"plot": f"{stem}-{workflow}.png"} if has_plot else {}
        self.paths = {key: folder / name for key, name in names.items()}

    def claim(self, overwrite: bool) -> None:
        """Make the folder and see that the files can be written, before anything is computed.

        Raises:
            ConfigError: a file exists and ``overwrite`` is not set.
            ResourceError: the folder cannot be written.
        """
        refuse_existing(self.paths.values(), overwrite)
        claim_folder(self.folder)

    def write(self, result: BaseModel, record: dict, plot: Callable | None) -> None:
        """Write every file of the result, or none; ``record`` is what the JSON says besides it."""
        skip = {*self.structures, *self.trajectories, *self.tables}
        units = {n: unit_of(f) for n, f in self.fields.items() if unit_of(f)}
        full = {**record, "result": json.loads(result.model_dump_json(exclude=skip)), "units": units}
        try:
            for name in self.structures:
                write_atomically(self.paths[name], _structure(getattr(result, name), self.structure_format))
            for name in self.trajectories:
                write_trajectory(self.paths[name], getattr(result, name))
            for name in self.tables:
                write_table(self.paths[name], getattr(result, name))
            if plot is not None:
                write_figure(self.paths["plot"], plot(result))
            write_json(self.paths["json"], full)
        except BaseException:
            for path in self.paths.values():
                path.unlink(missing_ok=True)  # half a result would block the next run
            raise


def refuse_existing(paths: Iterable[Path], overwrite: bool) -> None:
    """Refuse to replace results unasked.

    Raises:
        ConfigError: a file exists and ``overwrite`` is not set.
    """
    for path in paths:
        if path.exists() and not overwrite:
            raise ConfigError(f"{path}: exists; use --overwrite, or another --out")


def provenance() -> dict:
    """Versions and the command line."""
    versions = library_versions()
    versions |= {n: importlib.metadata.version(n) for n in ("vesin", "matscipy", "phonopy", "spglib")}
    return {"versions": versions, "command": shlex.join(["nff", *click.get_current_context().obj])}


def _structure(atoms: ase.Atoms, form: str) -> bytes:
    content = io.StringIO() if form == "extxyz" else io.BytesIO()  # ASE's writers differ in what they take
    ase.io.write(content, atoms, format=form)
    text = content.getvalue()
    return text if isinstance(text, bytes) else text.encode()
