"""The numbers of many results as one table."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from ..storage.files import write_atomically
from ..workflows.framework.results import Result, describe, scalar_fields

__all__ = ["SummaryTable", "describe"]


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
