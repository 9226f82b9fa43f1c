"""Commands made from workflows: arguments and options from the signature, one job per structure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import ConfigError
from ..workflows.framework.contract import Workflow, file_fields, find_workflow
from .dress import complete_model
from .options import COMPILE, OUT, THREADS, TRUST, SettingsCommand, read_settings, settings_options
from .resume import OPTION as RESUME

if TYPE_CHECKING:  # help and completion need none of what computes
    from .job_run import Job

SHARED = ("model", "compare", "device", "dtype", "compile", "trust", "out", "overwrite", "resume", "format")
SPREAD = [
    click.Option(
        ["--jobs", "-j"],
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Structures done at a time, each by a process of its own with one thread.",
    ),
    click.Option(
        ["--cluster"],
        type=click.Path(path_type=Path),
        help="Python file with a parsl.Config, 'config', whose workers do the structures (default: none).",
    ),
]
BATCHED = {"relax": "Relax together on one device through torch-sim; of the trajectory the ends are kept."}


def workflow_command(name: str) -> click.Command:
    """The command of ``nfflr/workflows/<name>.py``."""
    workflow = find_workflow(name)
    several = len(workflow.structures) == 1
    arguments = ["structure"] if several else workflow.structures
    text = workflow.summary
    if several:
        text += (
            "\n\nTakes files, folders and patterns; of more than one structure a table is written too. "
            "One that fails does not stop the others; the exit code is 0 if all is well, or else the largest "
            "code of a failure."
        )
    return SettingsCommand(
        name,
        callback=lambda **values: run_workflow(workflow, values),
        params=[
            *(click.Argument([a], nargs=-1 if several else 1, required=True) for a in arguments),
            *settings_options(workflow.settings),
            *_shared_options(workflow, several),
        ],
        help=text,
        short_help=workflow.summary,
    )


def _shared_options(workflow: Workflow, several: bool) -> list[click.Parameter]:
    path, name = click.Path(path_type=Path), workflow.name
    compare = click.Option(
        ["--compare"],
        type=path,
        multiple=True,
        help="JSON of an earlier result, or a folder of them, to draw in the plot too; may be repeated.",
    )
    return [
        click.Option(
            ["--model", "-m"],
            multiple=True,
            shell_complete=complete_model,
            help="Bundled name, run folder, checkpoint, or another package's: chgnet, mace:FILE, "
            "ase:MODULE:CLASS, …; 'a + b' adds potentials, of which one may be lennard_jones:FILE.yaml, and "
            "'a,b' is a committee; default: a bundled one that fits, else an installed universal one. "
            "Given again: further models to compare the first with.",
        ),
        *([compare] if workflow.overlays else []),
        click.Option(
            ["--device"],
            default="cpu",
            show_default=True,
            help="Where to compute: cpu, cuda or cuda:N.",
        ),
        click.Option(
            ["--dtype"], type=click.Choice(["float32", "float64"]), help="Precision; default: the model's."
        ),
        click.Option(["--compile/--no-compile"], **COMPILE),
        click.Option(["--threads"], **THREADS),
        click.Option(["--trust"], **TRUST),
        click.Option(["--out", "-o"], **OUT),
        *([_format_option()] if "structure" in file_fields(workflow.result).values() else []),
        click.Option(
            ["--config"], type=path, help="YAML file of settings (default: none); options given here win."
        ),
        click.Option(["--overwrite"], is_flag=True, help="Replace results that exist."),
        *([RESUME] if workflow.archives or several else []),
        *(SPREAD if several else []),
        *([click.Option(["--batch"], is_flag=True, help=BATCHED[name])] if name in BATCHED else []),
    ]


def _format_option() -> click.Option:
    from ..structures.writers import FORMATS

    return click.Option(
        ["--format"],
        type=click.Choice(list(FORMATS)),
        help="Format of structures that are written; default: the input's, or extended XYZ where that cannot "
        "hold what a structure carries.",
    )


def run_workflow(workflow: Workflow, values: dict) -> int:
    """Run a workflow on every structure named; returns the largest exit code (5: not converged)."""
    from .batched import all_together
    from .job_run import Run
    from .output import refuse_existing
    from .pool import open_workers
    from .spreading import one_by_one, side_by_side
    from .worker import Assignment

    shared = {key: values.pop(key, ()) for key in SHARED}
    cluster, number, batch = values.pop("cluster", None), values.pop("jobs", 1), values.pop("batch", False)
    config, jobs = values.pop("config"), _jobs(workflow, values)
    run = Run(workflow, read_settings(workflow.settings, config, values), jobs, **shared)
    if run.several:
        refuse_existing([run.table.path], run.overwrite or run.resume)
    context = click.get_current_context()
    debug = context.find_root().params["debug"]
    if batch:
        if cluster is not None or number > 1:
            raise ConfigError("--batch: is done by one process; leave --jobs and --cluster out")
        return all_together(run, debug)
    if len(jobs) == 1 or (cluster is None and number == 1):
        return one_by_one(run, debug)
    assignment = Assignment(
        workflow.name, run.settings, tuple(jobs), shared, tuple(context.obj), Path.cwd(), debug
    )
    return side_by_side(run, assignment, open_workers(cluster, min(number, len(jobs))))


def _jobs(workflow: Workflow, values: dict) -> list[Job]:
    from .job_run import Job
    from .structure_files import find_structures, result_stems

    if len(workflow.structures) > 1:
        paths = tuple(Path(values.pop(name)) for name in workflow.structures)
        return [Job(paths, result_stems(paths)[0])]
    found = find_structures(values.pop("structure"))
    return [Job((path,), stem) for path, stem in zip(found, result_stems(found), strict=True)]
