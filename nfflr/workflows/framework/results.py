"""The numbers of a result as a person reads them: with units and errors."""

from __future__ import annotations

import math

from ...units import plain_type, unit_of
from .contract import file_fields
from .interface import Result

PRECISION = 5e-7  # of a value: half of the last of six digits


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
            text = with_error(value, numbers.get(f"{name}_error"), unit)
            told[name.replace("_", " ")] = f"{text} {unit}".rstrip()
    width = max(map(len, told), default=0)
    lines = [f"  {name:{width}s}  {text}" for name, text in told.items()]
    return "\n".join([result.message, *lines] if result.message else lines)


def with_error(value: float, error: float | None, unit: str = "") -> str:
    """A value as people write it: ``-43.165 ± 0.025``, with two digits of the error.

    An error that is zero, not known, or below the digits in which the value is printed without one, is left
    out: a least-squares fit through exact points has errors of rounding alone. A value that is not a number
    is ``–``. Very small and very large values have a power of ten, which the error shares.
    """
    if math.isnan(value):
        return "–"
    if not error or not math.isfinite(error) or not math.isfinite(value):
        return plain(value, unit)
    error = abs(error)
    if error < PRECISION * abs(value):
        return plain(value, unit)
    largest = max(abs(value), error)
    if not 1e-4 <= largest < 1e7:
        power = math.floor(math.log10(largest))
        return f"({with_error(value / 10.0**power, error / 10.0**power)})e{power:+03d}"
    places = max(0, 1 - math.floor(math.log10(error)))
    return f"{_rounded(value, places)} ± {error:.{places}f}"


def plain(value: float, unit: str = "") -> str:
    """Six digits; of an energy in eV four decimals at least, so that 0.1 meV show."""
    if unit == "eV" and 100 <= abs(value) < 1e7:
        return _rounded(value, 4)
    return f"{value + 0.0:.6g}"


def _rounded(value: float, places: int) -> str:
    """Without the sign of a zero."""
    return f"{round(value, places) + 0.0:.{places}f}"
