"""Train a model from a config file."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..reports.run_record import Column
    from ..train.config import TrainingConfig
    from ..validation.suite import Report

from ..jobs.opening import set_threads
from ..workflows.framework.progress_bar import Update, steady, training_bar
from .options import FILE, FOLDER, POTENTIAL, Whole, shared
from .output import command_line

TOPIC = "Make a potential"
PLACE = 3
EXAMPLES = ("nff train calculators/mlearn-si/config.py --out runs/si",)


def print_schema(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Print the JSON schema of YAML configs and end."""
    if not value or context.resilient_parsing:
        return
    from ..train.config import TrainingConfig
    from ..train.config_files import json_schema

    click.echo(json.dumps(json_schema(TrainingConfig), indent=2, sort_keys=True, ensure_ascii=False))
    context.exit()


@click.command("train")
@click.argument("config", type=FILE)
@click.option("--out", "-o", type=FOLDER, help="Folder for the results; default: the config's.")
@click.option("--seed", type=Whole(), help="Seed of weights and batches; default: the config's random_seed.")
@click.option("--epochs", type=Whole(), help="Passes over the training data; default: the config's epochs.")
@click.option(
    "--device", metavar="DEVICE", help="cpu or cuda; default: the config's, else a GPU if there is one."
)
@click.option(
    "--init-from",
    type=POTENTIAL,
    help="File, run folder or bundled name whose weights to start from; default: random.",
)
@click.option("--compile/--no-compile", default=None, help="Compile the step; default: the config's choice.")
@click.option("--nproc", type=Whole(1), help="Processes to share each batch; default: 1.")
@click.option("--resume", is_flag=True, help="Continue from the newest state in the output folder.")
@click.option("--overwrite", is_flag=True, help="Replace a model that exists in the output folder.")
@click.option(
    "--schema",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=print_schema,
    help="Print the JSON schema of YAML configs, and end.",
)
@shared("threads")
def command(config, out, seed, nproc, resume, overwrite, **options) -> int:
    """Train a model from a config file.

    CONFIG is Python that defines the settings, or YAML that names them; nff init writes both.
    Writes model.safetensors (the weights that did best on the validation split), metrics.csv,
    learning-curve.png, run.json and state/ to the output folder. Under torchrun or a SLURM step of several
    tasks the processes share each batch, as they do with --nproc.
    """
    from ..train.distributed import launch

    options |= {"output_dir": out, "random_seed": seed}
    overrides = {name: value for name, value in options.items() if value is not None}
    arguments = {"config": config, "overrides": overrides, "resume": resume, "overwrite": overwrite}
    return launch(run, {**arguments, "command": command_line()}, nproc)


def run(config: Path, overrides: dict, resume: bool, overwrite: bool, command: str | None = None) -> int:
    """Train in one of several processes, of which only the first one prints."""
    from ..train.config import load_config
    from ..train.distributed import is_first
    from ..train.trainer import train

    settings = load_config(config, overrides)
    # Not click.echo, which writes past the bar instead of above it.
    say = partial(print, flush=True) if is_first() else lambda text: None
    out = _near(Path(settings.output_dir))
    sizes = {name: len(indices) for name, indices in settings.dataset.split.items()}
    say(
        f"{sizes['train']} training, {sizes['val']} validation structures; "
        f"{sum(p.numel() for p in settings.model.parameters())} parameters; output in {out}"
    )
    # Threads do not make the small operations of a step faster. Their number is not measured, since rounding
    # depends on it, and a resumed run has to equal the uninterrupted one to the last bit.
    say(set_threads(overrides.get("threads"), configured=settings.threads))
    watched = settings.progress and sys.stderr.isatty()
    with training_bar("train", watched and is_first()) as update:
        display = Display(settings, update, say, watched)
        path = train(
            settings,
            resume=resume,
            overwrite=overwrite,
            command=command,
            on_stage=display.on_stage,
            on_step=display.on_step,
            on_validation=display.on_validation,
            on_task=display.on_task,
            on_report=lambda report: say(tasks_lines(report)),
        )
    say(f"wrote {_near(path)}")
    say(next_steps(settings, path.parent))
    return 0


class Display:
    """Shows a training: steps in a bar, validations in lines, and stages in lines where there is no bar."""

    def __init__(self, settings: TrainingConfig, update: Update, say: Callable[[str], None], watched: bool):
        from ..train.objective import Objective
        from ..train.run import selectors

        self.update, self.say, self.watched = update, say, watched
        self.columns, self.metrics = Objective(settings).columns, selectors(settings)
        self.step, self.total, self.latest = 0, None, ""  # the last: values of the metrics that select

    def on_stage(self, text: str) -> None:
        self.update(0, None, text)
        if not self.watched:
            self.say(text)

    def on_step(self, step: dict) -> None:
        self.step, self.total = step["step"], step["total"]
        self.update(self.step, self.total, f"loss {steady(step['loss'])}{self.latest}")

    def on_task(self, name: str) -> None:
        self.update(self.step, self.total, f"task {name}{self.latest}")

    def on_validation(self, row: dict[str, float]) -> None:
        self.say(line(row, self.columns))
        if self.metrics.keys() <= row.keys():
            self.latest = "".join(f"  {short(name)} {steady(row[name])}" for name in self.metrics)


def next_steps(settings: TrainingConfig, out: Path) -> str:
    """Commands to use a run with; words in capitals stand for files."""
    folder = shlex.quote(str(_near(out)))
    source = settings.dataset.origin["test_source"]
    data = shlex.quote(str(_near(Path(source)))) if isinstance(source, str | Path) else "DATA"
    commands = [f"nff report {folder}", f"nff evaluate {data} --model {folder}"]
    if settings.model.is_potential:
        commands.append(f"nff relax STRUCTURE --model {folder}")
    return "next: " + "\n      ".join(commands)


def _near(path: Path) -> Path:
    """The path relative to this folder, if it lies below."""
    folder = Path.cwd()
    return path.relative_to(folder) if path.is_absolute() and path.is_relative_to(folder) else path


def line(row: dict[str, float], columns: Sequence[Column]) -> str:
    """A line about a validation: errors of the labels in the units of published tables."""
    values = [(c, row[f"val/{c.key}"] * c.factor) for c in columns if c.panel]
    numbers = [
        f"{c.title.removesuffix(' MAE')} {steady(value)} {c.unit}".rstrip()
        for c, value in values
        if not math.isnan(value)
    ]
    start = f"epoch {row['epoch']:3d} loss {row['train/loss']:<6.3g} val {row['val/loss']:<6.3g}"
    return "  ".join([start, *numbers])


def short(metric: str) -> str:
    """``val`` of ``val/loss``, ``val forces_mae`` of ``val/forces_mae``."""
    return metric.removesuffix("/loss").replace("/", " ", 1)


def tasks_lines(report: Report) -> str:
    """One line per validation task: its scores, or why there are none."""
    lines = []
    for outcome in report.outcomes:
        texts = [f"{name} {outcome.scores[name]:.4g} {unit}".rstrip() for name, unit in outcome.units.items()]
        if outcome.status != "scored":
            texts = [f"{outcome.status}: {outcome.message}"]
        lines.append("  ".join([f"  task {outcome.task.name:12}", *texts]))
    return "\n".join(lines)
