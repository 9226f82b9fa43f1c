"""Measure the physics of a checkpoint by a suite of tasks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import ConfigError
from ..jobs.opening import Models, source_name
from .console import PIPE_WIDTH, Console, Table, styled
from .options import FOLDER, shared
from .output import Judgement

if TYPE_CHECKING:
    from rich.text import Text

    from ..validation.suite import Outcome, Report

TOPIC = "Judge a potential"
PLACE = 4
EXAMPLES = ("nff validate calculators/mlearn-si/suite --model runs/1",)


@click.command("validate")
@click.argument("suite", required=False, type=FOLDER)
@shared("model")
@click.option("--task", "tasks", multiple=True, metavar="NAME", help="Run this task only; may be repeated.")
@shared("device", "dtype", "trust", "out", "overwrite", "threads")
def command(suite, model, tasks, device, dtype, trust, out, overwrite, threads) -> int:
    """Measure the physics of a checkpoint by a suite of tasks: table, limits, figure.

    A suite is a folder with suite.yaml, structures, and references; without one, that of the bundled
    calculator is taken. Prints a table and writes <name>-validate.json and <name>-validate.png.
    Exits with 5 if a task failed or a limit is exceeded; the files are written all the same.
    """
    from ..reports.run_record import ValidationRecord
    from ..validation.reading import read_suite
    from ..validation.suite import draw
    from ..workflows.framework.progress_bar import step_bar

    folder = _own_suite(model) if suite is None else suite
    selected = read_suite(folder).only(tasks)
    stem = source_name(model)
    files = Judgement(out, f"{stem}-validate", overwrite)
    models = Models((model,), device, dtype, False, trust, threads, click.echo)
    calculator = models.calculator(model)
    files.begin()
    with step_bar(f"validate {stem}") as progress:
        report = selected.run(calculator, progress)
    title, description = f"{model} on {folder}", calculator.todict()
    _print_report(report, title)
    record = {
        "version": ValidationRecord.model_fields["version"].default,
        "checkpoint": {"source": model, "digest": description["digest"]},
        "calculator": description,
        "suite": str(folder),
        **report.record(),
    }
    files.write(record, draw(report, title))
    return 0 if report.passed else 5


def _own_suite(checkpoint: str) -> Path:
    """The suite of a bundled calculator."""
    from ..cards import bundled_calculators
    from ..validation.reading import FILE

    suites = {n: f / "suite" for n, f in bundled_calculators().items() if (f / "suite" / FILE).is_file()}
    if checkpoint not in suites:
        bundled = ", ".join(sorted(suites)) or "none"
        raise ConfigError(f"{checkpoint}: brings no suite; give the folder of one (bundled: {bundled})")
    return suites[checkpoint]


HEADERS = ("task", "", "score", "value", "limit", "unit", "time (s)")


def _print_report(report: Report, title: str) -> None:
    """One row for each score, failures with their message, and the coverage."""
    view = Table(title=title, title_justify="left")
    longest = max(len(name) for outcome in report.outcomes for name in outcome.scores)
    for header in HEADERS:
        is_number = header in ("value", "limit", "time (s)")
        width = longest if header == "score" else None  # frequency_mae and frequency_max stay apart
        view.add_column(header, justify="right" if is_number else "left", min_width=width, overflow="fold")
    for outcome in report.outcomes:
        for row in _rows(outcome):
            view.add_row(*row)
    console = Console(PIPE_WIDTH)
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
    if outcome.status != "scored":
        verdict: str | Text = styled(outcome.status, "red")
    else:
        verdict = styled("over", "red") if outcome.exceeded else "ok"
    first: list[str | Text] = [outcome.task.name, verdict]
    for name, value in outcome.scores.items():
        limit = outcome.task.limits.get(name)
        number = f"{value:.4g}" if math.isfinite(value) else "–"
        yield [
            *first,
            name,
            styled(number, "red") if name in outcome.exceeded else number,
            "" if limit is None else f"{limit:g}",
            outcome.units[name],
            f"{outcome.seconds:.1f}" if first[0] else "",
        ]
        first = ["", ""]
