"""The table of a validation."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.console import JustifyMethod
from rich.text import Text

from ..validation.suite import Outcome, Report
from .console import Console, Table, styled

HEADERS = ("task", "", "score", "value", "limit", "unit", "time (s)")


def print_report(report: Report, title: str) -> None:
    """One row for each score, failures with their message, and the coverage."""
    view = Table(title=title, title_justify="left")
    longest = max(len(name) for outcome in report.outcomes for name in outcome.scores)
    for header in HEADERS:
        justify: JustifyMethod = "right" if header in ("value", "limit", "time (s)") else "left"
        width = longest if header == "score" else None  # frequency_mae and frequency_max stay apart
        view.add_column(header, justify=justify, min_width=width, overflow="fold")
    for outcome in report.outcomes:
        for row in _rows(outcome):
            view.add_row(*row)
    console = Console(width=None if Console().is_terminal else 120)
    console.print(view)
    for outcome in report.outcomes:
        if outcome.status != "scored":
            console.print(f"{outcome.task.name} {outcome.status}: {outcome.message}")
    scored = sum(outcome.status == "scored" for outcome in report.outcomes)
    beyond = sum(len(outcome.exceeded) for outcome in report.outcomes)
    limits = sum(len(outcome.task.limits) for outcome in report.outcomes)
    console.print(
        f"coverage {scored}/{len(report.outcomes)} tasks; {beyond} of {limits} limits exceeded; "
        f"{report.seconds:.1f} s",
        highlight=False,
    )


def _rows(outcome: Outcome) -> Iterator[list[str | Text]]:
    first: list[str | Text] = [outcome.task.name, _verdict(outcome)]
    for name, value in outcome.scores.items():
        limit = outcome.task.limits.get(name)
        shown = f"{value:.4g}" if math.isfinite(value) else "–"
        yield [
            *first,
            name,
            styled(shown, "red") if name in outcome.exceeded else shown,
            "" if limit is None else f"{limit:g}",
            outcome.units[name],
            f"{outcome.seconds:.1f}" if first[0] else "",
        ]
        first = ["", ""]


def _verdict(outcome: Outcome) -> str | Text:
    if outcome.status != "scored":
        return styled(outcome.status, "red")
    return styled("over", "red") if outcome.exceeded else "ok"
