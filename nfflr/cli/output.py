"""Result files: names claimed before the work, written whole or not at all."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import ase
import ase.io
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ..checkpoint import library_versions, write_atomically
from ..errors import ConfigError, ResourceError
from ..units import unit_of


class Outputs:
    """Files of one structure's result: ``si-relax.json``, ``si-relaxed.cif``, ``si-relax.traj``, ``si-relax.png``.

    Args:
        folder: where they go.
        stem: the structure file's stem, ``si``.
        workflow: ``relax``.
        fields: the result's fields; those of type ``ase.Atoms`` become ``<stem>-<field>.cif``, a list of
            them ``<stem>-<workflow>.traj``.
        has_plot: whether a figure is written.
    """

    def __init__(self, folder: Path, stem: str, workflow: str, fields: dict[str, FieldInfo], has_plot: bool):
        self.folder, self.fields = folder, fields
        self.structures = [n for n, f in fields.items() if f.annotation is ase.Atoms]
        self.trajectories = [n for n, f in fields.items() if f.annotation == list[ase.Atoms]]
        names = {"json": f"{stem}-{workflow}.json"}
        names |= {n: f"{stem}-{n}.cif" for n in self.structures}
        names |= {n: f"{stem}-{workflow}.traj" for n in self.trajectories}
        names |= {"plot": f"{stem}-{workflow}.png"} if has_plot else {}
        self.paths = {key: folder / name for key, name in names.items()}

    def claim(self, overwrite: bool) -> None:
        """Make the folder and see that the files can be written, before anything is computed.

        Raises:
            ConfigError: a file exists and ``overwrite`` is not set.
            ResourceError: the folder cannot be written.
        """
        for path in self.paths.values():
            if path.exists() and not overwrite:
                raise ConfigError(f"{path}: exists; use --overwrite, or another --out")
        claim_folder(self.folder)

    def write(self, result: BaseModel, record: dict, plot: Callable | None) -> None:
        """Write every file of the result; ``record`` is what the JSON says besides it."""
        for name in self.structures:
            write_atomically(self.paths[name], _cif(getattr(result, name)))
        for name in self.trajectories:
            _write_trajectory(self.paths[name], getattr(result, name))
        if plot is not None:
            figure, content = plot(result), io.BytesIO()
            figure.savefig(content, format="png", dpi=150)
            write_atomically(self.paths["plot"], content.getvalue())
        skip = {*self.structures, *self.trajectories}
        units = {n: unit_of(f) for n, f in self.fields.items() if unit_of(f)}
        full = {**record, "result": json.loads(result.model_dump_json(exclude=skip)), "units": units}
        write_json(self.paths["json"], full)


def claim_folder(folder: Path) -> None:
    """Make a folder and prove that a file can be created in it.

    Raises:
        ResourceError: it cannot.
    """
    probe = folder / f".nff-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ResourceError(
            f"{folder}: cannot be written ({error.strerror}); choose another --out"
        ) from error


def write_json(path: Path, record: dict) -> None:
    """Write JSON with sorted keys: equal results give equal bytes."""
    text = json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode())


def provenance() -> dict:
    """Versions and the command line."""
    versions = library_versions()
    versions |= {n: importlib.metadata.version(n) for n in ("vesin", "matscipy", "phonopy", "spglib")}
    return {"versions": versions, "command": shlex.join(["nff", *sys.argv[1:]])}


def _cif(atoms: ase.Atoms) -> bytes:
    """CIF of a periodic structure; one without a full cell has no CIF and is written as extended XYZ."""
    content = io.BytesIO()
    ase.io.write(content, atoms, format="cif")
    return content.getvalue()


def _write_trajectory(path: Path, frames: list[ase.Atoms]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        ase.io.write(temporary, frames, format="traj")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ResourceError(f"{path}: cannot be written ({error.strerror}); check the disk") from error
