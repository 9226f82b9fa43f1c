"""What a worker process does for a command: jobs one at a time, with models that it keeps."""

from __future__ import annotations

import functools
import io
import os
import pickle
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import click
from pydantic import BaseModel

from ..workflows.framework.contract import find_workflow
from .job_run import Job, Run
from .printed_notes import printed_notes
from .threads import VARIABLE


@dataclass(frozen=True)
class Assignment:
    """A command as a worker needs it, which may be another machine that shares the file system."""

    workflow: str
    settings: BaseModel
    jobs: tuple[Job, ...]
    options: dict  # what else ``Run`` takes
    command: tuple[str, ...]
    folder: Path  # to which paths are relative
    debug: bool


@dataclass(frozen=True)
class Report:
    """What came of a job: its exit code, its rows of the table, and all that it printed."""

    exit_code: int
    rows: list
    stdout: str
    stderr: str


def pack(assignment: Assignment) -> bytes:
    """As bytes, by which a worker knows that it has met the assignment before."""
    return pickle.dumps(assignment)


def work(packed: bytes, number: int) -> Report:
    """Do the job of this number in this process, with one thread of torch."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), printed_notes():
        assignment, run = _begin(packed)
        with click.Context(click.Command("nff"), obj=assignment.command):
            code = run.attempt(run.jobs[number], assignment.debug)
    return Report(code, run.table.rows.pop(number), out.getvalue(), err.getvalue())


@functools.lru_cache(maxsize=1)
def _begin(packed: bytes) -> tuple[Assignment, Run]:
    import torch

    os.environ["MPLBACKEND"] = "agg"  # another machine has its own environment; see main
    torch.set_num_threads(1)  # the process is ours alone, and one of many
    os.environ[VARIABLE] = "1"  # so it stays
    assignment: Assignment = pickle.loads(packed)
    os.chdir(assignment.folder)
    with redirect_stdout(io.StringIO()):  # the parent has said which models
        run = Run(
            find_workflow(assignment.workflow),
            assignment.settings,
            list(assignment.jobs),
            **assignment.options,
        )
    run.models.say = lambda text: None  # the same for every job
    return assignment, run
