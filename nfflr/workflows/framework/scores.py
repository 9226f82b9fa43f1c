"""How far a result is from a reference: numbers by which a validation task judges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import NumericsError
from ...units import unit_of
from .interface import Settings
from .results import Result


@dataclass(frozen=True)
class Score:
    """One number by which a result is judged; zero is perfect, and it is never negative.

    A workflow's file may define ``SCORES: dict[str, Score]``; one without has ``default_scores``.

    Attributes:
        unit: of the number; an empty string if it has none.
        of: ``of(result, reference, settings)``, which raises ``NumericsError`` where there is no such number.
        needs: fields of the reference that it looks at; without any, the reference may be None.
        of_failure: whether it means something for a result that is not converged.
        applies: whether a reference has such a number, as a cubic crystal has no C33 of its own.
    """

    unit: str
    of: Callable[[Any, Any, Any], float]  # of its own workflow's types
    needs: tuple[str, ...] = ()
    of_failure: bool = False
    applies: Callable[[Any], bool] = lambda reference: True


def default_scores(result: type[Result]) -> dict[str, Score]:
    """Errors of every field that declares a unit.

    ``<field>_error`` is the absolute error of a number, ``<field>_mae`` the mean absolute error of arrays.
    """
    scores = {}
    for name, field in result.model_fields.items():
        if (unit := unit_of(field)) is not None:
            number = field.annotation in (float, int, float | None, int | None)
            scores[f"{name}_{'error' if number else 'mae'}"] = field_score(name, unit)
    return scores


def field_score(field: str, unit: str) -> Score:
    """The mean absolute error of a field."""
    return Score(unit, lambda result, reference, _: field_error(field, result, reference), (field,))


def relative_score(field: str) -> Score:
    """The absolute error of a number in per cent of the reference."""

    def of(result: Result, reference: Result, settings: Settings) -> float:
        return 100 * field_error(field, result, reference) / abs(float(getattr(reference, field)))

    return Score("%", of, (field,))


def has_fields(reference: Result | None, fields: tuple[str, ...]) -> bool:
    """Whether a reference, which may be partial or missing, holds all of these fields."""
    if reference is None:
        return not fields
    return all(f in reference.model_fields_set and getattr(reference, f) is not None for f in fields)


def field_error(field: str, result: Result, reference: Result) -> float:
    """Mean absolute difference of a field: a number, an array, or a dict of them."""
    if getattr(result, field) is None:
        raise NumericsError(f"{field}: the result has none, but the reference has; compare like with like")
    ours, theirs = _flat(getattr(result, field)), _flat(getattr(reference, field))
    if ours.keys() != theirs.keys():
        raise NumericsError(f"{field}: of {', '.join(ours)}; the reference has {', '.join(theirs)}")
    differences = [_difference(field, ours[key], theirs[key]) for key in theirs]
    return float(np.mean(np.concatenate(differences)))


def _flat(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {"": value}


def _difference(field: str, our: object, their: object) -> np.ndarray:
    ours, theirs = np.asarray(our, dtype=float), np.asarray(their, dtype=float)
    if ours.shape != theirs.shape:
        raise NumericsError(
            f"{field}: shape {ours.shape}, the reference has {theirs.shape}; use its structure and settings"
        )
    difference: np.ndarray = np.abs(ours - theirs).ravel()
    if not np.isfinite(difference).all():
        raise NumericsError(f"{field}: is not finite")
    return difference
