"""Results read back from their files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import ase
import numpy as np
from pydantic import TypeAdapter, ValidationError

from ...errors import ConfigError, did_you_mean
from ...storage.archives import StoredFrames
from ...structures.readers import read_structure
from ...units import unit_of
from .. import workflow_names
from .contract import Workflow, find_workflow
from .interface import Table
from .result_files import Made
from .results import Result, file_fields


def read_result(path: str | Path) -> Result:
    """The result that ``Result.save`` or the command line wrote, every field of its type.

    The JSON says which workflow it belongs to. Structures, trajectories (frame by frame, when they are asked
    for), tables and texts are read from the files that it names, where they lie beside it.

    Args:
        path: of the JSON.

    Raises:
        ConfigError: the file is missing, is not JSON, or is not the result of a workflow.

    Example:
        >>> import tempfile
        >>> from ase.build import bulk
        >>> from ase.calculators.emt import EMT
        >>> from nfflr.workflows import energy
        >>> files = energy(bulk("Cu"), EMT()).save(tempfile.mkdtemp())
        >>> read_result(files["json"]).formula
        'Cu'
    """
    path = Path(path)
    workflow = find_workflow(_workflow_of(path))
    result, record = read_fields(path, workflow)
    names = record.get("files") or {}
    for field, kind in file_fields(workflow.result).items():
        file = path.with_name(str(names.get(field)))
        if field not in names and record.get("files") is not None:
            result.__dict__[field] = None  # there was nothing to write
        elif field in names and file.is_file():
            result.__dict__[field] = _read(file, kind)
    structure = next((v for v in result.__dict__.values() if isinstance(v, ase.Atoms)), ase.Atoms())
    facts = {name: value for name, value in record.items() if name not in ("result", "units", "files")}
    stem = path.stem.removesuffix(f"-{workflow.name}")
    return result.made_by(
        Made(workflow.name, workflow.function.__module__, workflow.result, structure, stem, facts)
    )


def _workflow_of(path: Path) -> str:
    try:
        record: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; give the JSON of a result") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON ({error}); give the JSON of a result") from error
    name = record.get("workflow") if isinstance(record, dict) else None
    if name not in workflow_names():
        hint = did_you_mean(str(name), workflow_names()) if name else "; expected one of nff relax, md, …"
        raise ConfigError(f"{path}: holds the result of no known workflow{hint}")
    return str(name)


def _read(file: Path, kind: str) -> Any:
    if kind in ("structure", "labelled"):
        return read_structure(file)
    if kind == "trajectory":
        return StoredFrames(file)
    return _read_table(file) if kind == "table" else file.read_text(encoding="utf-8")


def _read_table(file: Path) -> Table:
    with open(file, encoding="utf-8", newline="") as lines:
        header, *rows = csv.reader(lines)
    columns = zip(*rows, strict=True) if rows else [()] * len(header)
    return Table(
        {
            name: np.array([float(v or "nan") for v in column])
            for name, column in zip(header, columns, strict=True)
        }
    )


def read_fields(path: str | Path, workflow: Workflow, *, partial: bool = False) -> tuple[Result, dict]:
    """A result that the command line wrote, every field of its type, and the whole record.

    What is a file of its own, its structures for one, stays there; the record names the files, and those
    attributes are missing.

    Args:
        path: JSON with ``workflow`` and ``result``.
        workflow: whose result it should be.
        partial: take a record of some fields too, as one writes by hand: ``model_fields_set`` says which.

    Raises:
        ConfigError: the file is missing, is not JSON, or is not a result of this workflow.
    """
    path = Path(path)
    record = _read_record(path, workflow)
    values: dict[str, Any] = {}
    elsewhere = file_fields(workflow.result)
    if partial:
        _check_names(path, record, workflow, elsewhere)
    for name, field in workflow.result.model_fields.items():
        if name in elsewhere or (partial and name not in record["result"]):
            continue
        if name not in record["result"] and not field.is_required():  # younger than the file
            values[name] = field.default
            continue
        try:
            kept = TypeAdapter(field.rebuild_annotation(), config={"arbitrary_types_allowed": True})
            values[name] = kept.validate_python(record["result"][name])
        except (KeyError, ValidationError) as error:
            raise ConfigError(f"{path}: {name} is missing or of the wrong type; compute it anew") from error
    return workflow.result.model_construct(**values), record


def _read_record(path: Path, workflow: Workflow) -> dict:
    try:
        record: dict = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; give the JSON of a {workflow.name} result") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error}); give a {workflow.name} result") from error
    kind = record.get("workflow") if isinstance(record, dict) else None
    if kind != workflow.name or not isinstance(record.get("result"), dict):
        raise ConfigError(f"{path}: holds {kind or 'no'} result; expected one of nff {workflow.name}")
    if not isinstance(record.get("calculator") or {}, dict):
        raise ConfigError(f"{path}: calculator is of the wrong type; compute it anew")
    return record


def _check_names(path: Path, record: dict, workflow: Workflow, elsewhere: dict[str, str]) -> None:
    """Refuse fields that the result does not have, and units that are not its own."""
    fields = workflow.result.model_fields.keys() - elsewhere.keys()
    for name in record["result"]:
        if name not in fields:
            raise ConfigError(
                f"{path}: {name!r} is no field of a {workflow.name} result{did_you_mean(name, fields)}"
            )
    units = record.get("units") or {}
    if not isinstance(units, dict):
        raise ConfigError(f"{path}: units is of the wrong type; expected a unit for each field")
    for name, unit in units.items():
        field = workflow.result.model_fields.get(name)
        expected = None if field is None else unit_of(field)
        if unit != expected:
            raise ConfigError(
                f"{path}: {name} is in {unit}; expected {expected or 'no unit'}: convert the numbers"
            )
