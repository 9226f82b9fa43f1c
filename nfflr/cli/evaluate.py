"""Compare a checkpoint with labelled data: errors, parity plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigError, StructureError
from ..jobs.opening import set_threads
from ..jobs.plan import data_stem, find_data
from ..quantities import LABELLED, names_of
from .options import DATA, SHARED, SOURCE, dataset_arguments, shared
from .output import Judgement, finite

if TYPE_CHECKING:
    from ..reports.run_record import Column

TOPIC = "Judge a potential"
PLACE = 3
EXAMPLES = ("nff evaluate calculators/mlearn-si/test.xyz.xz --model mlearn-si",)

MOST_COLUMNS = 8  # in a table of 80 characters
ALWAYS = tuple(quantity.key for quantity in LABELLED)  # in the table even where the data lack them


@click.command("evaluate")
@click.argument("data", type=SOURCE, nargs=-1, required=True)
@click.option("--model", "-m", "checkpoint", **SHARED["model"][1])
@shared("out", *DATA, "overwrite", "threads")
def command(data, checkpoint, out, overwrite, threads, **options) -> int:
    """Compare a checkpoint with labelled data: errors per group, parity plot.

    DATA are files, folders of files, patterns, or the name of a JARVIS data set; several are taken together.
    Prints a table and writes <data>-evaluate.json and <data>-evaluate.png. A checkpoint that predicts
    properties is compared with the labels of those names. Of a committee (a folder of member-<k>.safetensors,
    or a,b,c) the errors are compared with its spread too. Structures that the checkpoint was trained on are
    counted in a note, as far as they are known.
    """
    from ..checkpoint import load_model, terms_of
    from ..data.sources import display_name
    from ..notes import note
    from ..reports.evaluation import calibration, error_table, predict
    from ..reports.figures import parity
    from ..reports.run_data import familiar, judged_dataset
    from ..reports.run_record import columns_of
    from ..terms import open_evaluator

    sources = find_data(data)
    source = sources[0] if len(sources) == 1 else sources
    files = Judgement(out, f"{data_stem(sources)}-evaluate", overwrite)
    terms = terms_of(checkpoint)
    model: Any
    model, metadata = load_model(checkpoint) if len(terms) == 1 else open_evaluator(checkpoint)
    if not model.takes_batches:
        raise ConfigError(f"{checkpoint}: a term takes no batches; expected NFFLr's own potentials")
    click.echo(set_threads(threads))
    arguments = dataset_arguments(options, _labels(metadata))
    dataset = judged_dataset(source, metadata, arguments)
    files.begin()
    name = display_name(source)
    title = f"{checkpoint} on {name}"
    matches = [familiar(term, dataset, sources) for term in terms]
    trained_on = next(filter(None, matches), matches[0])
    if trained_on:
        note(f"{name}: {trained_on}")
    predictions = predict(model, dataset, range(len(dataset)))
    quantities = [comparison.quantity for comparison in predictions.comparisons.values()]
    table, spread = error_table(predictions), calibration(predictions)
    if not any(math.isfinite(row[c.key]) for row in table.values() for c in columns_of(quantities)):
        raise StructureError(f"{name}: holds no label that the model predicts; nothing to compare with")
    _print(table, columns_of(quantities), title)
    for key in (key.removesuffix("_ratio") for key in spread if key.endswith("_ratio")):
        ratio, correlation = (_number(spread[f"{key}_{kind}"]) for kind in ("ratio", "correlation"))
        click.echo(f"  {key}: rms error / spread {ratio}, rank correlation {correlation}")
    record = {
        "checkpoint": {"source": str(checkpoint), "digest": metadata["sha256"]},
        "data": {"file": source, "digest": dataset.digest(), **trained_on.record},
        "settings": arguments,
        "errors": {group: finite(row) for group, row in table.items()},
        **({"spread": finite(spread)} if spread else {}),
        "units": {q.key: q.error_unit for q in quantities if q.error_unit},
    }
    files.write(record, parity(predictions, title))
    return 0


def _labels(metadata: dict) -> tuple[str, ...]:
    """Names of the quantities that a checkpoint predicts and data may label."""
    if "targets" in metadata:
        return tuple(metadata["targets"])
    members = metadata.get("members") or [metadata]
    return (*names_of(LABELLED), *(output["name"] for output in members[0].get("outputs") or ()))


def _print(table: dict[str, dict[str, float]], columns: Sequence[Column], title: str) -> None:
    """A row for each group, or for each metric where there are many."""
    from .console import narrow_table, show

    columns = [c for c in columns if c.key.startswith(ALWAYS) or not math.isnan(table["all"][c.key])]
    headers = ["group", "number", *(f"{column.title}\n{column.unit}".rstrip() for column in columns)]
    rows = [
        [group, str(row["structures"]), *(_number(row[column.key] * column.factor) for column in columns)]
        for group, row in table.items()
    ]
    if len(columns) > MOST_COLUMNS:
        cells = [[header.replace("\n", " ") for header in headers], *rows]
        headers, *rows = [list(cell) for cell in zip(*cells, strict=True)]
    view = narrow_table(title)
    for k, header in enumerate(headers):
        view.add_column(header, justify="right" if k else "left", overflow="fold", no_wrap=bool(k))
    for row in rows:
        view.add_row(*row)
    show(view)


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.4g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"
