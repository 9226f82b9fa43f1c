"""Processes that jobs are spread over: here, or wherever a Parsl configuration says."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .threads import VARIABLE


class Workers(ThreadPoolExecutor):
    """Worker processes on this machine, each replaced when it dies, at the cost of the call it was in.

    A pool of the standard library is lost as a whole with any of its processes, and does not tell which call
    was to blame; so each thread here has a pool of one process. They end with this process, however it ends.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self._own = threading.local()  # of each thread, its pool
        self._lines: list[Connection] | None = []  # by which the processes are ended; None: they are

    def submit(self, function: Callable, /, *args: Any, **kwargs: Any) -> Future:
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
        theirs, ours = context.Pipe(duplex=False)
        self._lines.append(ours)
        return ProcessPoolExecutor(1, context, _prepare_process, (theirs,))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers; with ``cancel_futures`` at once, in the middle of a call."""
        super().shutdown(wait=not cancel_futures, cancel_futures=cancel_futures)
        lines, self._lines = self._lines or [], None
        for line in lines:
            line.close()
        super().shutdown(wait=wait)


def _prepare_process(line: Connection) -> None:
    """Make a new process end when the parent closes its end of the line, or is no more."""
    os.environ[VARIABLE] = "1"  # for libraries that are not loaded yet
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent decides

    def watch() -> None:
        try:
            line.recv()
        except (EOFError, OSError):
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def parsl_workers(file: Path) -> Executor:
    """Workers of the ``parsl.Config`` that a Python file calls ``config``: on a cluster, by its queue.

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
