"""Make a fast potential from a few structures and a slow calculator."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import ConfigError, NFFLrError, StoppedError
from ..jobs.opening import set_threads
from ..jobs.plan import find_structures, result_stems
from ..learn import DistillSettings
from ..storage.files import claim_folder
from ..workflows.framework.progress_bar import training_bar
from .options import FILE, FOLDER, SettingsCommand, read_settings, settings_options, shared
from .output import provenance

TOPIC = "Make a potential"
PLACE = 5
EXAMPLES = ("nff distill MgO.cif --model chgnet --budget 200",)

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

RESULT, PLAN = "distill.json", "plan.json"


@click.command("distill", cls=SettingsCommand)
@click.argument("structures", type=FILE, nargs=-1, required=True)
@shared("model", help="The slow calculator: chgnet, a checkpoint, or any of ASE: ase:module:Class:{json}.")
@click.option("--out", "-o", type=FOLDER, help="Folder; default: <structure>-distilled.")
@shared("device", "config", "trust", "resume", "threads")
def command(structures, model, out, device, config, trust, resume, threads, **values) -> int:
    """Make a fast potential for a material from a few structures and a slow calculator.

    Strained, rattled, MD and relaxation frames are labelled by the slow calculator; a committee of potentials
    chooses them by what it does not know. Writes to the folder model.safetensors, config.py, card.yaml,
    data.xyz (all labels), test.xyz, suite/ (for nff validate), distill.png and distill.json. Exits with 5 if
    the budget is spent before the limits hold; the files are written all the same.
    """
    from ..learn.loop import plan_of
    from ..potentials import open_calculator
    from ..storage.files import locked
    from ..structures.readers import read_structure

    settings = read_settings(DistillSettings, config, values)
    paths = find_structures(structures)
    cells = {name: read_structure(path) for name, path in zip(result_stems(paths), paths, strict=True)}
    out = out or Path(f"{next(iter(cells))}-distilled")
    if (out / RESULT).exists():
        raise ConfigError(f"{out / RESULT}: exists, this distillation is done; use another --out")
    calculator = open_calculator(model, device=device, trust=trust)
    click.echo(set_threads(threads))
    claim_folder(out)
    with locked(out):
        plan_of(model, cells, settings).claim(out / PLAN, resume)
        return run(out, cells, calculator, settings, model)


def run(
    out: Path, cells: dict[str, Atoms], calculator: Calculator, settings: DistillSettings, teacher: str
) -> int:
    """Distil in a locked folder, print the results, and return the exit code."""
    from ..learn.distillation_files import write_data, write_results
    from ..learn.loop import Distillation

    say = partial(print, flush=True)  # not click.echo, which writes past the bar instead of above it
    with training_bar("calls") as update:
        work = Distillation(out, cells, calculator, settings, say, update)
        try:
            final = work.run()
            more = provenance()
            record = write_results(work, final, teacher, more.pop("command"), more)
        except (KeyboardInterrupt, NFFLrError) as error:
            write_data(work)
            if not isinstance(error, KeyboardInterrupt):
                raise
            text = f"{out}: interrupted after {len(work.labels)} calls; continue with --resume"
            raise StoppedError(text, getattr(error, "signum", signal.SIGINT)) from error
        finally:
            work.labels.close()
    say(summary(record))
    say(f"wrote {out}: NFFLrCalculator.load({str(out)!r})")
    return 0 if record["good"] else 5


def summary(record: dict) -> str:
    """Calls, errors and speed in three lines."""
    settings, suite, speed = record["settings"], record["final"]["suite"], record["speed"]
    lines = [
        f"{record['calls']} calls of {record['teacher']} in {record['wall_time_s']:.0f} s; force error "
        f"{record['force_error_percent']:.2f} % (limit {settings['force_limit']:g} %)"
    ]
    for name in [n for n in suite if n.endswith("frequency_max")]:
        mean = suite[name.replace("_max", "_mae")]
        lines.append(
            f"{name.split('/')[0]}: mean difference {mean:.3g} (limit {settings['phonon_limit']:g}), "
            f"largest {suite[name]:.3g} THz"
        )
    if speed["teacher_ms"] and speed["student_ms"]:
        lines.append(
            f"{speed['atoms']} atoms: teacher {speed['teacher_ms']:.4g} ms, potential "
            f"{speed['student_ms']:.3g} ms ({speed_text(speed['student_speed_up'])}), compiled "
            f"{speed['student_compiled_ms']:.3g} ms ({speed_text(speed['student_compiled_speed_up'])})"
        )
    return "\n".join(lines if record["good"] else [*lines, "the limits do not hold; raise --budget"])


def speed_text(speed_up: float) -> str:
    """A ratio in two digits, and in words where it is no gain."""
    text = f"{speed_up:.0f}" if speed_up >= 10 else f"{speed_up:.2g}"
    return f"{text} ×" if speed_up >= 1 else f"{text} × as fast"


command.params += settings_options(DistillSettings)
