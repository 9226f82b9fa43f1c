"""Train a model from a config file."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from .launch import launch
from .progress import training_bar


@click.command("train")
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), help="Folder for the results; default: the config's."
)
@click.option("--seed", type=int, help="Replaces the config's random_seed.")
@click.option("--epochs", type=int, help="Replaces the config's epochs.")
@click.option("--device", help="cpu or cuda; default: the config's, else a GPU if there is one.")
@click.option(
    "--init-from", help="Checkpoint (file, run folder or bundled name) whose weights to start from."
)
@click.option("--nproc", type=click.IntRange(min=1), help="Processes to share each batch; default: 1.")
@click.option("--resume", is_flag=True, help="Continue from the newest state in the output folder.")
@click.option("--overwrite", is_flag=True, help="Replace a model that exists in the output folder.")
def command(config, out, seed, epochs, device, init_from, nproc, resume, overwrite) -> int:
    """Train a model from a config file.

    Writes model.safetensors (the weights that did best on the validation split), metrics.csv,
    learning-curve.png, run.json and state/ to the output folder. Under torchrun or a SLURM step of several
    tasks the processes share each batch, as they do with --nproc.

    Example: nff train calculators/mlearn-si/config.py --out runs/si
    """
    given = {
        "output_dir": out,
        "random_seed": seed,
        "epochs": epochs,
        "device": device,
        "init_from": init_from,
    }
    overrides = {name: value for name, value in given.items() if value is not None}
    arguments = {"config": config, "overrides": overrides, "resume": resume, "overwrite": overwrite}
    arguments["command"] = shlex.join(["nff", *click.get_current_context().obj])
    return launch(run, arguments, nproc)


def run(config: Path, overrides: dict, resume: bool, overwrite: bool, command: str | None = None) -> int:
    """What each process does; only the first one speaks."""
    from ..train.config import load_config
    from ..train.distributed import is_first
    from ..train.run import make_objective
    from ..train.trainer import train

    settings = load_config(config, overrides)
    say = click.echo if is_first() else lambda text: None
    sizes = {name: len(indices) for name, indices in settings.dataset.split.items()}
    say(
        f"{sizes['train']} training, {sizes['val']} validation structures; "
        f"{sum(p.numel() for p in settings.model.parameters())} parameters; output in {settings.output_dir}"
    )
    columns = make_objective(settings).columns
    with training_bar("train", settings.progress and is_first()) as update:

        def on_step(now: dict) -> None:
            update(now["step"], now["total"], f"loss {now['loss']:.4g}")

        def on_validation(row: dict[str, float]) -> None:
            say(line(row, columns))

        path = train(
            settings,
            resume=resume,
            overwrite=overwrite,
            command=command,
            on_step=on_step,
            on_validation=on_validation,
        )
    say(f"wrote {path}")
    return 0


def line(row: dict[str, float], columns: Sequence) -> str:
    """One line per validation, in the units of the tables people publish."""
    told = {
        c.title.removesuffix(" MAE"): (row[f"val/{c.key}"] * c.factor, c.unit) for c in columns if c.panel
    }
    numbers = [f"{title} {value:.4g} {unit}".rstrip() for title, (value, unit) in told.items()]
    start = f"epoch {row['epoch']:4d}  loss {row['train/loss']:9.4g}  val {row['val/loss']:9.4g}"
    return "  ".join([start, *numbers])
