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
from ..files import claim_folder, write_atomically, write_figure, write_json
from ..workflows.base import Result
from ..workflows.contract import Workflow, result_record, structure_fields


class Outputs:
    """Files of one structure's result: ``si-relax.json``, ``si-relaxed.cif``, ``si-relax.traj`` and a figure.

    A field of the result that is an ``ase.Atoms`` becomes ``<stem>-<field>.cif`` (extended XYZ where an axis
    is open, which CIF cannot say), a list of them ``<stem>-<workflow>.traj``.

    Args:
        folder: where they go.
        stem: the structure file's stem, ``si``.
        workflow: whose result it is.
        atoms: the structure: periodic along all axes or not.
    """

    def __init__(self, folder: Path, stem: str, workflow: Workflow, atoms: ase.Atoms):
        self.folder = folder
        self.structures, self.trajectories = structure_fields(workflow.result)
        periodic = bool(atoms.pbc.all()) and atoms.cell.rank == 3
        self.structure_format = "cif" if periodic else "extxyz"
        names = {"json": f"{stem}-{workflow.name}.json"}
        names |= {n: f"{stem}-{n}.{'cif' if periodic else 'xyz'}" for n in self.structures}
        names |= {n: f"{stem}-{workflow.name}.traj" for n in self.trajectories}
        names |= {"plot": f"{stem}-{workflow.name}.png"} if workflow.plot else {}
        self.paths = {key: folder / name for key, name in names.items()}

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

    def write(self, result: Result, record: dict, figure: Callable | None) -> None:
        """Write every file of the result, or none; ``record`` is what the JSON says besides it."""
        try:
            for name in self.structures:
                self._write_structures(name, getattr(result, name), self.structure_format)
            for name in self.trajectories:
                self._write_structures(name, getattr(result, name), "traj")
            if figure is not None:
                write_figure(self.paths["plot"], figure())
            files = {name: path.name for name, path in self.paths.items()}
            write_json(self.paths["json"], {**record, **result_record(result), "files": files})
        except BaseException:
            for path in self.paths.values():
                path.unlink(missing_ok=True)  # half a result would block the next run
            raise

    def _write_structures(self, name: str, structures: ase.Atoms | list[ase.Atoms] | None, form: str) -> None:
        """The file, unless the result has nothing to put there: then the path is forgotten."""
        if structures is None or structures == []:
            self.paths.pop(name).unlink(missing_ok=True)
        else:
            write_atomically(self.paths[name], _structure(structures, form))


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


def _structure(atoms: ase.Atoms | list[ase.Atoms], form: str) -> bytes:
    content = io.StringIO() if form == "extxyz" else io.BytesIO()  # ASE's writers differ in what they take
    ase.io.write(content, atoms, format=form)
    text = content.getvalue()
    return text if isinstance(text, bytes) else text.encode()
