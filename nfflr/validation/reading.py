"""Suites as data: a folder with ``suite.yaml``, structures, and references."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, ClassVar

import ase
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..errors import ConfigError, NFFLrError, StructureError, did_you_mean, plain_reason
from ..storage.sealed import Record, raised
from ..structures.readers import read_structure
from ..workflows import workflow_names
from ..workflows.framework.contract import find_workflow
from ..workflows.framework.interface import Settings
from ..workflows.framework.saved_results import read_fields
from .suite import Suite, Task

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


class SuiteRecord(Record):
    """All of ``suite.yaml``; a file without a version is of the first."""

    model_config = ConfigDict(extra="forbid")
    kind: ClassVar[str] = "a suite.yaml"

    description: str = ""
    tasks: list[TaskEntry] = Field(min_length=1)


def read_suite(folder: str | Path) -> Suite:
    """The suite of a folder; all files that ``suite.yaml`` names are read, relative to it.

    Raises:
        ConfigError: ``suite.yaml`` or a reference is missing, wrong or of a newer version; names the task.
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
        record = SuiteRecord.model_validate(raised(SuiteRecord.kind, content, path))
    except ValidationError as error:
        raise ConfigError(f"{path}: {_reason_in_suite(error, content)}") from error
    tasks = tuple(_task(path, entry) for entry in record.tasks)
    try:
        return Suite(tasks, folder.resolve().name)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _task(path: Path, entry: TaskEntry) -> Task:
    """The task of an entry; errors name the file and the task."""
    try:
        return _read_task(path.parent, entry)
    except NFFLrError as error:
        place = f"task {entry.name}: "
        raise type(error)(f"{path}: {place}{str(error).removeprefix(place)}") from error


def _read_task(folder: Path, entry: TaskEntry) -> Task:
    names = workflow_names()
    if entry.workflow not in names:
        hint = did_you_mean(entry.workflow, names) or f"; expected one of {', '.join(names)}"
        raise ConfigError(f"no workflow {entry.workflow!r}{hint}")
    workflow = find_workflow(entry.workflow)
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
        score_names=entry.scores,
        source=source,
    )


def _settings(folder: Path, entry: TaskEntry, settings: type[Settings]) -> Settings:
    try:
        validated = settings.model_validate(entry.settings)
    except ValidationError as error:
        first = _first(error)
        reason = _reason(first, ".".join(map(str, first["loc"])), settings.model_fields)
        raise ConfigError(f"settings: {reason}") from error
    files = {name: folder / value for name, value in validated if isinstance(value, Path)}
    return validated.model_copy(update=files)


def _structure(path: Path) -> ase.Atoms:
    if not path.is_file():
        raise StructureError(f"{path}: no such file; give one of the suite's folder")
    atoms = read_structure(path)
    atoms.calc = None
    return atoms


def _reason_in_suite(error: ValidationError, content: dict) -> str:
    """The first error as one line that names the task, or its number if it has no name."""
    first = _first(error)
    place, names = first["loc"], SuiteRecord.model_fields
    if len(place) < 2 or place[0] != "tasks":
        return _reason(first, ".".join(map(str, place)), names)
    task = content["tasks"][place[1]]
    name = (task.get("name") if isinstance(task, dict) else None) or place[1] + 1
    field = ".".join(map(str, place[2:]))
    return _reason(first, f"task {name}: {field}".removesuffix(": "), TaskEntry.model_fields)


def _first(error: ValidationError) -> dict:
    """The first error; a misspelt name before the name that is missing for it."""
    return dict(min(error.errors(), key=lambda e: e["type"] != "extra_forbidden"))


def _reason(error: dict, place: str, names: Iterable[str]) -> str:
    """The error in words, with the nearest match for an unknown name."""
    if error["type"] == "extra_forbidden":
        hint = did_you_mean(str(error["loc"][-1]), names) or f"; expected one of {', '.join(names)}"
        return f"{place}: unknown name{hint}"
    return f"{place}: {plain_reason(error)}".removeprefix(": ")
