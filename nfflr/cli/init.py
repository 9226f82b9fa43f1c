"""Look at labelled data and write a training config for them."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import click
import numpy as np

from ..jobs.plan import data_stem, find_data
from ..storage.files import claim_folder, write_atomically, write_figure, write_json
from ..units import GPA
from ..workflows.framework.result_files import refuse_existing
from .console import PIPE_WIDTH, Console, narrow_table, show, wrapped
from .options import DATA, SOURCE, Whole, dataset_arguments, shared
from .output import say_written

if TYPE_CHECKING:
    from ..data.quality.diagnosis import Diagnosis
    from ..data.quality.survey import Survey

TOPIC = "Make a potential"
PLACE = 1
EXAMPLES = (
    "nff init calculators/mlearn-si/train.xyz.xz --out si",
    "nff init 'runs/*/OUTCAR' --out mine --yaml",
)

ENERGIES = ("lowest E\neV/atom", "highest E\neV/atom", "rms\nmeV/atom")
HEADERS = ("number", "atoms", *ENERGIES, "max |F|\neV/Å", "max |σ|\nGPa")
MOST_ROWS = 16
MOST_OUTLIERS = 10
MOST_PAIRS = 20


@click.command("init")
@click.argument("data", type=SOURCE, nargs=-1, required=True)
@shared("out", *DATA)
@click.option("--yaml", "declared", is_flag=True, help="Write config.yaml, and its schema for editors.")
@click.option(
    "--layers",
    type=Whole(1, 4),
    help="1: the fastest potential; 2: neighbours exchange tensors, which costs about ten times as much and "
    "has smaller errors; default: 2 where there are forces.",
)
@shared("overwrite")
def command(data, out, declared, layers, overwrite, **options) -> int:
    """Look at labelled data and write a training config for them.

    DATA are files, folders of files, patterns like 'runs/*/OUTCAR', or the name of a JARVIS data set; several
    are taken together. Prints what the data hold and what is suspicious about it, draws it as
    <data>-init.png, and writes a commented config.py that trains as it is; with --yaml config.yaml, and
    config.schema.json, by which editors complete it. Data that cannot be trained on are refused with the
    option that would mend them, and nothing is written.
    """
    from ..data.quality.diagnosis import diagnose
    from ..data.sources import ase_files, display_name, find
    from ..reports.figures import data_figure
    from ..train.config import TrainingConfig
    from ..train.config_files import json_schema
    from ..train.first_config import advised, config_text

    sources = find_data(data)
    source = sources[0] if len(sources) == 1 else sources
    form = "yaml" if declared else "py"
    paths = {"config": out / f"config.{form}", "figure": out / f"{data_stem(sources)}-init.png"}
    paths |= {"schema": out / "config.schema.json"} if declared else {}
    refuse_existing(paths.values(), overwrite)
    diagnosis = advised(diagnose(source, **dataset_arguments(options)))
    name = display_name(source)
    _print_diagnosis(diagnosis, name)
    diagnosis.raise_if_unusable()
    assert diagnosis.survey is not None  # else unusable
    claim_folder(out)
    filtered = all(find(part) is ase_files for part in sources)
    text = config_text(source, out, diagnosis, filtered, form, layers)
    write_figure(paths["figure"], data_figure(diagnosis.survey, name))
    write_atomically(paths["config"], text.encode())
    if declared:
        write_json(paths["schema"], json_schema(TrainingConfig))
    say_written(paths.values())
    click.echo(f"next: nff train {paths['config']}")
    return 0


def _print_diagnosis(diagnosis: Diagnosis, name: str) -> None:
    """Print the survey, then what is suspicious."""
    survey = diagnosis.survey
    if survey is not None:
        _table(survey, name)
        width = min(PIPE_WIDTH, Console(PIPE_WIDTH).width)
        for title, text in _lines(survey).items():
            click.echo(textwrap.fill(text, width, initial_indent=f"{title:20}", subsequent_indent=" " * 20))
        _outliers(survey)
    fatal = [finding for finding in diagnosis.findings if finding.fatal]
    for finding in fatal[1:]:  # the first becomes the error
        click.echo(wrapped(f"{click.style('problem', fg='red')}: {finding}", "  "))
    for finding in diagnosis.findings:
        if not finding.fatal:
            click.echo(wrapped(f"{click.style('note', fg='yellow')}: {finding}", "  "))
    if survey is not None and not (diagnosis.findings or survey.outliers):
        click.echo(click.style("nothing suspicious", fg="green"))


def _table(survey: Survey, name: str) -> None:
    """Counts and ranges by group and composition."""
    counts = Counter(zip(survey.groups, survey.compositions, strict=True))
    by_group = len(counts) > MOST_ROWS  # then the compositions of a group share a row
    keys = [(g, "" if by_group else c) for g, c in zip(survey.groups, survey.compositions, strict=True)]
    rows = Counter(keys).most_common()
    view = narrow_table(f"{name}: {len(survey)} structures, {survey.sizes.sum()} atoms")
    view.add_column("group", overflow="fold", min_width=5)
    view.add_column("formula", overflow="fold", min_width=4)
    for header in HEADERS:
        view.add_column(header, justify="right", no_wrap=True)
    for key, count in rows[:MOST_ROWS]:
        formulas = {formula for group, formula in counts if group == key[0]}
        formula = key[1] or (f"{len(formulas)} of them" if len(formulas) > 1 else min(formulas))
        view.add_row(key[0], formula, str(count), *_numbers(survey, np.array([k == key for k in keys])))
    if len(rows) > MOST_ROWS:
        others = {key for key, _ in rows[MOST_ROWS:]}
        members = np.array([key in others for key in keys])
        view.add_row(f"{len(rows) - MOST_ROWS} more", "", str(members.sum()), *_numbers(survey, members))
    if len(rows) > 1:
        view.add_section()
        view.add_row("all", "", str(len(survey)), *_numbers(survey, np.ones(len(survey), bool)))
    show(view)


def _numbers(survey: Survey, members: np.ndarray) -> list[str]:
    """The cells below ``HEADERS`` for some structures; of energies to 0.1 meV."""

    def cells(values: np.ndarray, form: str, *reduce: Callable[[np.ndarray], float]) -> list[str]:
        numbers = values[members][np.isfinite(values[members])]
        return [format(function(numbers), form) if len(numbers) else "–" for function in reduce]

    least, most = survey.sizes[members].min(), survey.sizes[members].max()
    return [
        f"{least}" if least == most else f"{least}–{most}",
        *cells(survey.energy, ".4f", np.min, np.max),
        *cells(1e3 * survey.residuals, ".3g", lambda values: np.sqrt(np.mean(values**2))),
        *cells(survey.largest_force, ".3g", np.max),
        *cells(survey.largest_stress / GPA, ".3g", np.max),
    ]


def _lines(survey: Survey) -> dict[str, str]:
    nearest = {f"{a}–{b}": d.min() for (a, b), d in survey.pairs.items() if np.isfinite(d).any()}
    closest = [f"{pair} {nearest[pair]:.2f}" for pair in sorted(nearest, key=nearest.__getitem__)]
    if len(closest) > MOST_PAIRS:
        closest[MOST_PAIRS:] = [f"{len(closest) - MOST_PAIRS} more"]
    labels = [f"{name} {count} of {len(survey)}" for name, count in survey.labels.items()]
    lines = {
        "elements": ", ".join(survey.elements),
        "labels": ", ".join(labels) or "none",
        "nearest (Å)": ", ".join(closest) or "no neighbours",
        "typical (Å)": ", ".join(f"{e} {d:.2f}" for e, d in survey.spacing.items()) or "no neighbours",
    }
    if survey.labels.get("total_energy") and survey.spacing:
        references = ", ".join(f"{element} {value:.4f}" for element, value in survey.references.items())
        unknown = "not unique: the compositions do not tell the elements apart"
        lines["element energies"] = f"{references} eV; rms: what they leave" if survey.determined else unknown
    for title, indices in {"isolated atoms": survey.isolated, "copies": survey.repeats}.items():
        if indices:
            names = [survey.ids[k] for k in indices[:4]] + ["…"] * (len(indices) > 4)
            lines[title] = f"{len(indices)}: {', '.join(names)}"
    return lines


def _outliers(survey: Survey) -> None:
    if not survey.outliers:
        return
    click.echo(f"{'outliers':19s} {len(survey.outliers)}; look at these before you train:")
    for outlier in survey.outliers[:MOST_OUTLIERS]:
        click.echo(f"  {outlier.id}: {outlier.what}")
    if len(survey.outliers) > MOST_OUTLIERS:
        click.echo(f"  and {len(survey.outliers) - MOST_OUTLIERS} more")
