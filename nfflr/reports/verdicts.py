"""What ``nff check`` and ``nff validate`` wrote about a potential, as rows of a table."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field

from ..storage.versioned import Record

Table = tuple[list[str], list[list[object]]]


class Origin(BaseModel):
    """The checkpoint that a result is about."""

    digest: str | None = None


class Check(BaseModel):
    """One line of ``nff check``."""

    name: str
    status: str
    value: float | None = None
    unit: str = ""
    limit: float | None = None
    at_least: bool = False
    message: str = ""


class CheckRecord(Record):
    """The JSON of ``nff check``."""

    kind: ClassVar[str] = "a result of nff check"

    version: int = 2
    calculator: Origin = Origin()
    checks: list[Check] = Field(min_length=1)

    @property
    def digest(self) -> str | None:
        """Of the checkpoint; None where it is not known."""
        return self.calculator.digest

    @property
    def table(self) -> Table:
        """Headers, and a row for each check: its verdict, and its limit with the side it is on."""
        rows: list[list[object]] = []
        for check in self.checks:
            bound = None if check.limit is None else f"{'≥' if check.at_least else '≤'} {check.limit:g}"
            rows.append([check.name, check.status, check.value, bound, check.unit, check.message])
        return ["name", "status", "value", "limit", "unit", "message"], rows


class TaskScores(BaseModel):
    """One task of ``nff validate``; a score that could not be computed is None."""

    status: str = "scored"
    scores: dict[str, float | None] = Field(default_factory=dict)
    limits: dict[str, float] = Field(default_factory=dict)
    units: dict[str, str] = Field(default_factory=dict)
    message: str = ""


class ValidationRecord(Record):
    """The JSON of ``nff validate``."""

    kind: ClassVar[str] = "a result of nff validate"

    checkpoint: Origin = Origin()
    tasks: dict[str, TaskScores] = Field(min_length=1)

    @property
    def digest(self) -> str | None:
        """Of the checkpoint; None where it is not known."""
        return self.checkpoint.digest

    @property
    def table(self) -> Table:
        """Headers, and a row for each score; a task without scores has one row."""
        rows: list[list[object]] = []
        for name, task in self.tasks.items():
            for score, value in task.scores.items() or [(None, None)]:
                limit, unit = task.limits.get(str(score)), task.units.get(str(score))
                rows.append([name, task.status, score, value, limit, unit, task.message])
        return ["task", "status", "score", "value", "limit", "unit", "message"], rows
