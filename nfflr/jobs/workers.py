"""Worker processes that share the jobs of a run, on this machine or on a cluster."""

from __future__ import annotations

import functools
import io
import logging
import multiprocessing
import os
import pickle
import runpy
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from logging.handlers import BufferingHandler
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ..errors import ConfigError, ResourceError
from ..notes import LOGGER, note
from .job_run import Run
from .opening import VARIABLE
from .plan import Listener, Outcome, Plan


class Workers(ThreadPoolExecutor):
    """Worker processes on this machine; one that dies is replaced, and only its call fails.

    A pool of the standard library breaks as a whole with any of its processes, and does not name the call.
    So each thread here has a pool of one process. They end with this process, however it ends.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self._own = threading.local()  # of each thread, its pool
        self._lines: list[Connection] | None = []  # to the processes; None after the end

    def submit(self, function: Callable, /, *args: Any, **kwargs: Any) -> Future:
        """Call a function in one of the processes."""
        return super().submit(self._call, function, args, kwargs)

    def _call(self, function: Callable, args: tuple, kwargs: dict) -> Any:
        pool = self._own.pool = getattr(self._own, "pool", None) or self._start()
        try:
            return pool.submit(function, *args, **kwargs).result()
        except BrokenProcessPool:
            pool.shutdown()
            self._own.pool = None
            raise

    def _start(self) -> ProcessPoolExecutor:
        if self._lines is None:
            raise BrokenProcessPool("the worker was stopped")
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        reader, writer = context.Pipe(duplex=False)
        self._lines.append(writer)
        return ProcessPoolExecutor(1, context, _prepare_process, (reader,))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers; with ``cancel_futures`` at once, in the middle of a call."""
        super().shutdown(wait=not cancel_futures, cancel_futures=cancel_futures)
        lines, self._lines = self._lines or [], None
        for line in lines:
            line.close()
        super().shutdown(wait=wait)


def _prepare_process(line: Connection) -> None:
    """Make a new process end when the parent closes its end of the line, or dies."""
    os.environ[VARIABLE] = "1"  # for libraries that are not loaded yet
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent decides

    def watch() -> None:
        try:
            line.recv()
        except (EOFError, OSError):
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def parsl_workers(file: Path) -> Executor:
    """Workers on a cluster, by the ``parsl.Config`` that a Python file calls ``config``.

    Raises:
        ConfigError: Parsl is not installed, or the file is missing or has no such name.
    """
    try:
        from parsl import Config
        from parsl.concurrent import ParslPoolExecutor
    except ImportError as error:
        raise ConfigError("--cluster: Parsl is not installed; pip install 'nfflr[cluster]'") from error
    if not file.is_file():
        raise ConfigError(f"{file}: no such file; give a Python file that makes a parsl.Config")
    try:
        config = runpy.run_path(str(file)).get("config")
    except Exception as error:
        raise ConfigError(f"{file}: {type(error).__name__}: {error}; correct the file") from error
    if not isinstance(config, Config):
        raise ConfigError(f"{file}: no parsl.Config named 'config'; see the Parsl user guide")
    return ParslPoolExecutor(config)


def side_by_side(run: Run, workers: Executor) -> None:
    """Spread the jobs over workers. A job whose worker dies is a failure like others, exit code 6.

    Raises:
        ConfigError: the plan cannot be sent to another process.
        StoppedError: an interrupt came; the workers are stopped.
    """
    try:
        packed = pickle.dumps(run.plan)
    except Exception as error:  # of anything that a calculator holds
        raise ConfigError(
            f"calculator: cannot be sent to another process ({error}); give its name, or jobs=1"
        ) from error
    total = len(run.plan.jobs)
    run.claim()
    with run.resumable(), _ending(workers), run.listener.counts(run.workflow.name) as update:
        futures = {workers.submit(_work, packed, number): number for number in range(total)}
        update(0, total, "")
        for future in as_completed(futures):
            number = futures.pop(future)
            if failure := future.exception():  # of the worker, since jobs report theirs
                outcomes: Sequence[Outcome] = [_lost(run, number, failure)]
            else:
                outcomes, text, notes = future.result()
                for message in notes:
                    note(message)
                if text:
                    run.listener.say(text)
            run.finish(number, outcomes)
            update(len(run.outcomes), total, run.failures)


class _Printer(Listener):
    """Prints lines, which ``_work`` keeps for the parent."""

    def say(self, line: str) -> None:
        print(line)


def _work(packed: bytes, number: int) -> tuple[Sequence[Outcome], str, list[str]]:
    """Do a job in this process: its outcomes, and the lines and notes for the parent to show."""
    printed, handler = io.StringIO(), BufferingHandler(sys.maxsize)
    handler.setLevel(logging.WARNING)
    LOGGER.addHandler(handler)
    try:
        with redirect_stdout(printed), redirect_stderr(printed):
            run = _begin(packed)
            outcomes = run.attempt(run.plan.jobs[number])
    finally:
        LOGGER.removeHandler(handler)
    notes = [record.getMessage() for record in handler.buffer]
    return outcomes, printed.getvalue().rstrip("\n"), notes


@functools.lru_cache(maxsize=1)
def _begin(packed: bytes) -> Run:
    """The run of a plan in this worker, which loads the models for all jobs that it does."""
    import torch

    os.environ["MPLBACKEND"] = "agg"  # another machine has its own environment; see nfflr.cli.main
    torch.set_num_threads(1)  # one of many processes
    os.environ[VARIABLE] = "1"
    plan: Plan = pickle.loads(packed)
    os.chdir(plan.folder)
    run = Run(plan, _Printer())
    run.models.say = lambda line: None  # the parent has named the models
    return run


def _lost(run: Run, number: int, error: BaseException) -> Outcome:
    """The outcome of a job whose worker died."""
    died = "terminated abruptly" in str(error)  # each executor has its own class of error
    reason = "died (killed, or out of memory)" if died else f"{type(error).__name__}: {error}"
    name = run.plan.jobs[number].name
    lost = ResourceError(f"{name}: worker: {reason}; do what is missing with --resume")
    return Outcome(name, error=lost)


@contextmanager
def _ending(workers: Executor) -> Iterator[None]:
    """End the workers, at once after an exception."""
    try:
        yield
    except BaseException:
        workers.shutdown(cancel_futures=True)
        raise
    workers.shutdown()
