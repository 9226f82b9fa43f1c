"""Make a fast potential from a few structures and a slow calculator."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import ConfigError, NFFLrError, StoppedError
from ..storage.files import claim_folder
from .options import THREADS, read_settings, with_settings
from .output import provenance
from .progress import training_bar
from .structure_files import find_structures, result_stems
from .threads import set_threads

TOPIC = "Make a potential"
PLACE = 5
EXAMPLES = ("nff distill MgO.cif --teacher chgnet --budget 200",)

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

    from ..learn.distill_settings import DistillSettings

RESULT, PLAN = "distill.json", "plan.json"


@click.command("distill", cls=with_settings("..learn.distill_settings", "DistillSettings"))
@click.argument("structures", nargs=-1, required=True)
@click.option(
    "--teacher",
    "-t",
    required=True,
    help="chgnet, a checkpoint, or any ASE calculator: ase:module:Class:{json}.",
)
@click.option("--out", "-o", type=click.Path(path_type=Path), help="Folder; default: <structure>-distilled.")
@click.option(
    "--device", default="cpu", show_default=True, help="Where the teacher computes: cpu, cuda or cuda:N."
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="YAML file of settings (default: none).",
)
@click.option("--trust", is_flag=True, help="Read the teacher's file though it may run code.")
@click.option("--resume", is_flag=True, help="Continue the run that was interrupted in the folder.")
@click.option("--threads", **THREADS)
def command(structures, teacher, out, device, config, trust, resume, **values) -> int:
    """Make a fast potential for a material from a few structures and a slow calculator.

    Strained, rattled, MD and relaxation frames are labelled by the teacher; a committee of potentials chooses
    them by what it does not know. Writes to the folder model.safetensors, config.py, card.yaml, data.xyz (all
    labels), test.xyz, suite/ (for nff validate), distill.png and distill.json. Exits with 5 if the budget is
    spent before the limits hold; the files are written all the same.
    """
    from ..learn.distill_settings import DistillSettings
    from ..learn.loop import plan_of
    from ..potentials import open_calculator
    from ..storage.lock import locked
    from ..structures.readers import read_structure

    settings = read_settings(DistillSettings, config, values)
    assert isinstance(settings, DistillSettings)
    paths = find_structures(structures)
    cells = {name: read_structure(path) for name, path in zip(result_stems(paths), paths, strict=True)}
    out = out or Path(f"{next(iter(cells))}-distilled")
    if (out / RESULT).exists():
        raise ConfigError(f"{out / RESULT}: exists, this distillation is done; use another --out")
    calculator = open_calculator(teacher, device=device, trust=trust)
    click.echo(set_threads())
    claim_folder(out)
    with locked(out):
        plan_of(teacher, cells, settings).claim(out / PLAN, resume)
        return run(out, cells, calculator, settings, teacher)


def run(
    out: Path, cells: dict[str, Atoms], calculator: Calculator, settings: DistillSettings, teacher: str
) -> int:
    """Distil in a folder that is held, tell, and return the exit code."""
    from ..learn.loop import Distillation
    from ..learn.student_report import write_data, write_results

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
    """What came out, in three lines."""
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
            f"{speed['student_ms']:.3g} ms ({_told(speed['student_speed_up'])}), compiled "
            f"{speed['student_compiled_ms']:.3g} ms ({_told(speed['student_compiled_speed_up'])})"
        )
    return "\n".join(lines if record["good"] else [*lines, "the limits do not hold; raise --budget"])


def _told(speed_up: float) -> str:
    """A ratio in two digits, and in words where it is no gain."""
    text = f"{speed_up:.0f}" if speed_up >= 10 else f"{speed_up:.2g}"
    return f"{text} ×" if speed_up >= 1 else f"{text} × as fast"
