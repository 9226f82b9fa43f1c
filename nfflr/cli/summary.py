"""The numbers of results: on the terminal, and as one table for many structures."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

from ..files import write_atomically
from ..units import unit_of
from ..workflows.base import Result
from ..workflows.contract import file_fields
from .options import plain_type


def scalar_fields(result: type[Result]) -> dict[str, str]:
    """Header with unit, ``energy (eV)``, of each field that is one number, truth value or word."""
    other = {"converged", "message", *file_fields(result)}
    return {
        name: f"{name} ({unit_of(field)})" if unit_of(field) else name
        for name, field in result.model_fields.items()
        if plain_type(field.annotation) in (float, int, bool, str) and name not in other
    }


def describe(result: Result) -> str:
    """The message, then each floating-point number with its error and unit on a line of its own."""
    fields = scalar_fields(type(result))
    numbers = {name: value for name in fields if isinstance(value := getattr(result, name), float)}
    told = {}
    for name, value in numbers.items():
        if name.removesuffix("_error") == name or name.removesuffix("_error") not in numbers:
            unit = (unit_of(type(result).model_fields[name]) or "").replace("^3", "³")
            told[name.replace("_", " ")] = (
                f"{_with_error(value, numbers.get(f'{name}_error'))} {unit}".rstrip()
            )
    width = max(map(len, told), default=0)
    lines = [f"  {name:{width}s}  {text}" for name, text in told.items()]
    return "\n".join([result.message, *lines] if result.message else lines)


def _with_error(value: float, error: float | None) -> str:
    """``-43.165 ± 0.025``: two digits of the error, and of the value those that it leaves."""
    if not error or not math.isfinite(error):
        return f"{value:.6g}"
    places = max(0, 1 - math.floor(math.log10(abs(error))))
    return f"{value:.{places}f} ± {error:.{places}f}"


class SummaryTable:
    """One row per structure and model, in the order of the jobs whenever each was done."""

    def __init__(self, path: Path, result: type[Result]):
        self.path, self.fields = path, scalar_fields(result)
        self.rows: dict[int, list[list[str | int]]] = {}  # of each job, by its number

    def add(
        self, number: int, structure: str, model: str, exit_code: int, message: str, result: Result | None
    ) -> None:
        """A row of a job; without a result, all that is known is why."""
        values = ["" if result is None else _text(getattr(result, name)) for name in self.fields]
        converged = result is not None and result.converged
        row: list[str | int] = [structure, model, _text(converged), exit_code, message, *values]
        self.rows.setdefault(number, []).append(row)

    def write(self) -> None:
        content = io.StringIO()
        writer = csv.writer(content, lineterminator="\n")
        writer.writerow(["structure", "model", "converged", "exit code", "message", *self.fields.values()])
        writer.writerows(row for _, rows in sorted(self.rows.items()) for row in rows)
        write_atomically(self.path, content.getvalue().encode())


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
