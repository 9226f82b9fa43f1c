"""In which numbers errors are shown; without torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..quantities import LABELLED, Quantity


@dataclass(frozen=True)
class Column:
    """A metric as people read it: ``value · factor`` in ``unit``."""

    key: str
    title: str
    unit: str = ""
    factor: float = 1.0
    panel: bool = True  # whether it has a place in the learning curve

    @property
    def label(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title


def columns_of(quantities: Iterable[Quantity]) -> tuple[Column, ...]:
    """Accuracy of a class; MAE and RMSE of anything else."""
    columns = []
    for q in quantities:
        if q.classes is not None:
            columns.append(Column(f"{q.key}_accuracy", f"{q.title} accuracy", "%", 100.0))
            continue
        unit, factor = q.error_display
        columns.append(Column(f"{q.key}_mae", f"{q.title} MAE", unit, factor))
        columns.append(Column(f"{q.key}_rmse", f"{q.title} RMSE", unit, factor, panel=False))
    return tuple(columns)


COLUMNS = columns_of(LABELLED)  # of a force field
