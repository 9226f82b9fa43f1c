"""The decorator of workflows, and the description of a workflow that its file gives."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Concatenate, TypeVar

import ase
from ase.calculators.calculator import Calculator
from ase.calculators.singlepoint import SinglePointCalculator
from pydantic import BaseModel, ValidationError

from ...errors import ConfigError, did_you_mean, plain_reason
from ...storage.archives import description_of
from .. import load_workflow
from .attributes import prepared
from .interface import Progress, Settings, silent
from .result_files import Made, versions
from .results import Result
from .scores import Score, default_scores

R = TypeVar("R")
ROOM = "nfflr.workflows"


def workflow(function: Callable[..., R]) -> Callable[Concatenate[ase.Atoms, ...], R]:
    """Decorate a workflow's function, so that it is called as all of them are.

    The function takes one or more structures, then ``calculator``, ``settings``, ``progress`` and, if it can
    be resumed, ``archive``. Its caller may leave all but the structures out:

    - ``calculator=None`` takes that of the first structure which has one;
    - settings are given as an object, by name (``relax(atoms, fmax=0.01)``), or both, where names win;
    - ``progress`` is a ``Progress``, or True for a bar.

    The workflow's rule for what structures carry is applied to them first (see ``attributes``). The result
    knows how it was made, and so can be saved and drawn. The command line and validation decorate functions
    that are not.

    Raises:
        ConfigError: there is no calculator, no such setting, or a value is wrong.
    """
    if hasattr(function, "is_workflow"):
        return function
    signature = inspect.signature(function, eval_str=True)
    structures = list(takewhile(lambda name: name != "calculator", signature.parameters))
    kind = getattr(signature.parameters.get("settings"), "annotation", None)
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        kind = None
    public = _public_signature(signature, kind)
    own = signature.parameters.keys()

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> R:
        fields = {name: kwargs.pop(name) for name in list(kwargs) if name not in own}
        names = public.parameters.keys()
        for field in fields:
            if field not in names:
                hint = did_you_mean(field, names) or f"; expected one of {', '.join(names)}"
                raise ConfigError(f"{field}: there is no such setting{hint}")
        values = public.bind(*args, **kwargs).arguments
        values["calculator"] = _calculator(values.get("calculator"), [values[name] for name in structures])
        if kind is not None:
            values["settings"] = settings_with(kind, values.get("settings"), fields)
        settings = values.get("settings")
        titles = ["structure"] if len(structures) == 1 else [f"structure {name}" for name in structures]
        atoms = prepared(function, [values[name] for name in structures], settings, titles)
        values |= zip(structures, atoms, strict=True)
        started = time.perf_counter()
        with _reporting(values.get("progress"), function.__name__) as values["progress"]:
            result = function(**{name: value for name, value in values.items() if name in own})
        if isinstance(result, Result) and settings is not None:
            seconds = time.perf_counter() - started
            result.made_by(_made(function, type(result), values, structures[0], seconds))
        return result

    called.is_workflow = True  # type: ignore[attr-defined]
    called.__signature__ = public  # type: ignore[attr-defined]
    called.__annotations__ = {n: p.annotation for n, p in public.parameters.items()}
    called.__annotations__["return"] = signature.return_annotation
    return called


def _public_signature(signature: inspect.Signature, kind: type[BaseModel] | None) -> inspect.Signature:
    """The signature for callers: all but structures is optional, and every setting is a keyword."""
    changes: dict[str, dict[str, Any]] = {
        "calculator": {"annotation": Calculator | None, "default": None},
        "progress": {"annotation": Progress | bool, "default": False},
    }
    if kind is not None:
        changes["settings"] = {"annotation": kind | None, "default": None}
    parameters = [p.replace(**changes.get(n, {})) for n, p in signature.parameters.items()]
    for name, field in kind.model_fields.items() if kind else ():
        keyword = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=field.annotation)
        parameters.append(keyword if field.is_required() else keyword.replace(default=field.default))
    return signature.replace(parameters=parameters)


def _calculator(calculator: Any, structures: list[ase.Atoms]) -> Any:
    attached = next((c for c in (calculator, *(a.calc for a in structures)) if c is not None), None)
    if attached is None:
        raise ConfigError("calculator: there is none; set atoms.calc, or give calculator=")
    if not hasattr(attached, "get_property"):
        raise ConfigError(
            f"calculator: got {type(attached).__name__}; expected a calculator of ASE, such as "
            "NFFLrCalculator.load('mlearn-si'); settings are given as settings= or by name"
        )
    if calculator is None and isinstance(attached, SinglePointCalculator):
        raise ConfigError(
            "calculator: that of the structure only holds the results which were read with it; "
            "set atoms.calc, or give calculator="
        )
    return attached


def settings_with(kind: type[BaseModel], settings: Any, fields: Mapping[str, Any]) -> BaseModel:
    """Those settings of a workflow, or its defaults, with ``fields`` in place of what has the same names.

    Raises:
        ConfigError: the settings are another workflow's, or a value is wrong; names it.
    """
    if settings is not None and not isinstance(settings, kind):
        raise ConfigError(f"settings: got {type(settings).__name__}; expected {kind.__name__}")
    if settings is not None and not fields:
        return settings
    values = {name: getattr(settings, name) for name in getattr(settings, "model_fields_set", ())}
    try:
        return kind(**values | dict(fields))
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # settings that do not go together, which say it themselves
            raise ConfigError(f"settings: {first['msg'].removeprefix('Value error, ')}") from error
        raise ConfigError(f"{first['loc'][0]}: {plain_reason(first)}") from error


def _reporting(progress: Any, name: str) -> AbstractContextManager[Progress]:
    """The ``Progress`` from the first step to the end of the workflow."""
    if progress is True:
        from .progress_bar import ProgressBar  # rich takes long to import

        progress = ProgressBar(name)
    if isinstance(progress, AbstractContextManager):
        return progress
    return nullcontext(progress or silent)


def _made(
    function: Callable, result: type[Result], values: Mapping[str, Any], first: str, seconds: float
) -> Made:
    calculator, structure, settings = values["calculator"], values[first].copy(), values["settings"]
    name, module = function.__name__, function.__module__
    kind = f"{type(calculator).__module__}:{type(calculator).__qualname__}"
    arguments = "".join(f", {n}={getattr(settings, n)!r}" for n in sorted(settings.model_fields_set))
    facts = {
        "workflow": name,
        "structure": structure.get_chemical_formula(),
        "settings": settings.model_dump(mode="json"),
        "calculator": {"source": kind, **description_of(calculator)},
        "wall_time_s": seconds,
        "versions": versions(),
        "command": f"{ROOM if module.startswith(ROOM) else module}.{name}({first}{arguments})",
    }
    return Made(name, module, result, structure, facts["structure"], facts)


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
        """The structures with the workflow's rule applied; notes and errors call them by ``names``."""
        return prepared(self.function, structures, settings, names)


def find_workflow(name: str) -> Workflow:
    """The workflow of a name; ``ConfigError`` if another package's cannot be loaded or is none."""
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
