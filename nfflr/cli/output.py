"""Result files: names claimed before the work, written whole or not at all."""

from __future__ import annotations

import importlib.metadata
import io
import shlex
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import ase
import ase.io
import click

from ..checkpoint import library_versions
from ..errors import ConfigError
from ..files import all_or_none, claim_folder, sweep, write_atomically, write_figure, write_json
from ..trajectories import write_trajectory
from ..workflows.base import Result
from ..workflows.contract import Workflow, file_fields, result_record
from .tables import write_table


class Outputs:
    """Files of one structure's result: ``si-relax.json``, ``si-relaxed.cif``, ``si-relax.traj`` and a figure.

    A field of the result that is an ``ase.Atoms`` becomes ``<stem>-<field>.cif`` (extended XYZ where an axis
    is open, which CIF cannot say), one with its results
    ``<stem>-<workflow>-<field>.xyz``, a list or sequence of them ``<stem>-<workflow>.traj``, a table
    ``<stem>-<workflow>.csv``, a text ``<stem>-<workflow>`` with its suffix.

    Args:
        folder: where they go.
        stem: the structure file's stem, ``si``.
        workflow: whose result it is.
        atoms: the structure: periodic along all axes or not.
    """

    def __init__(self, folder: Path, stem: str, workflow: Workflow, atoms: ase.Atoms):
        self.kinds = file_fields(workflow.result)
        self.format = "cif" if atoms.pbc.all() and atoms.cell.rank == 3 else "extxyz"
        suffix = ".cif" if self.format == "cif" else ".xyz"
        base = f"{stem}-{workflow.name}"
        names = {"json": f"{base}.json"}
        for field, kind in self.kinds.items():
            endings = {"trajectory": ".traj", "table": ".csv", "labelled": f"-{field}.xyz"}
            names[field] = (
                f"{stem}-{field}{suffix}" if kind == "structure" else base + endings.get(kind, kind)
            )
        if workflow.plot:
            names["plot"] = f"{base}.png"
        self.paths = {key: folder / name for key, name in names.items()}
        self.folder = folder

    def claim(self, overwrite: bool, inputs: Collection[Path] = ()) -> None:
        """Make the folder and see that the files can be written, before anything is computed.

        Raises:
            ConfigError: a file exists and ``overwrite`` is not set, or is one of the (resolved) ``inputs``.
            ResourceError: the folder cannot be written.
        """
        refuse_existing(self.paths.values(), overwrite)
        for path in self.paths.values():
            if path.resolve() in inputs:
                raise ConfigError(f"{path}: is an input and would be replaced; use another --out")
        claim_folder(self.folder)
        sweep(self.paths.values())

    def write(self, result: Result, record: dict, figure: Callable | None) -> None:
        """Write every file of the result, or none; ``record`` is what the JSON says besides it.

        Where the result has no structure to write, the path is forgotten.
        """
        for name in [n for n in self.kinds if getattr(result, n) is None]:
            self.paths.pop(name).unlink(missing_ok=True)
        with all_or_none(self.paths.values()):
            for name in self.kinds.keys() & self.paths.keys():
                self._write_field(name, getattr(result, name))
            if figure is not None:
                write_figure(self.paths["plot"], figure())
            files = {name: path.name for name, path in self.paths.items()}
            write_json(self.paths["json"], {**record, **result_record(result), "files": files})

    def _write_field(self, name: str, value) -> None:
        path, kind = self.paths[name], self.kinds[name]
        if kind in ("structure", "labelled"):
            form = self.format if kind == "structure" else "extxyz"
            write_atomically(path, _structure(value, form))
        elif kind == "trajectory":
            write_trajectory(path, value)
        elif kind == "table":
            write_table(path, value)
        else:
            write_atomically(path, value.encode())


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
