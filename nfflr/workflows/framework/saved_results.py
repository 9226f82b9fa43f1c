"""Results read back from their files."""

from __future__ import annotations

import csv
from collections.abc import Collection
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
from .results import Result, ResultRecord, file_fields


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
    record = ResultRecord.read(path)
    names = workflow_names()
    if record.workflow not in names:
        hint = did_you_mean(record.workflow, names) or "; expected one of nff relax, md, …"
        raise ConfigError(f"{path}: holds the result of no known workflow{hint}")
    workflow = find_workflow(record.workflow)
    result = _result(path, record, workflow, partial=False)
    for field, kind in file_fields(workflow.result).items():
        if record.files is None:  # the JSON of a result of which no file was written
            break
        if field not in record.files:
            result.__dict__[field] = None  # there was nothing to write
        elif (file := path.with_name(record.files[field])).is_file():
            result.__dict__[field] = _read(file, kind)
    structure = next((v for v in result.__dict__.values() if isinstance(v, ase.Atoms)), ase.Atoms())
    facts = record.model_dump(exclude={"result", "units", "files"}, exclude_unset=True)
    stem = path.stem.removesuffix(f"-{workflow.name}")
    return result.made_by(
        Made(workflow.name, workflow.function.__module__, workflow.result, structure, stem, facts)
    )


def _read(file: Path, kind: str) -> Any:
    if kind in ("structure", "labelled"):
        return read_structure(file)
    if kind == "trajectory":
        return StoredFrames(file)
    return _read_table(file) if kind == "table" else file.read_text(encoding="utf-8")


def _read_table(file: Path) -> Table:
    with open(file, encoding="utf-8", newline="") as lines:
        header, *rows = csv.reader(lines)
    numbers = np.array([[float(cell or "nan") for cell in row] for row in rows]).reshape(-1, len(header))
    return Table(dict(zip(header, numbers.T, strict=True)))


def read_fields(path: str | Path, workflow: Workflow, *, partial: bool = False) -> tuple[Result, dict]:
    """A result that the command line wrote, every field of its type, and the whole record.

    The attributes whose values are files of their own, such as structures, are missing; the record names the
    files. A ``partial`` record of some fields may be written by hand: ``model_fields_set`` says which.

    Raises:
        ConfigError: the file is missing, is not JSON, or is not a result of this workflow.
    """
    path = Path(path)
    record = ResultRecord.read(path)
    if record.workflow != workflow.name:
        raise ConfigError(f"{path}: holds {record.workflow} result; expected one of nff {workflow.name}")
    return _result(path, record, workflow, partial), record.model_dump(exclude_unset=True)


def _result(path: Path, record: ResultRecord, workflow: Workflow, partial: bool) -> Result:
    fields = workflow.result.model_fields
    in_json = {name: fields[name] for name in fields if name not in file_fields(workflow.result)}
    if partial:
        _check_names(path, record, workflow, in_json)
        in_json = {name: in_json[name] for name in record.result}
    values: dict[str, Any] = {}
    for name, field in in_json.items():
        if name not in record.result and not field.is_required():  # younger than the file
            values[name] = field.default
            continue
        try:
            adapter = TypeAdapter(field.rebuild_annotation(), config={"arbitrary_types_allowed": True})
            values[name] = adapter.validate_python(record.result[name])
        except (KeyError, ValidationError) as error:
            raise ConfigError(f"{path}: {name} is missing or of the wrong type; compute it anew") from error
    return workflow.result.model_construct(**values)


def _check_names(path: Path, record: ResultRecord, workflow: Workflow, fields: Collection[str]) -> None:
    """Refuse fields that the result does not have, and units that are not its own."""
    for name in record.result:
        if name not in fields:
            raise ConfigError(
                f"{path}: {name!r} is no field of a {workflow.name} result{did_you_mean(name, fields)}"
            )
    for name, unit in record.units.items():
        field = workflow.result.model_fields.get(name)
        expected = None if field is None else unit_of(field)
        if unit != expected:
            raise ConfigError(
                f"{path}: {name} is in {unit}; expected {expected or 'no unit'}: convert the numbers"
            )
