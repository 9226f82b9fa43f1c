"""Commands made from workflows: arguments and options from the signature, one job per structure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import click

from ..jobs.plan import Listener, Outcome, Plan
from ..structures.writers import FORMATS
from ..workflows.framework.contract import Workflow, find_workflow
from ..workflows.framework.interface import Progress
from ..workflows.framework.progress_bar import step_bar, training_bar
from ..workflows.framework.results import describe, file_fields
from .options import FILE, Choice, SettingsCommand, Whole, read_settings, settings_options, shared_option
from .output import command_line, fail, say_written

MODEL_HELP = (
    "Bundled name, run folder, checkpoint, or another package's: chgnet, mace:FILE, ase:MODULE:CLASS, …; "
    "'a + b' adds potentials, of which one may be lennard-jones:FILE.yaml, and 'a,b' is a committee; "
    "default: a bundled one that fits, else an installed universal one. Given again: further models to "
    "compare the first with."
)
COMPARE = click.Option(
    ["--compare"],
    type=FILE,
    multiple=True,
    help="JSON of an earlier result, or a folder of them, to draw in the plot too; may be repeated.",
)
FORMAT = click.Option(
    ["--format"],
    type=Choice(list(FORMATS)),
    help="Format of structures that are written; default: the input's, or extended XYZ where that cannot "
    "hold what a structure carries.",
)
JOBS = click.Option(
    ["--jobs", "-j"],
    type=Whole(1),
    default=1,
    show_default=True,
    help="Structures done at a time, each by a process of its own with one thread.",
)
CLUSTER = click.Option(
    ["--cluster"],
    type=FILE,
    help="Python file with a parsl.Config, 'config', whose workers do the structures (default: none).",
)
BATCH = click.Option(
    ["--batch"],
    is_flag=True,
    help="Relax together on one device through torch-sim; of the trajectory the ends are kept.",
)


def workflow_command(name: str) -> click.Command:
    """The command of the workflow ``name``."""
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
            *(click.Argument([a], type=FILE, nargs=-1 if several else 1, required=True) for a in arguments),
            *settings_options(workflow.settings),
            *_shared_options(workflow, several),
        ],
        help=text,
        short_help=workflow.summary,
    )


def _shared_options(workflow: Workflow, several: bool) -> list[click.Parameter]:
    writes_structures = "structure" in file_fields(workflow.result).values()
    return [
        shared_option("model", multiple=True, required=False, help=MODEL_HELP),
        *([COMPARE] if workflow.overlays else []),
        *map(shared_option, ("device", "dtype", "compile", "threads", "trust", "out")),
        *([FORMAT] if writes_structures else []),
        *map(shared_option, ("config", "overwrite")),
        *([shared_option("resume")] if workflow.archives or several else []),
        *([JOBS, CLUSTER] if several else []),
        *([BATCH] if workflow.name == "relax" else []),
    ]


def run_workflow(workflow: Workflow, values: dict[str, Any]) -> int:
    """Run a workflow on every structure named; returns the largest exit code (5: not converged)."""
    from ..jobs.many import run_many

    pair = len(workflow.structures) == 2
    structures = [tuple(map(values.pop, workflow.structures))] if pair else values.pop("structure")
    settings = {name: values.pop(name) for name in workflow.settings.model_fields}
    outcomes = run_many(
        workflow.name,
        structures,
        values.pop("model") or None,
        read_settings(workflow.settings, values.pop("config"), settings),
        listener=Printer(click.get_current_context().find_root().params["debug"]),
        command=command_line(),
        **values,
    )
    return max(outcome.exit_code for outcome in outcomes)


class Printer(Listener):
    """Prints the reports of ``run_many``."""

    def __init__(self, debug: bool):
        self.debug, self.several = debug, False

    def begin(self, plan: Plan) -> None:
        self.several = plan.count > 1

    def say(self, line: str) -> None:
        click.echo(line)

    def steps(self, title: str) -> AbstractContextManager[Progress]:
        return step_bar(title)

    def counts(self, title: str) -> AbstractContextManager[Callable[[int, int | None, str], None]]:
        return training_bar(title)

    def finished(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            if self.several and outcome.model:
                click.echo(f"{outcome.item} with {outcome.model}:")
            if outcome.result is not None:
                click.echo(describe(outcome.result))
            if self.debug and outcome.traceback:
                click.echo(outcome.traceback, nl=False, err=True)
            if outcome.exit_code:
                item = "" if outcome.result is None else f"{outcome.item}: "
                fail(item + outcome.message, outcome.exit_code)
        for outcome in outcomes:
            say_written(outcome.files.values())
