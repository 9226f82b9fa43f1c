"""Results of workflows: typed values with units, and how they are shown."""

from __future__ import annotations

import base64
import html
import json
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeVar

import ase
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from ...errors import ConfigError
from ...storage.files import figure_bytes
from ...storage.sealed import Record
from ...units import plain_type, unit_of
from .interface import Labelled, Table, Text

if TYPE_CHECKING:  # the numbers need no figure
    from matplotlib.figure import Figure

WIDTH, LINES = 100, 25  # of a result's repr
PRECISION = 5e-7  # of a value: half of the last of six digits


class Origin(Protocol):
    """How a result was made, from which its files and its figure follow; see ``result_files.Made``."""

    @property
    def facts(self) -> dict[str, Any]:
        """What the JSON says besides the result."""

    @property
    def plot(self) -> Callable | None:
        """The workflow's figure, if it has one."""

    def draw(self, result: Any, others: Mapping[str, Any], label: str) -> Figure:
        """Draw the figure."""

    def save(self, result: Any, where: Path, form: str | None, overwrite: bool) -> dict[str, Path]:
        """Write the files."""


class Result(BaseModel):
    """The result of a workflow.

    Fields of type ``ase.Atoms`` are written as structure files (unless the value is None), lists of them (or
    sequences, read frame by frame) as trajectories, a ``Table`` as CSV, a ``Text`` as it is, everything else
    goes to JSON; ``Unit`` annotations give the units.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    converged: bool
    message: str = ""
    _origin: Origin | None = PrivateAttr(None)

    def made_by(self, origin: Origin) -> Self:
        """The result itself, which now knows how it was made."""
        self._origin = origin
        return self

    def plot(self, others: Mapping[str, Result] | None = None, label: str = "") -> Figure:
        """The workflow's figure, with further results by name in the same axes, and ``label`` for this one.

        Raises:
            ConfigError: the workflow has no figure, or one of a single result.
        """
        return self._known_origin().draw(self, others or {}, label)

    def save(
        self, where: str | Path = ".", *, format: str | None = None, overwrite: bool = False
    ) -> dict[str, Path]:
        """Write the files that the command line writes, all or none.

        Args:
            where: a folder, where names begin with the chemical formula; or the name of the JSON, as
                ``"runs/si-relax.json"``, beside which the others are ``si-relaxed.xyz`` and so on.
            format: of structures: ``"xyz"`` (the default), ``"cif"``, ``"vasp"``, …
            overwrite: replace files that exist.

        Returns:
            the files by field, with ``"json"`` and ``"plot"``.

        Raises:
            ConfigError: a file exists, or there is no such format.
            ResourceError: a file cannot be written.
        """
        return self._known_origin().save(self, Path(where), format, overwrite)

    def to_json(self) -> str:
        """The JSON that ``save`` writes: settings, versions, and all fields but files, with units."""
        facts = {} if self._origin is None else self._origin.facts
        content = {"version": VERSION, **facts, **result_record(self)}
        return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)

    def _known_origin(self) -> Origin:
        if self._origin is None:
            raise ConfigError(
                f"{type(self).__name__}: was not made by a workflow; call one, or read its JSON"
            )
        return self._origin

    def __repr__(self) -> str:
        lines = [self._title() + ":", *describe(self, WIDTH).splitlines()][: LINES - 1]
        printed = {"converged", "message", *_numbers(self)}
        others = [name for name, value in self if name not in printed and value is not None]
        if others:
            lines.append("  " + textwrap.shorten(f"also: {', '.join(others)}", WIDTH - 2, placeholder=" …"))
        return "\n".join(lines)

    def _title(self) -> str:
        return type(self).__name__ + ("" if getattr(self, "converged", True) else ", not converged")

    def __str__(self) -> str:
        return describe(self)

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:  # what rich and other printers ask for
        for name in ("converged", "message", *_numbers(self)):
            yield name, getattr(self, name, None)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{html.escape(text)}</td></tr>"
            for name, text in _lines(self).items()
        )
        image = ""
        if png := self._repr_png_():
            image = f'<img width="500" src="data:image/png;base64,{base64.b64encode(png).decode()}"/>'
        return f"<p><b>{self._title()}</b> {html.escape(self.message)}</p><table>{rows}</table>{image}"

    def _repr_png_(self) -> bytes | None:
        """The figure for notebooks, where there is one."""
        complete = self.__dict__.keys() >= type(self).model_fields.keys()  # else its files were not there
        if self._origin is None or self._origin.plot is None or not complete:
            return None
        return figure_bytes(self._origin.draw(self, {}, ""), dpi=100)


def file_fields(result: type[Result]) -> dict[str, str]:
    """Fields that are files of their own and not part of the JSON, with what they are.

    ``"structure"``, ``"labelled"``, ``"trajectory"``, ``"table"``, or the suffix of a text, as ``".yaml"``.
    """
    kinds = {}
    for name, field in result.model_fields.items():
        if field.annotation in (ase.Atoms, ase.Atoms | None):
            marked = any(isinstance(mark, Labelled) for mark in field.metadata)
            kinds[name] = "labelled" if marked else "structure"
        elif field.annotation in (list[ase.Atoms], Sequence[ase.Atoms]):
            kinds[name] = "trajectory"
        elif field.annotation is Table:
            kinds[name] = "table"
        elif suffixes := [mark.suffix for mark in field.metadata if isinstance(mark, Text)]:
            kinds[name] = suffixes[0]
    return kinds


class ResultRecord(Record):
    """The JSON of a result; keys without a field here say how the result was made."""

    model_config = ConfigDict(extra="allow")
    kind: ClassVar[str] = "the JSON of a result"

    workflow: str
    result: dict[str, Any]
    units: dict[str, str | None] = Field(default_factory=dict)
    calculator: dict[str, Any] | None = None
    files: dict[str, str] | None = None


VERSION = ResultRecord.model_fields["version"].default


def result_record(result: Result) -> dict:
    """The JSON of a result: the values of all fields that are not files, and units by field."""
    values = json.loads(result.model_dump_json(exclude=set(file_fields(type(result)))))
    units = {n: unit_of(f) for n, f in type(result).model_fields.items() if unit_of(f)}
    return {"result": values, "units": units}


def scalar_fields(result: type[Result]) -> dict[str, str]:
    """Header with unit, ``energy (eV)``, of each field that is one number, truth value or word."""
    other = {"converged", "message", *file_fields(result)}
    return {
        name: f"{name} ({unit_of(field)})" if unit_of(field) else name
        for name, field in result.model_fields.items()
        if plain_type(field.annotation) in (float, int, bool, str) and name not in other
    }


def describe(result: Result, width: int | None = None) -> str:
    """The message, broken at ``width``, then each floating-point number with its error and unit."""
    lines = _lines(result)
    longest = max(map(len, lines), default=0)
    message = [result.message] if result.message else []
    if width is not None:
        message = textwrap.wrap(result.message, width, break_on_hyphens=False)
    return "\n".join([*message, *(f"  {name:{longest}s}  {text}" for name, text in lines.items())])


def _numbers(result: Result) -> dict[str, float]:
    """The floating-point numbers of a result by field, standard errors among them."""
    values = {name: getattr(result, name, None) for name in scalar_fields(type(result))}
    return {name: value for name, value in values.items() if isinstance(value, float)}


def _lines(result: Result) -> dict[str, str]:
    """Each number with its error and unit, by its name in words."""
    numbers, lines = _numbers(result), {}
    for name, value in numbers.items():
        if name.removesuffix("_error") == name or name.removesuffix("_error") not in numbers:
            unit = (unit_of(type(result).model_fields[name]) or "").replace("^3", "³")
            text = with_error(value, numbers.get(f"{name}_error"), unit)
            lines[name.replace("_", " ")] = f"{text} {unit}".rstrip()
    return lines


def with_error(value: float, error: float | None, unit: str = "") -> str:
    """A value as people write it: ``-43.165 ± 0.025``, with two digits of the error.

    An error that is zero, unknown, or below the digits in which the value alone is printed is left out: a fit
    through exact points has errors of rounding only. A value that is not a number is ``–``. Very small and
    very large values have a power of ten, which the error shares.
    """
    if math.isnan(value):
        return "–"
    error = abs(error or 0.0)
    if error == 0 or not math.isfinite(value + error) or error < PRECISION * abs(value):
        return plain(value, unit)
    largest = max(abs(value), error)
    if not 1e-4 <= largest < 1e7:
        power = math.floor(math.log10(largest))
        return f"({with_error(value / 10.0**power, error / 10.0**power)})e{power:+03d}"
    places = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:z.{places}f} ± {error:.{places}f}"


def plain(value: float, unit: str = "") -> str:
    """Six digits; of an energy in eV four decimals at least, so that 0.1 meV show."""
    return f"{value:z.4f}" if unit == "eV" and 100 <= abs(value) < 1e7 else f"{value:z.6g}"


R = TypeVar("R", bound=Result)


def overlay(
    result: R, others: Mapping[str, R], label: str, subject: str | None = None
) -> list[tuple[str, R, str]]:
    """Label, result and colour of each curve of a plot; ``subject`` is the colour of the first."""
    colours = [subject] if subject else []
    colours += [f"C{k}" for k in range(len(others) + 1)]
    return [(n, r, c) for (n, r), c in zip([(label, result), *others.items()], colours, strict=False)]
