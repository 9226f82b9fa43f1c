"""Write one self-contained page about a training run."""

from __future__ import annotations

import click

from ..storage.files import claim_folder, write_atomically
from ..workflows.framework.result_files import refuse_existing
from .options import FILE, FOLDER, shared

TOPIC = "Make a potential"
PLACE = 4
EXAMPLES = ("nff report runs/si",)

PAGE = "report.html"


@click.command("report")
@click.argument("run", type=FOLDER)
@click.option("--data", type=FILE, help="Labelled structures for the parity plots; default: the run's own.")
@click.option("--check", "checks", type=FILE, multiple=True, help="Result of nff check, besides RUN's own.")
@click.option("--validate", "validations", type=FILE, multiple=True, help="Result of nff validate, likewise.")
@click.option("--out", "-o", type=FOLDER, help="Folder for the page; default: the run's.")
@shared("overwrite")
def command(run, data, checks, validations, out, overwrite) -> int:
    """Write one self-contained page about a training run.

    Writes report.html: learning curves, parity plots on the validation and test split, task scores, results
    of nff check and nff validate that lie in the folder as *-check.json and *-validate.json, data, model and
    settings, the command and versions. It needs no network and no other file.
    """
    from ..checkpoint import find_run
    from ..reports.run_page import run_page

    run = find_run(run)
    folder = out or run
    path = folder / PAGE
    refuse_existing([path], overwrite)
    text = run_page(run, data, checks, validations)
    claim_folder(folder)
    write_atomically(path, text.encode())
    click.echo(f"wrote {path} ({len(text) / 1e6:.1f} MB)")
    return 0
