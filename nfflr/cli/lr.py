"""Find a learning rate for a config file."""

from __future__ import annotations

import shlex

import click

from ..jobs.opening import set_threads
from ..storage.files import all_or_none, claim_folder, write_atomically, write_figure
from ..workflows.framework.progress_bar import steady, training_bar
from ..workflows.framework.result_files import refuse_existing
from .options import FILE, Number, Whole, shared
from .output import say_written

TOPIC = "Make a potential"
PLACE = 2
EXAMPLES = ("nff lr calculators/mlearn-si/config.py --write",)


@click.command("lr")
@click.argument("config", type=FILE)
@shared("out")
@click.option(
    "--start", type=Number(), default=1e-5, show_default=True, help="Learning rate of the first step."
)
@click.option("--end", type=Number(), default=1.0, show_default=True, help="Learning rate of the last step.")
@click.option("--steps", type=Whole(), default=200, show_default=True, help="Training steps between them.")
@click.option("--seed", type=Whole(), help="Seed of weights and batches; default: the config's random_seed.")
@click.option("--write", is_flag=True, help="Write a copy of the config with the suggestion in it.")
@shared("overwrite", "threads")
def command(config, out, start, end, steps, seed, write, overwrite, threads) -> int:
    """Find a learning rate for a config file.

    Raises the rate exponentially until the loss diverges (ignite's FastaiLRFinder), prints a tenth of the
    rate at which the smoothed loss is lowest, as fastai does, and writes <config>-lr.csv, <config>-lr.png
    and, with --write, a copy named <config>-lr beside the config, whose relative paths stay right. It tells
    the order of magnitude: train with it and with a third of it, and compare validation errors.
    """
    from ..train.config import load_config
    from ..train.learning_rate_finder import as_csv, copy_with_rate, find_learning_rate, plot

    paths = {kind: out / f"{config.stem}-lr.{kind}" for kind in ("csv", "png")}
    if write:
        paths["config"] = config.with_name(f"{config.stem}-lr{config.suffix}")
    refuse_existing(paths.values(), overwrite)
    settings = load_config(config, {} if seed is None else {"random_seed": seed})
    claim_folder(out)
    click.echo(set_threads(threads, configured=settings.threads))
    with training_bar("lr", settings.progress) as update:

        def on_step(now: dict) -> None:
            update(now["step"], now["total"], f"loss {steady(now['loss'])}")

        search = find_learning_rate(settings, start, end, steps, on_step)
    with all_or_none(paths.values()):
        if write:
            copy_with_rate(config, search.suggestion, paths["config"])
        write_atomically(paths["csv"], as_csv(search).encode())
        write_figure(paths["png"], plot(search))
    click.echo(f"suggested learning_rate = {search.suggestion:.3g}")
    say_written(paths.values())
    if write:
        click.echo(f"next: nff train {shlex.quote(str(paths['config']))}")
    return 0
