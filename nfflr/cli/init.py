"""Look at labelled data and write a training config for them."""

from __future__ import annotations

import textwrap
from collections import Counter
from typing import TYPE_CHECKING

import click
import numpy as np

from ..jobs.plan import data_stem, find_data
from ..storage.files import claim_folder, write_atomically, write_figure, write_json
from ..units import GPA
from ..workflows.framework.result_files import refuse_existing
from .console import PIPE_WIDTH, Console, narrow_table, show, wrapped
from .options import DATA, SOURCE, dataset_arguments, shared
from .output import say_written

if TYPE_CHECKING:  # help needs none of what computes
    from ..data.quality.diagnosis import Diagnosis
    from ..data.quality.survey import Survey

TOPIC = "Make a potential"
PLACE = 1
EXAMPLES = (
    "nff init calculators/mlearn-si/train.xyz.xz --out si",
    "nff init 'runs/*/OUTCAR' --out mine --yaml",
)


MOST_ROWS = 16
MOST_OUTLIERS = 10
MOST_PAIRS = 20


@click.command("init")
@click.argument("data", type=SOURCE, nargs=-1, required=True)
@shared("out", *DATA)
@click.option("--yaml", "declared", is_flag=True, help="Write config.yaml, and its schema for editors.")
@shared("overwrite")
def command(data, out, declared, overwrite, **options) -> int:
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
    text = config_text(source, out, diagnosis, filtered, form)
    write_figure(paths["figure"], data_figure(diagnosis.survey, name))
    write_atomically(paths["config"], text.encode())
    if declared:
        write_json(paths["schema"], json_schema(TrainingConfig))
    say_written(paths.values())
    click.echo(f"next: nff train {paths['config']}")
    return 0


def _print_diagnosis(diagnosis: Diagnosis, name: str) -> None:
    """Print the survey, then what is suspicious."""
    if diagnosis.survey is not None:
        _table(diagnosis.survey, name)
        for title, text in _lines(diagnosis.survey).items():
            first, *others = textwrap.wrap(text, _room() - 20)
            click.echo(f"{title:19s} {first}")
            for line in others:
                click.echo(" " * 20 + line)
        _outliers(diagnosis.survey)
    fatal = [finding for finding in diagnosis.findings if finding.fatal]
    for finding in fatal[1:]:  # the first becomes the error
        click.echo(wrapped(f"{click.style('problem', fg='red')}: {finding}", "  "))
    for finding in diagnosis.findings:
        if not finding.fatal:
            click.echo(wrapped(f"{click.style('note', fg='yellow')}: {finding}", "  "))
    if diagnosis.survey is not None and not (diagnosis.findings or diagnosis.survey.outliers):
        click.echo(click.style("nothing suspicious", fg="green"))


def _room() -> int:
    """Characters of a line."""
    return min(PIPE_WIDTH, Console(PIPE_WIDTH).width)


def _table(seen: Survey, name: str) -> None:
    """Counts and ranges by group and composition."""
    counts = Counter(zip(seen.groups, seen.compositions, strict=True))
    by_group = len(counts) > MOST_ROWS  # then the compositions of a group share a row
    keys = [(g, "" if by_group else c) for g, c in zip(seen.groups, seen.compositions, strict=True)]
    rows = Counter(keys).most_common()
    view = narrow_table(f"{name}: {len(seen)} structures, {seen.sizes.sum()} atoms")
    view.add_column("group", overflow="fold", min_width=5)
    view.add_column("formula", overflow="fold", min_width=4)
    for header in (
        "number",
        "atoms",
        "lowest E\neV/atom",
        "highest E\neV/atom",
        "rms\nmeV/atom",
        "max |F|\neV/Å",
    ):
        view.add_column(header, justify="right", no_wrap=True)
    view.add_column("max |σ|\nGPa", justify="right", no_wrap=True)
    for key, count in rows[:MOST_ROWS]:
        members = np.array([k == key for k in keys])
        kinds = {c for (g, c), _ in counts.items() if g == key[0]}
        shown = key[1] or (f"{len(kinds)} of them" if len(kinds) > 1 else min(kinds))
        view.add_row(key[0], shown, str(count), *_numbers(seen, members))
    if len(rows) > MOST_ROWS:
        others = {key for key, _ in rows[MOST_ROWS:]}
        members = np.array([key in others for key in keys])
        view.add_row(f"{len(rows) - MOST_ROWS} more", "", str(members.sum()), *_numbers(seen, members))
    if len(rows) > 1:
        view.add_section()
        view.add_row("all", "", str(len(seen)), *_numbers(seen, np.ones(len(seen), bool)))
    show(view)


def _numbers(seen: Survey, chosen: np.ndarray) -> list[str]:
    residuals = seen.residuals[chosen]
    residuals = residuals[np.isfinite(residuals)]
    rms = f"{1e3 * np.sqrt(np.mean(residuals**2)):.3g}" if len(residuals) else "–"
    return [
        _range(seen.sizes[chosen]),
        *_ends(seen.energy[chosen]),
        rms,
        _largest(seen.largest_force[chosen]),
        _largest(seen.largest_stress[chosen] / GPA),
    ]


def _ends(values: np.ndarray) -> tuple[str, str]:
    """The least and the largest energy to 0.1 meV."""
    values = values[np.isfinite(values)]
    return (f"{values.min():.4f}", f"{values.max():.4f}") if len(values) else ("–", "–")


def _range(values: np.ndarray) -> str:
    low, high = values.min(), values.max()
    return f"{low}" if low == high else f"{low}–{high}"


def _largest(values: np.ndarray) -> str:
    values = values[np.isfinite(values)]
    return f"{values.max():.3g}" if len(values) else "–"


def _lines(seen: Survey) -> dict[str, str]:
    reach = {f"{a}–{b}": d.min() for (a, b), d in seen.pairs.items() if np.isfinite(d).any()}
    closest = [f"{pair} {reach[pair]:.2f}" for pair in sorted(reach, key=reach.__getitem__)]
    closest = (
        [*closest[:MOST_PAIRS], f"{len(closest) - MOST_PAIRS} more"] if len(closest) > MOST_PAIRS else closest
    )
    labels = [f"{name} {count} of {len(seen)}" for name, count in seen.labels.items()]
    references = ", ".join(f"{e} {v:.4f}" for e, v in seen.references.items()) + " eV"
    lines = {
        "elements": ", ".join(f"{e}" for e in seen.elements),
        "labels": ", ".join(labels) or "none",
        "nearest (Å)": ", ".join(closest) or "no neighbours",
        "typical (Å)": ", ".join(f"{e} {d:.2f}" for e, d in seen.spacing.items()) or "no neighbours",
    }
    if seen.labels.get("total_energy") and seen.spacing:
        unknown = "not unique: the compositions do not tell the elements apart"
        lines["element energies"] = f"{references}; rms: what they leave" if seen.determined else unknown
    if seen.isolated:
        lines["isolated atoms"] = f"{len(seen.isolated)}: {_some(seen, seen.isolated)}"
    if seen.repeats:
        lines["copies"] = f"{len(seen.repeats)}: {_some(seen, seen.repeats)}"
    return lines


def _some(seen: Survey, indices, most: int = 4) -> str:
    told = [seen.ids[k] for k in indices[:most]]
    return ", ".join(told) + (", …" if len(indices) > most else "")


def _outliers(seen: Survey) -> None:
    if not seen.outliers:
        return
    click.echo(f"{'outliers':19s} {len(seen.outliers)}; look at these before you train:")
    for outlier in seen.outliers[:MOST_OUTLIERS]:
        click.echo(f"  {outlier.id}: {outlier.what}")
    if len(seen.outliers) > MOST_OUTLIERS:
        click.echo(f"  and {len(seen.outliers) - MOST_OUTLIERS} more")
