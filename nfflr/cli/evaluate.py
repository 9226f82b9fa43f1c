"""Compare a checkpoint with labelled data: errors per group, parity plot."""

from __future__ import annotations

import math
from pathlib import Path

import click

from ..files import claim_folder, write_figure, write_json
from .output import provenance, refuse_existing

COLUMNS = (  # header, key, factor name, digits
    ("structures", "structures", None),
    ("E MAE (meV/atom)", "energy_mae", "milli"),
    ("E RMSE", "energy_rmse", "milli"),
    ("F MAE (meV/Å)", "forces_mae", "milli"),
    ("F RMSE", "forces_rmse", "milli"),
    ("σ MAE (GPa)", "stress_mae", "gpa"),
    ("σ RMSE", "stress_rmse", "gpa"),
)


@click.command("evaluate")
@click.argument("checkpoint")
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), default=Path("."), show_default=True, help="Folder."
)
@click.option("--overwrite", is_flag=True, help="Replace results that exist.")
def command(checkpoint: str, data: Path, out: Path, overwrite: bool) -> int:
    """Compare a checkpoint with labelled data: errors per group, parity plot.

    Prints a table and writes <data>-evaluate.json and <data>-evaluate.png.

    Example: nff evaluate mlearn-si calculators/mlearn-si/test.xyz.xz
    """
    from ..checkpoint import load_checkpoint
    from ..data.dataset import AtomsDataset
    from ..train.evaluation import error_table, predict
    from ..train.report import parity

    stem = data.name.split(".")[0]
    paths = {kind: out / f"{stem}-evaluate.{kind}" for kind in ("json", "png")}
    refuse_existing(paths.values(), overwrite)
    model, metadata = load_checkpoint(checkpoint)
    dataset = AtomsDataset(
        data,
        n_train=1.0,
        n_val=0.0,
        allow_missing=True,
        allow_duplicates=True,
    )
    claim_folder(out)
    predictions = predict(model, dataset, range(len(dataset)))
    table = error_table(predictions)
    _print(table, f"{checkpoint} on {data.name}")
    write_figure(paths["png"], parity(predictions, f"{checkpoint} on {data.name}"))
    record = {
        "checkpoint": {"source": str(checkpoint), "digest": metadata["sha256"]},
        "data": {"file": str(data), "digest": dataset.digest()},
        "errors": {
            g: {k: v if math.isfinite(v) else None for k, v in row.items()} for g, row in table.items()
        },
        "units": {"energy": "eV/atom", "forces": "eV/Å", "stress": "eV/Å^3"},
        **provenance(),
    }
    write_json(paths["json"], record)
    for path in paths.values():
        click.echo(f"  wrote {path}")
    return 0


def _print(table: dict[str, dict[str, float]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..units import GPA

    factors = {None: 1, "milli": 1e3, "gpa": 1 / GPA}
    view = Table(title=title, title_justify="left")
    view.add_column("group")
    for header, _, _ in COLUMNS:
        view.add_column(header, justify="right")
    for group, row in table.items():
        cells = [f"{row[key] * factors[factor]:.4g}" for _, key, factor in COLUMNS]
        view.add_row(group, *[cell.replace("nan", "–") for cell in cells])
    Console(width=None if Console().is_terminal else 120).print(view)
