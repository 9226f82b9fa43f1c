"""Compare a checkpoint with labelled data: errors, parity plot."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ..errors import StructureError
from ..jobs.opening import set_threads
from ..jobs.plan import data_stem, find_data
from ..storage.files import all_or_none, claim_folder, write_figure, write_json
from ..workflows.framework.result_files import refuse_existing
from .options import DATA, LABELS, SHARED, SOURCE, dataset_arguments, shared
from .output import provenance

if TYPE_CHECKING:
    from ..reports.run_record import Column

TOPIC = "Judge a potential"
PLACE = 3
EXAMPLES = ("nff evaluate calculators/mlearn-si/test.xyz.xz --model mlearn-si",)

MOST_COLUMNS = 8  # in a table of 80 characters
FORCE_FIELD = ("energy", "forces", "stress")  # which the table shows even where the data lack them


@click.command("evaluate")
@click.argument("data", type=SOURCE, nargs=-1, required=True)
@click.option("--model", "-m", "checkpoint", **SHARED["model"][1])
@shared("out", *DATA, "overwrite", "threads")
def command(data, checkpoint, out, overwrite, threads, **given) -> int:
    """Compare a checkpoint with labelled data: errors per group, parity plot.

    DATA are files, folders of files, patterns, or the name of a JARVIS data set; several are taken together.
    Prints a table and writes <data>-evaluate.json and <data>-evaluate.png. A checkpoint that predicts
    properties is compared with the labels of those names. Of a committee (a folder of member-<k>.safetensors,
    or a,b,c) the errors are compared with its spread too. Structures that the checkpoint was trained on are
    counted in a note, as far as they are known.
    """
    from ..checkpoint import load_model
    from ..data.sources import display_name
    from ..notes import note
    from ..reports.evaluation import calibration, error_table, predict
    from ..reports.figures import parity
    from ..reports.run_data import familiar, judged_dataset
    from ..reports.run_record import columns_of

    files = find_data(data)
    source = files[0] if len(files) == 1 else files
    paths = {kind: out / f"{data_stem(files)}-evaluate.{kind}" for kind in ("json", "png")}
    refuse_existing(paths.values(), overwrite)
    model, metadata = load_model(checkpoint)
    click.echo(set_threads(threads))
    arguments = dataset_arguments(given, _labels(metadata))
    dataset = judged_dataset(source, metadata, arguments)
    claim_folder(out)
    name = display_name(source)
    started, title = time.perf_counter(), f"{checkpoint} on {name}"
    trained_on = familiar(checkpoint, dataset, files)
    if trained_on:
        note(f"{name}: {trained_on}")
    predictions = predict(model, dataset, range(len(dataset)))
    quantities = [comparison.quantity for comparison in predictions.comparisons.values()]
    table, spread = error_table(predictions), calibration(predictions)
    columns = [
        c
        for c in columns_of(quantities)
        if c.key.startswith(FORCE_FIELD) or not math.isnan(table["all"][c.key])
    ]
    if not any(math.isfinite(row[column.key]) for row in table.values() for column in columns):
        raise StructureError(f"{name}: holds no label that the model predicts; nothing to compare with")
    _print(table, columns, title)
    _print_spread(spread)
    record = {
        "checkpoint": {"source": str(checkpoint), "digest": metadata["sha256"]},
        "data": {
            "file": source,
            "digest": dataset.digest(),
            **trained_on.record,
        },
        "settings": arguments,
        "errors": {
            g: {k: v if math.isfinite(v) else None for k, v in row.items()} for g, row in table.items()
        },
        **({"spread": {k: v if math.isfinite(v) else None for k, v in spread.items()}} if spread else {}),
        "units": {q.key: q.error_unit for q in quantities if q.error_unit},
        "wall_time_s": time.perf_counter() - started,
        **provenance(),
    }
    with all_or_none(paths.values()):
        write_figure(paths["png"], parity(predictions, title))
        write_json(paths["json"], record)
    for path in paths.values():
        click.echo(f"  wrote {path}")
    return 0


def _labels(metadata: dict) -> tuple[str, ...]:
    """Names of what a checkpoint predicts and data may label."""
    if "targets" in metadata:
        return tuple(metadata["targets"])
    members = metadata.get("members") or [metadata]
    return (*LABELS, *(output["name"] for output in members[0].get("outputs") or ()))


def _print(table: dict[str, dict[str, float]], columns: Sequence[Column], title: str) -> None:
    """A row for each group, or, of many metrics, a row for each of these."""
    from .console import narrow_table, show

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


def _print_spread(spread: dict[str, float]) -> None:
    for name in (key.removesuffix("_ratio") for key in spread if key.endswith("_ratio")):
        ratio, correlation = (_number(spread[f"{name}_{kind}"]) for kind in ("ratio", "correlation"))
        click.echo(f"  {name}: rms error / spread {ratio}, rank correlation {correlation}")


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.4g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"
