"""Result files: names claimed before the work, written whole or not at all."""

from __future__ import annotations

import csv
import functools
import importlib
import importlib.metadata
import inspect
import io
import math
import platform
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import ase

from ... import __version__
from ...errors import ConfigError, did_you_mean
from ...notes import note
from ...storage.archives import write_trajectory
from ...storage.files import all_or_none, claim_folder, sweep, write_atomically, write_figure, write_json
from ...structures.writers import FORMATS, OPEN, TRAJECTORY, file_name, format_of, losses, structure_bytes
from .interface import Table
from .results import VERSION, Result, file_fields, result_record

if TYPE_CHECKING:  # nothing else here needs matplotlib
    from matplotlib.figure import Figure

DEPENDENCIES = ("torch", "ase", "numpy", "vesin", "matscipy", "phonopy", "spglib")


class Named(Protocol):
    """What names of files follow from: a workflow, or how a result was made."""

    @property
    def name(self) -> str:
        """Of the workflow."""

    @property
    def result(self) -> type[Result]:
        """What the workflow returns."""

    @property
    def plot(self) -> Callable | None:
        """The workflow's figure, if it has one."""


class Outputs:
    """Files of one structure's result: ``si-relax.json``, ``si-relaxed.cif``, ``si-relax.traj`` and a figure.

    A field of the result that is an ``ase.Atoms`` becomes ``<stem>-<field>`` in the format of the input, or
    in another that holds what it carries (see ``structures.writers``); one with its results
    ``<stem>-<workflow>-<field>.xyz``, a list or sequence of them ``<stem>-<workflow>.traj``, a table
    ``<stem>-<workflow>.csv``, a text ``<stem>-<workflow>`` with its suffix.

    Args:
        folder: where they go.
        stem: of the structure's file, ``si``.
        workflow: whose result it is.
        atoms: the structure, which decides on the format.
        source: its file; default: structures are written as extended XYZ.
        form: format of structures, a name in ``writers.FORMATS``; default: the input's.
    """

    def __init__(
        self,
        folder: Path,
        stem: str,
        workflow: Named,
        atoms: ase.Atoms,
        source: Path | None = None,
        form: str | None = None,
    ):
        self.kinds = file_fields(workflow.result)
        self.folder, self.asked = folder, form is not None
        first = FORMATS[form or ("xyz" if source is None else format_of(source))]
        self.formats = list(dict.fromkeys([first, FORMATS["xyz"], TRAJECTORY]))
        name = f"{stem}-{workflow.name}"
        self.paths = {"json": folder / f"{name}.json"}
        self.candidates: dict[str, list[Path]] = {}  # of each structure, a path for each of the formats
        for field, kind in self.kinds.items():
            if kind == "structure":
                self.candidates[field] = [
                    # "-vacancy.traj" could be the trajectory of the workflow.
                    folder / file_name(stem, f"{workflow.name}-{field}" if f is TRAJECTORY else field, f)
                    for f in self.formats
                ]
                self.paths[field] = self.candidates[field][self._best(atoms)]
            elif kind == "trajectory":
                self.paths[field] = folder / file_name(stem, workflow.name, TRAJECTORY)
            elif kind == "labelled":
                self.paths[field] = folder / file_name(stem, f"{workflow.name}-{field}", FORMATS["xyz"])
            else:
                self.paths[field] = folder / f"{name}{'.csv' if kind == 'table' else kind}"
        if workflow.plot:
            self.paths["plot"] = folder / f"{name}.png"

    def claim(self, overwrite: bool, inputs: Collection[Path] = ()) -> None:
        """Make the folder, and refuse files that exist or are among the (resolved) inputs."""
        for path in self.paths.values():
            if path.resolve() in inputs:
                raise ConfigError(f"{path}: is an input and would be replaced; use another --out")
        for field, paths in self.candidates.items():
            self.candidates[field] = [path for path in paths if path.resolve() not in inputs]
        claimed = list(dict.fromkeys([*self.paths.values(), *chain(*self.candidates.values())]))
        refuse_existing(claimed, overwrite)
        claim_folder(self.folder)
        sweep(claimed)

    def write(self, result: Result, record: dict, figure: Callable | None) -> None:
        """Write every file of the result, or none; ``record`` is what the JSON says besides it."""
        for name in self.kinds:
            value = getattr(result, name)
            if name in self.candidates and value is not None:
                self._choose(name, value)
            for path in {*self.candidates.get(name, ()), self.paths[name]}:
                if value is None or path != self.paths[name]:
                    path.unlink(missing_ok=True)
            if value is None:
                del self.paths[name]
        with all_or_none(self.paths.values()):
            for name in self.kinds.keys() & self.paths.keys():
                self._write_field(name, getattr(result, name))
            if figure is not None:
                write_figure(self.paths["plot"], figure())
            files = {name: path.name for name, path in self.paths.items()}
            content = {"version": VERSION, **record, **result_record(result), "files": files}
            write_json(self.paths["json"], content)

    def _best(self, atoms: ase.Atoms) -> int:
        """Index of the format: the first that holds all, or the requested one if it can be written."""
        lost = [losses(atoms, form) for form in self.formats]
        if self.asked and OPEN not in lost[0]:
            return 0
        return next(k for k, words in enumerate(lost) if not words)

    def _choose(self, name: str, atoms: ase.Atoms) -> None:
        """Take the format that suits a structure, and say what is not as one expects."""
        k = self._best(atoms)
        form, first = self.formats[k], self.formats[0]
        paths = [path for path in self.candidates[name] if path.suffix == form.suffix]
        path = self.paths[name] = paths[0] if paths else self.candidates[name][-1]
        lost = losses(atoms, form)
        if lost:
            note(f"{path}: {form.title} cannot hold {_listed(lost)}, which are left out")
        elif form is not first and (self.asked or losses(atoms, first) != [OPEN]):
            why = _listed(losses(atoms, first))
            note(f"{path}: is {form.title}, since {first.title} cannot hold {why}")

    def _write_field(self, name: str, value: Any) -> None:
        path, kind = self.paths[name], self.kinds[name]
        if kind in ("structure", "labelled"):
            form = next(form for form in self.formats if form.suffix == path.suffix)
            write_atomically(path, structure_bytes(value, form))
        elif kind == "trajectory":
            write_trajectory(path, value)
        elif kind == "table":
            write_table(path, value)
        else:
            write_atomically(path, value.encode())


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


def refuse_existing(paths: Iterable[Path], overwrite: bool) -> None:
    """Refuse with a ``ConfigError`` to replace results unasked."""
    for path in paths:
        if path.exists() and not overwrite:
            raise ConfigError(f"{path}: exists; use --overwrite, or another --out")


def write_table(path: Path, table: Table) -> None:
    """One header line with units, then rows; a value that is not there is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    for row in zip(*(column.tolist() for column in table.columns.values()), strict=True):
        writer.writerow(["" if isinstance(v, float) and math.isnan(v) else v for v in row])
    write_atomically(path, text.getvalue().encode())


def check_format(name: str | None) -> None:
    """Refuse with a ``ConfigError`` a format that structures cannot be written in; None is the input's."""
    if name is not None and name not in FORMATS:
        hint = did_you_mean(name, FORMATS) or f"; expected one of {', '.join(FORMATS)}"
        raise ConfigError(f"format: there is no {name!r}{hint}")


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    installed = {name: importlib.metadata.version(name) for name in DEPENDENCIES}
    return {"nfflr": __version__, "python": platform.python_version(), **installed}


@dataclass(frozen=True)
class Made:
    """How a result was made, from which its files and its figure follow.

    Attributes:
        name: of the workflow, whose function is in ``module``.
        structure: the first structure, whose content decides on the formats of files.
        stem: with which names of files begin.
        facts: what the JSON says besides the result: settings, calculator, versions, …
    """

    name: str
    module: str
    result: type[Result]
    structure: ase.Atoms
    stem: str
    facts: dict[str, Any]

    @property
    def plot(self) -> Callable | None:
        """The workflow's figure, if it has one."""
        return getattr(importlib.import_module(self.module), "plot", None)

    def draw(self, result: Result, others: Mapping[str, Result], label: str) -> Figure:
        """Draw the figure; see ``Result.plot``."""
        plot = self.plot
        if plot is None:
            raise ConfigError(f"{self.name}: this workflow has no figure; its numbers are in the result")
        if others and "others" not in inspect.signature(plot).parameters:
            raise ConfigError(f"{self.name}: its figure shows a single result; leave the others out")
        figure: Figure = plot(result, others, label or "this") if others else plot(result)
        return figure

    def save(self, result: Result, where: Path, form: str | None, overwrite: bool) -> dict[str, Path]:
        """Write the files; see ``Result.save``."""
        check_format(form)
        if where.suffix == ".json":
            stem = where.stem.removesuffix(f"-{self.name}")
            outputs = Outputs(where.parent, stem, self, self.structure, form=form)
            outputs.paths["json"] = where
        else:
            outputs = Outputs(where, self.stem, self, self.structure, form=form)
        outputs.claim(overwrite)
        outputs.write(result, self.facts, None if self.plot is None else lambda: self.draw(result, {}, ""))
        return outputs.paths
