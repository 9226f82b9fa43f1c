"""Compare a checkpoint with labelled data: errors, parity plot."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import click

from ..errors import StructureError
from ..files import all_or_none, claim_folder, write_figure, write_json
from .options import OUT, THREADS, label_names
from .output import provenance, refuse_existing
from .threads import set_threads

TOPIC = "Judge a potential"
PLACE = 3
EXAMPLES = ("nff evaluate mlearn-si calculators/mlearn-si/test.xyz.xz",)


@click.command("evaluate")
@click.argument("checkpoint")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--out", "-o", **OUT)
@click.option(
    "--energy-units",
    help="Energy unit of the data: eV, eV/atom, Ha or kcal/mol; default: what its format says.",
)
@click.option(
    "--stress-units",
    help="Stress unit of the data: eV/Å^3, GPa or kbar; default: what its format says, else no stress.",
)
@click.option(
    "--stress-sign",
    type=click.Choice(["1", "-1"]),
    help="1: tension is positive; -1: pressure is; default: what the format says.",
)
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="LABEL=NAME",
    help="Name of a label in the data, as total_energy=dft_energy; repeated.",
)
@click.option("--overwrite", is_flag=True, help="Replace results that exist.")
@click.option("--threads", **THREADS)
def command(checkpoint, data, out, energy_units, stress_units, stress_sign, keys, overwrite) -> int:
    """Compare a checkpoint with labelled data: errors per group, parity plot.

    Prints a table and writes <data>-evaluate.json and <data>-evaluate.png. A checkpoint that predicts
    properties is compared with the labels of those names. Of an ensemble (a folder of member-<k>.safetensors,
    or a+b+c) the errors are compared with its spread too.
    """
    from ..checkpoint import load_model
    from ..data.dataset import AtomsDataset

    stem = data.name.split(".")[0]
    paths = {kind: out / f"{stem}-evaluate.{kind}" for kind in ("json", "png")}
    refuse_existing(paths.values(), overwrite)
    model, metadata = load_model(checkpoint)
    click.echo(set_threads())
    targets = metadata.get("targets") or {}
    units = {"stress_units": stress_units, "stress_sign": stress_sign and int(stress_sign)}
    dataset = AtomsDataset(
        str(data),  # a path, or the name of a JARVIS data set
        tuple(targets) or "energy_and_forces",
        energy_units=energy_units,
        n_train=1.0,
        n_val=0.0,
        allow_missing=True,
        allow_duplicates=True,
        keys=label_names(keys),
        **({"classes": _classes(targets)} if targets else units),
    )
    claim_folder(out)
    started, title = time.perf_counter(), f"{checkpoint} on {data.name}"
    table, columns, figure, spread = (_properties if targets else _force_field)(model, dataset, title)
    if not any(math.isfinite(row[column.key]) for row in table.values() for column in columns):
        raise StructureError(f"{data}: holds no label that the model predicts; nothing to compare with")
    if targets:
        _print_targets(table["all"], columns, dataset.targets, title)
    else:
        _print_groups(table, columns, title)
    _print_spread(spread)
    record = {
        "checkpoint": {"source": str(checkpoint), "digest": metadata["sha256"]},
        "data": {"file": str(data), "digest": dataset.digest()},
        "settings": {"energy_units": energy_units, **units, "keys": label_names(keys)},
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
    from ..train.evaluation import calibration, error_table, predict
    from ..train.force_field import COLUMNS
    from ..train.report import parity

    predictions = predict(model, dataset, range(len(dataset)))
    return error_table(predictions), COLUMNS, parity(predictions, title), calibration(predictions)


def _properties(model, dataset, title: str) -> tuple:
    from ..train.properties import predict_properties, property_columns
    from ..train.report import property_parity

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
    return "–" if math.isnan(value) else f"{value:.4g}"


def _print(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    view = Table(title=title, title_justify="left")
    for k, header in enumerate(headers):
        view.add_column(header, justify="right" if k else "left")
    for row in rows:
        view.add_row(*row[: len(headers)])
    Console(width=None if Console().is_terminal else 120).print(view)
