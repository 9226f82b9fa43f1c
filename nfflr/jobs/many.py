"""``run_many``: a workflow on many structures, one after another, spread over processes, or in a batch."""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import ase
from ase.calculators.calculator import Calculator

from .. import workflows
from ..errors import ConfigError, NFFLrError, did_you_mean
from ..workflows import RelaxSettings
from ..workflows.framework.contract import find_workflow, settings_with
from ..workflows.framework.interface import Settings
from ..workflows.framework.result_files import check_format
from .job_run import Begun, Run
from .opening import calculator_record, threads_restored
from .plan import Job, Listener, Outcome, Plan, Structure, jobs_of
from .workers import Workers, parsl_workers, side_by_side


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
    check_format(format)
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
    with run.resumable(), run.listener.counts(f"{run.workflow.name} (batch)") as update:
        for number, job in enumerate(run.plan.jobs):
            outcomes = run.attempt(job, functools.partial(_prepare, run, number, batches))
            if outcomes:  # finished before, or failed
                run.finish(number, outcomes)
        for source, members in batches.items():
            for number, outcome in _relaxed(run, settings, source, members):
                run.finish(number, [outcome])
                update(len(run.outcomes), len(run.plan.jobs), run.failures)


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
