"""Suites as data: a folder with ``suite.yaml``, structures, and references."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import ase
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..errors import ConfigError, NFFLrError, StructureError, did_you_mean, plain_reason
from ..structures.readers import read_structure
from ..workflows import workflow_names
from ..workflows.framework.contract import Workflow, find_workflow
from ..workflows.framework.interface import Settings
from ..workflows.framework.saved_results import read_fields
from .suite import Suite, Task

Place = Callable[[tuple], tuple[str, Iterable[str]]]

FILE = "suite.yaml"


class TaskEntry(BaseModel):
    """One task of ``suite.yaml``."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: str = Field(pattern=r"^[\w.+-]+$", description="of the task: letters, digits, _ . + -")
    workflow: str = Field(description="a workflow of nff: phonons, elastic, md, …")
    structure: Annotated[
        tuple[Path, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else v), Field(min_length=1)
    ] = Field(description="structure file, or files where the workflow takes several")
    settings: dict = Field(default_factory=dict, description="options of the workflow")
    reference: Path | None = Field(None, description="JSON of a result, or of some of its fields")
    scores: tuple[str, ...] = Field((), description="scores to take; default: all that are possible")
    limits: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="largest value allowed, by score"
    )


class SuiteEntry(BaseModel):
    """All of ``suite.yaml``."""

    model_config = ConfigDict(extra="forbid")

    description: str = ""
    tasks: list[TaskEntry] = Field(min_length=1)


def read_suite(folder: str | Path) -> Suite:
    """The suite of a folder; all files that ``suite.yaml`` names are read, relative to it.

    Raises:
        ConfigError: ``suite.yaml`` or a reference is missing or wrong; names the task.
        StructureError: a structure file cannot be read; names the task.

    Example:
        >>> from nfflr.cards import bundled_calculators
        >>> suite = read_suite(bundled_calculators()["mlearn-si"] / "suite")
        >>> [task.name for task in suite.tasks]
        ['phonons', 'elastic', 'lattice', 'eos', 'hot', 'nve']
    """
    folder = Path(folder)
    path = folder / FILE
    if not path.is_file():
        raise ConfigError(f"{folder}: has no {FILE}; give the folder of a suite")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected 'tasks:' and a list of them")
    try:
        entries = SuiteEntry.model_validate(content).tasks
    except ValidationError as error:
        raise ConfigError(f"{path}: {_reason(error, _place(content))}") from error
    tasks = tuple(_named(path, entry) for entry in entries)
    try:
        return Suite(tasks, folder.resolve().name)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _named(path: Path, entry: TaskEntry) -> Task:
    """The task of an entry; what is wrong with it is said with its name."""
    try:
        return _task(path.parent, entry)
    except NFFLrError as error:
        place = f"task {entry.name}: "
        raise type(error)(f"{path}: {place}{str(error).removeprefix(place)}") from error


def _task(folder: Path, entry: TaskEntry) -> Task:
    workflow = _workflow(entry)
    if len(entry.structure) != len(workflow.structures):
        raise ConfigError(
            f"gives {len(entry.structure)} structure(s); nff {workflow.name} takes "
            f"{len(workflow.structures)}: {', '.join(workflow.structures)}"
        )
    reference, source = None, ""
    if entry.reference is not None:
        reference, record = read_fields(folder / entry.reference, workflow, partial=True)
        source = record.get("source") or record.get("command") or str(entry.reference)
    return Task(
        name=entry.name,
        workflow=workflow,
        structures=tuple(_structure(folder / path) for path in entry.structure),
        settings=_settings(folder, entry, workflow.settings),
        reference=reference,
        limits=entry.limits,
        chosen=entry.scores,
        source=source,
    )


def _workflow(entry: TaskEntry) -> Workflow:
    names = workflow_names()
    if entry.workflow not in names:
        hint = did_you_mean(entry.workflow, names) or f"; expected one of {', '.join(names)}"
        raise ConfigError(f"no workflow {entry.workflow!r}{hint}")
    return find_workflow(entry.workflow)


def _settings(folder: Path, entry: TaskEntry, settings: type[Settings]) -> Settings:
    try:
        validated = settings.model_validate(entry.settings)
    except ValidationError as error:
        names = settings.model_fields
        reason = _reason(error, lambda where: (".".join(map(str, where)), names))
        raise ConfigError(f"settings: {reason}") from error
    files = {name: folder / value for name, value in validated if isinstance(value, Path)}
    return validated.model_copy(update=files)


def _structure(path: Path) -> ase.Atoms:
    if not path.is_file():
        raise StructureError(f"{path}: no such file; give one of the suite's folder")
    atoms = read_structure(path)
    atoms.calc = None
    return atoms


def _place(content: dict) -> Place:
    """Where an error is, in words, and the names that are known there."""

    def place(where: tuple) -> tuple[str, Iterable[str]]:
        if len(where) > 1 and where[0] == "tasks":
            tasks = content["tasks"]
            name = tasks[where[1]].get("name") if isinstance(tasks[where[1]], dict) else None
            field = ".".join(str(w) for w in where[2:])
            return f"task {name or where[1] + 1}{': ' * bool(field)}{field}", TaskEntry.model_fields
        return ".".join(map(str, where)), SuiteEntry.model_fields

    return place


def _reason(error: ValidationError, place: Place) -> str:
    """The first error as one line, with the nearest match for a name that is not known."""
    # A misspelt name is often missing elsewhere; the nearest match says more.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    where, names = place(first["loc"])
    if first["type"] == "extra_forbidden":
        hint = did_you_mean(str(first["loc"][-1]), names) or f"; expected one of {', '.join(names)}"
        return f"{where}: unknown name{hint}"
    return ": ".join([*([where] if where else []), plain_reason(first)])
