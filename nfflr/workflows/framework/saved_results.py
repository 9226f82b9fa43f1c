"""Results read back from their files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import ase
import numpy as np

from ...errors import ConfigError, did_you_mean
from ...storage.archives import StoredFrames
from ...structures.readers import read_structure
from .. import workflow_names
from . import contract
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
    workflow = contract.find_workflow(_workflow_of(path))
    result, record = contract.read_result(path, workflow)
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
