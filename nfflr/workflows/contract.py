"""What a workflow's file says about it, read off its function: the command line and validation start here."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
from pydantic import TypeAdapter, ValidationError

from ..errors import ConfigError
from ..units import unit_of
from .base import Result, Settings, Table, Text


@dataclass(frozen=True)
class Workflow:
    """A workflow ``x``: the function ``x`` of ``workflows/x.py`` and what its signature says.

    Attributes:
        structures: names of its leading arguments of type ``ase.Atoms``: ``("atoms",)``, or two for a path.
        plot: the file's ``plot(result)``, or None.
        overlays: whether it can be called ``plot(result, others, label)`` too.
        archives: whether the function keeps what is finished in an ``archive``, and can be resumed.
    """

    name: str
    summary: str
    function: Callable
    settings: type[Settings]
    result: type[Result]
    structures: tuple[str, ...]
    plot: Callable | None
    overlays: bool
    archives: bool


def find_workflow(name: str) -> Workflow:
    """The workflow of ``nfflr/workflows/<name>.py``."""
    module = importlib.import_module(f"..{name}", __name__)
    function = getattr(module, name)
    signature = inspect.signature(function, eval_str=True)
    plot = getattr(module, "plot", None)
    return Workflow(
        name=name,
        summary=inspect.getdoc(module).splitlines()[0],
        function=function,
        settings=signature.parameters["settings"].annotation,
        result=signature.return_annotation,
        structures=tuple(n for n, p in signature.parameters.items() if p.annotation is ase.Atoms),
        plot=plot,
        overlays=plot is not None and "others" in inspect.signature(plot).parameters,
        archives="archive" in signature.parameters,
    )


def file_fields(result: type[Result]) -> dict[str, str]:
    """Fields that are files of their own and not part of the JSON, with what they are.

    ``"structure"``, ``"trajectory"``, ``"table"``, or the suffix of a text, such as ``".yaml"``.
    """
    kinds = {}
    for name, field in result.model_fields.items():
        if field.annotation in (ase.Atoms, ase.Atoms | None):
            kinds[name] = "structure"
        elif field.annotation in (list[ase.Atoms], Sequence[ase.Atoms]):
            kinds[name] = "trajectory"
        elif field.annotation is Table:
            kinds[name] = "table"
        elif suffixes := [mark.suffix for mark in field.metadata if isinstance(mark, Text)]:
            kinds[name] = suffixes[0]
    return kinds


def result_record(result: Result) -> dict:
    """What the JSON holds of a result: the values of all fields that are not files, and units by field."""
    values = json.loads(result.model_dump_json(exclude=set(file_fields(type(result)))))
    units = {n: unit_of(f) for n, f in type(result).model_fields.items() if unit_of(f)}
    return {"result": values, "units": units}


def read_result(path: str | Path, workflow: Workflow) -> tuple[Result, dict]:
    """A result that the command line wrote, every field of its type, and the whole record.

    What is a file of its own, its structures for one, stays there; the record names the files, and those
    attributes are missing.

    Raises:
        ConfigError: the file is missing, is not JSON, or is not a result of this workflow.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; give the JSON of a {workflow.name} result") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error}); give a {workflow.name} result") from error
    kind = record.get("workflow") if isinstance(record, dict) else None
    if kind != workflow.name or not isinstance(record.get("result"), dict):
        raise ConfigError(f"{path}: holds {kind or 'no'} result; expected one of nff {workflow.name}")
    if not isinstance(record.get("calculator") or {}, dict):
        raise ConfigError(f"{path}: calculator is of the wrong type; compute it anew")
    values: dict[str, Any] = {}
    elsewhere = file_fields(workflow.result)
    for name, field in workflow.result.model_fields.items():
        if name in elsewhere:
            continue
        try:
            kept = TypeAdapter(field.rebuild_annotation(), config={"arbitrary_types_allowed": True})
            values[name] = kept.validate_python(record["result"][name])
        except (KeyError, ValidationError) as error:
            raise ConfigError(f"{path}: {name} is missing or of the wrong type; compute it anew") from error
    return workflow.result.model_construct(**values), record
