"""What a workflow's file says about it, read off its function: the command line and validation start here."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
from pydantic import BaseModel, TypeAdapter, ValidationError

from ...errors import ConfigError, did_you_mean
from ...units import unit_of
from .. import load_workflow
from .attributes import prepared
from .calling import workflow
from .interface import Settings
from .results import Result, file_fields, result_record
from .scores import Score, default_scores

__all__ = ["Workflow", "file_fields", "find_workflow", "read_result", "result_record"]


@dataclass(frozen=True)
class Workflow:
    """A workflow: its function and what its signature says.

    Attributes:
        structures: names of its leading arguments of type ``ase.Atoms``: ``("atoms",)``, or two for a path.
        plot: the file's ``plot(result)``, or None.
        overlays: whether it can be called ``plot(result, others, label)`` too.
        archives: whether the function keeps what is finished in an ``archive``, and can be resumed.
        scores: by which its results are judged: the file's ``SCORES``, or ``default_scores``.
        extends: settings of a finished run that may be raised to continue it.
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
    scores: dict[str, Score]
    extends: tuple[str, ...] = ()

    def prepare(
        self, structures: Sequence[ase.Atoms], settings: BaseModel, names: Sequence[str]
    ) -> list[ase.Atoms]:
        """Structures with the workflow's rule for what they carry applied (see ``attributes``).

        Args:
            names: by which notes and errors call them, such as their files.

        Raises:
            StructureError: one carries what the workflow refuses.
        """
        return prepared(self.function, structures, settings, names)


def find_workflow(name: str) -> Workflow:
    """The workflow of a name, of this package or another's.

    Raises:
        ConfigError: it is another package's, and cannot be loaded or is none.
    """
    module, plain = load_workflow(name)
    function = workflow(plain)
    signature = inspect.signature(inspect.unwrap(function), eval_str=True)
    settings = getattr(signature.parameters.get("settings"), "annotation", None)
    result = signature.return_annotation
    if not (isinstance(settings, type) and isinstance(result, type) and issubclass(result, Result)):
        raise ConfigError(
            f"{name}: {plain.__module__}.{plain.__qualname__} is no workflow; expected a function "
            "(atoms: ase.Atoms, calculator, settings: XSettings, progress) -> XResult"
        )
    plot = getattr(module, "plot", None)
    return Workflow(
        name=name,
        summary=(inspect.getdoc(module) or name).splitlines()[0],
        function=function,
        settings=settings,
        result=result,
        structures=tuple(n for n, p in signature.parameters.items() if p.annotation is ase.Atoms),
        plot=plot,
        overlays=plot is not None and "others" in inspect.signature(plot).parameters,
        archives="archive" in signature.parameters,
        extends=getattr(module, "EXTENDS", ()),
        scores=getattr(module, "SCORES", None) or default_scores(result),
    )


def read_result(path: str | Path, workflow: Workflow, *, partial: bool = False) -> tuple[Result, dict]:
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
