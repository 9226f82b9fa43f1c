"""The jobs of one command, done one after another here or spread over workers."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import Executor, as_completed
from contextlib import contextmanager

import click

from ..errors import StoppedError
from .failure import fail
from .job_run import Run
from .progress import training_bar
from .worker import Assignment, Report, pack, work

LOST = "worker: died (killed, or out of memory)"


def one_by_one(run: Run, debug: bool) -> int:
    """Do every job here; returns the largest exit code."""
    codes = []
    for job in run.jobs:
        codes.append(run.attempt(job, debug))
        run.save_table()
    return max(codes)


def side_by_side(run: Run, assignment: Assignment, workers: Executor) -> int:
    """Do every job in some worker, print what it printed when it is done; returns the largest exit code.

    A job whose worker dies is a failure like others, exit code 6.

    Raises:
        StoppedError: an interrupt came; the workers are stopped.
    """
    packed, total = pack(assignment), len(run.jobs)
    codes: list[int] = []
    with resumable(run, codes), _ending(workers), training_bar(run.workflow.name) as update:
        futures = {workers.submit(work, packed, number): number for number in range(total)}
        update(0, total, "")
        for future in as_completed(futures):
            number = futures.pop(future)
            error = future.exception()  # of the engine, since jobs report theirs; each has classes of its own
            codes.append(_lost(run, number, error) if error else _take(run, number, future.result()))
            run.save_table()
            update(len(codes), total, f"{sum(map(bool, codes))} failed")
    return max(codes)


@contextmanager
def resumable(run: Run, codes: list[int]) -> Iterator[None]:
    """Say how to go on if an interrupt comes.

    Raises:
        StoppedError: it came.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        text = f"interrupted, {len(codes)} of {len(run.jobs)} are done; continue with --resume"
        raise StoppedError(text, getattr(error, "signum", signal.SIGINT)) from error


@contextmanager
def _ending(workers: Executor) -> Iterator[None]:
    """End the workers; at once if something comes between."""
    try:
        yield
    except BaseException:
        workers.shutdown(cancel_futures=True)
        raise
    workers.shutdown()


def _take(run: Run, number: int, report: Report) -> int:
    """Print what a job printed, as one block, and keep its rows."""
    click.echo(report.stdout, nl=False)
    click.echo(report.stderr, nl=False, err=True)
    run.table.rows[number] = report.rows
    return report.exit_code


def _lost(run: Run, number: int, error: BaseException) -> int:
    """Say of a job that its worker is no more."""
    job = run.jobs[number]
    reason = LOST if "terminated abruptly" in str(error) else f"worker: {type(error).__name__}: {error}"
    message = f"{job.name}: {reason}; do what is missing with --resume"
    run.record(job, 6, message)
    return fail(message, 6, debug=False)
