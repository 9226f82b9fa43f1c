"""Measure the physics of a checkpoint by a suite of tasks."""

from __future__ import annotations

import time
from pathlib import Path

import click

from ..errors import ConfigError
from ..storage.files import claim_folder, write_figure, write_json
from .options import DEVICE, OUT, THREADS, TRUST
from .output import provenance, refuse_existing
from .sources import source_name

TOPIC = "Judge a potential"
PLACE = 4
EXAMPLES = ("nff validate runs/1 calculators/mlearn-si/suite",)


@click.command("validate")
@click.argument("checkpoint")
@click.argument("suite", required=False, type=click.Path(path_type=Path))
@click.option("--task", "tasks", multiple=True, metavar="NAME", help="Run this task only; may be repeated.")
@click.option("--device", **DEVICE)
@click.option(
    "--dtype", type=click.Choice(["float32", "float64"]), help="Precision; default: the checkpoint's."
)
@click.option("--trust", **TRUST)
@click.option("--out", "-o", **OUT)
@click.option("--overwrite", is_flag=True, help="Replace results that exist.")
@click.option("--threads", **THREADS)
def command(checkpoint, suite, tasks, device, dtype, trust, out, overwrite) -> int:
    """Measure the physics of a checkpoint by a suite of tasks: table, limits, figure.

    Takes another package's potential too, as --model does: chgnet, mace:FILE, ase:MODULE:CLASS, …
    A suite is a folder with suite.yaml, structures, and references; without one, that of the bundled
    calculator is taken. Prints a table and writes <checkpoint>-validate.json and <checkpoint>-validate.png.
    Exits with 5 if a task failed or a limit is exceeded; the files are written all the same.
    """
    from ..reports.verdicts import ValidationRecord
    from ..validation.reading import read_suite
    from ..validation.score_figure import draw
    from .opening import Models
    from .progress import step_bar
    from .scoretable import print_report

    folder = _own_suite(checkpoint) if suite is None else suite
    chosen = read_suite(folder).only(tasks)
    stem = source_name(checkpoint)
    paths = {kind: out / f"{stem}-validate.{kind}" for kind in ("json", "png")}
    refuse_existing(paths.values(), overwrite)
    calculator = Models((checkpoint,), device, dtype, compile=False, trust=trust).calculator(checkpoint)
    claim_folder(out)
    started = time.perf_counter()
    with step_bar(f"validate {stem}") as progress:
        report = chosen.run(calculator, progress)
    title = f"{checkpoint} on {folder}"
    print_report(report, title)
    record = {
        "version": ValidationRecord.model_fields["version"].default,
        "checkpoint": {"source": str(checkpoint), "digest": calculator.todict()["digest"]},
        "calculator": calculator.todict(),
        "suite": str(folder),
        **report.record(),
        "wall_time_s": time.perf_counter() - started,
        **provenance(),
    }
    write_figure(paths["png"], draw(report, title))
    write_json(paths["json"], record)
    for path in paths.values():
        click.echo(f"  wrote {path}")
    return 0 if report.passed else 5


def _own_suite(checkpoint: str) -> Path:
    """The suite that a bundled calculator brings.

    Raises:
        ConfigError: there is no such calculator, or it has none.
    """
    from ..cards import bundled_calculators
    from ..validation.reading import FILE

    having = {n: f / "suite" for n, f in bundled_calculators().items() if (f / "suite" / FILE).is_file()}
    if checkpoint not in having:
        bundled = ", ".join(sorted(having)) or "none"
        raise ConfigError(f"{checkpoint}: brings no suite; give the folder of one (bundled: {bundled})")
    return having[checkpoint]
