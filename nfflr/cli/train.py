"""Train a potential from a config file."""

from __future__ import annotations

from pathlib import Path

import click

from .progress import training_bar


@click.command("train")
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), help="Folder for the results; default: the config's."
)
@click.option("--seed", type=int, help="Replaces the config's random_seed.")
@click.option("--epochs", type=int, help="Replaces the config's epochs.")
@click.option("--resume", is_flag=True, help="Continue from the newest state in the output folder.")
@click.option("--overwrite", is_flag=True, help="Replace a model that exists in the output folder.")
def command(config, out, seed, epochs, resume, overwrite) -> int:
    """Train a potential from a config file.

    Writes model.safetensors (the weights that did best on the validation split), metrics.csv,
    learning-curve.png and state/ to the output folder.

    Example: nff train calculators/mlearn-si/config.py --out runs/si
    """
    from ..train.config import load_config
    from ..train.trainer import train

    given = {"output_dir": out, "random_seed": seed, "epochs": epochs}
    settings = load_config(config, {name: value for name, value in given.items() if value is not None})
    sizes = {name: len(indices) for name, indices in settings.dataset.split.items()}
    click.echo(
        f"{sizes['train']} training, {sizes['val']} validation structures; "
        f"{sum(p.numel() for p in settings.model.parameters())} parameters; output in {settings.output_dir}"
    )
    with training_bar("train", settings.progress) as update:

        def on_step(now: dict) -> None:
            update(now["step"], now["total"], f"loss {now['loss']:.4g}")

        path = train(settings, resume=resume, overwrite=overwrite, on_step=on_step, on_validation=show)
    click.echo(f"wrote {path}")
    return 0


def show(row: dict[str, float]) -> None:
    """One line per validation, in the units of the tables people publish."""
    from ..units import GPA

    click.echo(
        f"epoch {row['epoch']:4d}  loss {row['train/loss']:9.4f}  val {row['val/loss']:9.4f}  "
        f"E {row['val/energy_mae'] * 1e3:7.2f} meV/atom  F {row['val/forces_mae'] * 1e3:7.2f} meV/Å  "
        f"σ {row['val/stress_mae'] / GPA:6.3f} GPa"
    )
