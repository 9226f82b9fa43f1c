"""Compare a checkpoint with labelled data: errors, parity plot."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import click

from ..errors import StructureError
from ..storage.files import all_or_none, claim_folder, write_figure, write_json
from .dataoptions import LABELS, data_options, dataset_arguments
from .options import OUT, THREADS
from .output import provenance, refuse_existing
from .structure_files import data_stem, find_data
from .threads import set_threads

TOPIC = "Judge a potential"
PLACE = 3
EXAMPLES = ("nff evaluate mlearn-si calculators/mlearn-si/test.xyz.xz",)


@click.command("evaluate")
@click.argument("checkpoint")
@click.argument("data", nargs=-1, required=True)
@click.option("--out", "-o", **OUT)
@data_options
@click.option("--overwrite", is_flag=True, help="Replace results that exist.")
@click.option("--threads", **THREADS)
def command(checkpoint, data, out, overwrite, **given) -> int:
    """Compare a checkpoint with labelled data: errors per group, parity plot.

    DATA are files, folders of files, patterns, or the name of a JARVIS data set; several are taken together.
    Prints a table and writes <data>-evaluate.json and <data>-evaluate.png. A checkpoint that predicts
    properties is compared with the labels of those names. Of a committee (a folder of member-<k>.safetensors,
    or a,b,c) the errors are compared with its spread too. Structures that the checkpoint was trained on are
    counted in a note, as far as they are known.
    """
    from ..checkpoint import load_model
    from ..data.dataset import AtomsDataset
    from ..data.sources import display_name
    from ..notes import note
    from ..train.familiar import familiar

    found = find_data(data)
    source = found[0] if len(found) == 1 else found
    paths = {kind: out / f"{data_stem(found)}-evaluate.{kind}" for kind in ("json", "png")}
    refuse_existing(paths.values(), overwrite)
    model, metadata = load_model(checkpoint)
    click.echo(set_threads())
    targets = metadata.get("targets") or {}
    arguments = dataset_arguments(given, tuple(targets) or LABELS)
    if targets:  # of properties there are no forces and stresses
        arguments = {name: arguments[name] for name in ("energy_units", "keys")} | {
            "classes": _classes(targets)
        }
    dataset = AtomsDataset(
        source,
        tuple(targets) or "energy_and_forces",
        n_train=1.0,
        n_val=0.0,
        allow_missing=True,
        allow_duplicates=True,
        **arguments,
    )
    claim_folder(out)
    name = display_name(source)
    started, title = time.perf_counter(), f"{checkpoint} on {name}"
    trained_on = familiar(checkpoint, dataset, found)
    if trained_on:
        note(f"{name}: {trained_on}")
    table, columns, figure, spread = (_properties if targets else _force_field)(model, dataset, title)
    if not any(math.isfinite(row[column.key]) for row in table.values() for column in columns):
        raise StructureError(f"{name}: holds no label that the model predicts; nothing to compare with")
    if targets:
        _print_targets(table["all"], columns, dataset.targets, title)
    else:
        _print_groups(table, columns, title)
    _print_spread(spread)
    record = {
        "checkpoint": {"source": str(checkpoint), "digest": metadata["sha256"]},
        "data": {
            "file": found[0] if len(found) == 1 else found,
            "digest": dataset.digest(),
            **trained_on.record,
        },
        "settings": {name: value for name, value in arguments.items() if name != "classes"},
        "errors": {
            g: {k: v if math.isfinite(v) else None for k, v in row.items()} for g, row in table.items()
        },
        **({"spread": {k: v if math.isfinite(v) else None for k, v in spread.items()}} if spread else {}),
        "units": {} if targets else {"energy": "eV/atom", "forces": "eV/Å", "stress": "eV/Å^3"},
        "wall_time_s": time.perf_counter() - started,
        **provenance(),
    }
    with all_or_none(paths.values()):
        write_figure(paths["png"], figure)
        write_json(paths["json"], record)
    for path in paths.values():
        click.echo(f"  wrote {path}")
    return 0


def _force_field(model, dataset, title: str) -> tuple:
    from ..reports.curves import parity
    from ..train.evaluation import calibration, error_table, predict
    from ..train.force_field import COLUMNS

    predictions = predict(model, dataset, range(len(dataset)))
    return error_table(predictions), COLUMNS, parity(predictions, title), calibration(predictions)


def _properties(model, dataset, title: str) -> tuple:
    from ..reports.curves import property_parity
    from ..train.properties import predict_properties, property_columns

    predictions = predict_properties(model, dataset, range(len(dataset)))
    table = {"all": {"structures": len(dataset), **predictions.errors()}}
    figure = property_parity(predictions, dataset.classes, title)
    return table, property_columns(dataset.targets, dataset.classes), figure, {}


def _classes(targets: dict[str, dict]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(t["classes"]) for name, t in targets.items() if t["kind"] == "class"}


def _print_groups(table: dict[str, dict[str, float]], columns: Sequence, title: str) -> None:
    rows = [
        [group, str(row["structures"]), *(_number(row[column.key] * column.factor) for column in columns)]
        for group, row in table.items()
    ]
    _print(title, ["group", "number", *(f"{column.title}\n{column.unit}" for column in columns)], rows)


def _print_targets(errors: dict[str, float], columns: Sequence, targets: Sequence[str], title: str) -> None:
    rows = []
    for name in targets:
        kinds = {f"{name}_{kind}" for kind in ("mae", "rmse", "accuracy")}
        own = [column for column in columns if column.key in kinds]
        told = [
            f"{column.label.removeprefix(name).strip()} {_number(errors[column.key] * column.factor)}"
            for column in own
        ]
        rows.append([name, *told])
    _print(title, ["target", *[""] * (max(map(len, rows)) - 1)], [row + [""] * 3 for row in rows])


def _print_spread(spread: dict[str, float]) -> None:
    for name in ("energy", "forces"):
        if f"{name}_ratio" in spread:
            ratio, correlation = (_number(spread[f"{name}_{kind}"]) for kind in ("ratio", "correlation"))
            click.echo(f"  {name}: rms error / spread {ratio}, rank correlation {correlation}")


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.4g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"


def _print(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from .console import narrow_table, show

    view = narrow_table(title)
    for k, header in enumerate(headers):
        view.add_column(header, justify="right" if k else "left", overflow="fold", no_wrap=bool(k))
    for row in rows:
        view.add_row(*row[: len(headers)])
    show(view)
