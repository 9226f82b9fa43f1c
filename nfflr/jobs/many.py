"""``run_many``: a workflow on many structures, one after another, spread over processes, or in a batch."""

from __future__ import annotations

import functools
import io
import logging
import multiprocessing
import os
import pickle
import runpy
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from inspect import signature
from logging.handlers import BufferingHandler
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import ase
from ase.calculators.calculator import Calculator

from .. import workflows
from ..errors import ConfigError, NFFLrError, ResourceError, StoppedError, did_you_mean
from ..notes import LOGGER, note
from ..workflows import RelaxSettings
from ..workflows.framework.contract import find_workflow, settings_with
from ..workflows.framework.interface import Settings
from .job_run import Begun, Run
from .opening import VARIABLE, calculator_record, threads_restored
from .plan import Job, Listener, Outcome, Plan, Structure, jobs_of


def run_many(
    workflow: str | Callable,
    structures: Structure | Iterable[Structure | Sequence[Structure]] | Mapping[str, Structure],
    calculator: str | Calculator | Sequence[str | Calculator] | None = None,
    settings: Settings | None = None,
    *,
    jobs: int = 1,
    cluster: str | Path | None = None,
    batch: bool = False,
    out: str | Path = ".",
    resume: bool = False,
    overwrite: bool = False,
    format: str | None = None,
    compare: Sequence[str | Path] = (),
    device: str = "cpu",
    dtype: str | None = None,
    compile: bool | None = None,
    trust: bool = False,
    threads: int | None = None,
    listener: Listener = Listener(),
    command: str | None = None,
    **fields: Any,
) -> list[Outcome]:
    """Run a workflow on every structure and write its results, as ``nff`` does.

    Each structure has files of its own, written whole or not at all, and a table ``<workflow>-summary.csv``
    lists several results. A structure that fails does not stop the others. The results do not depend on the
    number of processes. The same call with ``resume`` completes an interrupted run.

    With ``jobs`` above one a script has to call this below ``if __name__ == "__main__":``, since each process
    imports it.

    Args:
        workflow: a function of ``nfflr.workflows``, such as ``relax``, or its name.
        structures: files, folders, patterns as ``"in/*.cif"``, and structures, whose results are called after
            formula and place, as ``Si8-1``. A mapping gives names. Workflows of two structures, such as
            ``neb``, take pairs.
        calculator: a name as ``open_calculator`` takes it or a calculator of ASE, of which each structure
            gets a copy; of several the first is compared with the others. Default: for each structure the
            bundled potential that covers it.
        settings: of the workflow; default: its own.
        jobs: structures at a time, each in a process of its own with one thread.
        cluster: Python file with a ``parsl.Config`` called ``config``, whose workers take the structures.
        batch: relax all structures together on one device through torch-sim.
        out: folder for the results.
        resume: keep finished results, and continue an interrupted run.
        overwrite: replace results that exist.
        format: of written structures, a name in ``structures.writers.FORMATS``; default: the input's.
        compare: earlier results, or folders of them, to draw beside the new ones.
        device, dtype, compile, trust: as ``open_calculator`` takes them; ``compile=None`` evaluates a kernel
            that is built already, or builds it for a long run.
        threads: of this process meanwhile; default: ``OMP_NUM_THREADS``, or no more than help.
        listener: receives reports on the run.
        command: the origin that the results name; default: the command line of this process.
        fields: settings by name, as ``fmax=0.01``, which count more than ``settings``.

    Returns:
        An outcome for each structure and calculator, in the order of the structures.

    Raises:
        ConfigError: an option or a setting is wrong, or results exist and neither ``resume`` nor
            ``overwrite`` is set.
        CheckpointError: a potential is damaged, or not to be trusted.
        StoppedError: an interrupt came; its message says how to go on.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from ase.build import bulk
        >>> crystals = {"copper": bulk("Cu"), "silver": bulk("Ag"), "iron": bulk("Fe")}
        >>> with TemporaryDirectory() as folder:
        ...     for outcome in run_many("energy", crystals, "ase:ase.calculators.emt:EMT", out=folder):
        ...         print(outcome.item, outcome.exit_code, sorted(outcome.files))
        copper 0 ['json']
        silver 0 ['json']
        iron 5 []
    """
    name = workflow if isinstance(workflow, str) else workflow.__name__
    if name not in workflows.workflow_names():
        hint = did_you_mean(name, workflows.workflow_names())
        raise ConfigError(f"{name}: no such workflow{hint or '; see nff --help'}")
    kind = find_workflow(name)
    for field in fields.keys() - kind.settings.model_fields.keys():
        hint = did_you_mean(field, [*kind.settings.model_fields, *signature(run_many).parameters])
        raise ConfigError(f"{field}: there is no such setting{hint or f'; see nff {name} --help'}")
    calculators = [calculator] if isinstance(calculator, str | Calculator) else calculator or ()
    plan = Plan(
        workflow=kind.name,
        settings=settings_with(kind.settings, settings, fields),
        jobs=jobs_of(kind, structures),
        calculators=tuple(calculators),
        command=command or shlex.join(sys.argv),
        out=Path(out),
        compare=tuple(map(Path, compare)),
        device=device,
        dtype=dtype,
        compile=compile,
        trust=trust,
        threads=threads,
        overwrite=overwrite,
        resume=resume,
        format=format,
    )
    if cluster is not None and jobs > 1:
        raise ConfigError("--jobs: the file of --cluster says how many; leave --jobs out")
    if batch and (cluster is not None or jobs > 1):
        raise ConfigError("--batch: is done by one process; leave --jobs and --cluster out")
    with threads_restored():
        run = Run(plan, listener)
        if batch:
            all_together(run)
        elif len(plan.jobs) == 1 or (cluster is None and jobs == 1):
            run.claim()
            for number, job in enumerate(plan.jobs):
                run.finish(number, run.attempt(job))
        elif cluster is not None:
            side_by_side(run, parsl_workers(Path(cluster)))
        else:
            side_by_side(run, Workers(min(jobs, len(plan.jobs))))
    return [outcome for _, outcomes in sorted(run.outcomes.items()) for outcome in outcomes]


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
    with _resumable(run), _ending(workers), run.listener.counts(run.workflow.name) as update:
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
            update(len(run.outcomes), total, _failures(run))


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


def _failures(run: Run) -> str:
    failed = [any(outcome.exit_code for outcome in outcomes) for outcomes in run.outcomes.values()]
    return f"{sum(failed)} failed"


@contextmanager
def _resumable(run: Run) -> Iterator[None]:
    """Make an interrupt a ``StoppedError``, which says how to go on."""
    try:
        yield
    except KeyboardInterrupt as error:
        count = f"{len(run.outcomes)} of {len(run.plan.jobs)}"
        text = f"interrupted, {count} are done; continue with --resume"
        raise StoppedError(text, getattr(error, "signum", signal.SIGINT)) from error


@contextmanager
def _ending(workers: Executor) -> Iterator[None]:
    """End the workers, at once after an exception."""
    try:
        yield
    except BaseException:
        workers.shutdown(cancel_futures=True)
        raise
    workers.shutdown()


class _Ready(NamedTuple):
    """A job that can go into a batch."""

    number: int
    job: Job
    atoms: ase.Atoms
    begun: Begun


def all_together(run: Run) -> None:
    """Relax all structures together on one device; each result is written as soon as it converges.

    Raises:
        ConfigError: torch-sim is not installed, or cannot do this.
        StoppedError: an interrupt came.
    """
    settings = _batch_settings(run)
    run.claim()
    batches: dict[str, list[_Ready]] = {}  # by model
    with _resumable(run), run.listener.counts(f"{run.workflow.name} (batch)") as update:
        for number, job in enumerate(run.plan.jobs):
            outcomes = run.attempt(job, functools.partial(_prepare, run, number, batches))
            if outcomes:  # finished before, or failed
                run.finish(number, outcomes)
        for source, members in batches.items():
            for number, outcome in _relaxed(run, settings, source, members):
                run.finish(number, [outcome])
                update(len(run.outcomes), len(run.plan.jobs), _failures(run))


def _batch_settings(run: Run) -> RelaxSettings:
    try:
        from ..engines.torchsim import check_batch
    except ImportError as error:
        raise ConfigError("--batch: torch-sim is not installed; pip install 'nfflr[torch-sim]'") from error
    if not isinstance(run.plan.settings, RelaxSettings):
        raise ConfigError(f"--batch: relaxes structures; leave it out for {run.workflow.name}")
    if run.plan.compare or len(run.models.sources) > 1 or run.models.compile:
        raise ConfigError(
            "--batch: takes one model, not compiled, to compare with nothing; leave the others out"
        )
    run.models.compile = False
    for source in run.models.sources:
        check_batch(run.models.calculator(source), run.plan.settings)
    return run.plan.settings


def _prepare(run: Run, number: int, batches: dict[str, list[_Ready]], job: Job) -> Sequence[Outcome]:
    """Put a job into the batch of its model, or return the outcome of the run that is resumed."""
    (atoms,) = run.read(job)
    try:
        (source,) = run.models.sources_for(atoms)
        begun = run.begin(job, [atoms], (source,))
    except NFFLrError as error:
        raise job.named(error) from error
    if begun.done is not None:
        return [begun.done]
    batches.setdefault(source, []).append(_Ready(number, job, atoms, begun))
    return []


def _relaxed(
    run: Run, settings: RelaxSettings, source: str, members: list[_Ready]
) -> Iterator[tuple[int, Outcome]]:
    """The number and the written outcome of each job, in the order in which they converge."""
    from ..engines.torchsim import relax_together

    calculator = run.models.calculator(source)
    for k, result in relax_together([member.atoms for member in members], calculator, settings):
        member = members[k]

        def write(job: Job, result=result, begun: Begun = member.begun) -> Sequence[Outcome]:
            if isinstance(result, NFFLrError):
                raise job.named(result) from result
            outcome = Outcome(job.name, source, result, calculator=calculator_record(calculator))
            return [run.write(begun, outcome)]

        (outcome,) = run.attempt(member.job, write)
        yield member.number, outcome
