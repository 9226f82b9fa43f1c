"""The jobs of one command relaxed together on one device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import ase

from ..errors import ConfigError, NFFLrError
from ..workflows.framework.results import Result
from ..workflows.relaxation import RelaxSettings
from .job_run import Begun, Finding, Job, Run, with_file
from .progress import training_bar
from .spreading import resumable


@dataclass(frozen=True)
class _Ready:
    """A job that can go into a batch."""

    job: Job
    atoms: ase.Atoms
    begun: Begun


def all_together(run: Run, debug: bool) -> int:
    """Do every job, each written as soon as it has converged; returns the largest exit code.

    Raises:
        ConfigError: torch-sim is not installed, or cannot do what is asked for.
        StoppedError: an interrupt came.
    """
    _check(run)
    codes: list[int] = []
    ready: dict[str, list[_Ready]] = {}  # by model

    def prepare(job: Job) -> int:
        from ..structures.readers import read_structure

        (atoms,) = run.workflow.prepare([read_structure(job.paths[0])], run.settings, [job.name])
        try:
            (source,) = run.models.sources_for(atoms)
            begun = run.begin(job, [atoms], (source,))
        except NFFLrError as error:
            raise type(error)(with_file(error, job)) from error
        if begun.done is not None:
            return run.tell(job, [begun.done], begun.outputs)
        ready.setdefault(source, []).append(_Ready(job, atoms, begun))
        return 0

    with resumable(run, codes), training_bar(f"{run.workflow.name} (batch)") as update:
        for job in run.jobs:
            waiting = sum(map(len, ready.values()))
            code = run.attempt(job, debug, prepare)
            if sum(map(len, ready.values())) == waiting:  # done, or failed
                codes.append(code)
        run.save_table()
        for source, members in ready.items():
            for code in _relax(run, source, members, debug):
                codes.append(code)
                run.save_table()
                update(len(codes), len(run.jobs), f"{sum(map(bool, codes))} failed")
    return max(codes)


def _check(run: Run) -> None:
    try:
        from ..engines.torchsim import check_batch
    except ImportError as error:
        raise ConfigError("--batch: torch-sim is not installed; pip install 'nfflr[torch-sim]'") from error
    if run.compare or len(run.models.sources) > 1 or run.models.compile:
        raise ConfigError(
            "--batch: takes one model, not compiled, to compare with nothing; leave the rest out"
        )
    run.models.compile = False
    assert isinstance(run.settings, RelaxSettings)
    for source in run.models.sources:
        check_batch(run.models.calculator(source), run.settings)


def _relax(run: Run, source: str, members: list[_Ready], debug: bool) -> Iterator[int]:
    from ..engines.torchsim import relax_together

    assert isinstance(run.settings, RelaxSettings)
    calculator = run.models.calculator(source)
    for k, found in relax_together([one.atoms for one in members], calculator, run.settings):
        one = members[k]

        def write(job: Job, begun: Begun = one.begun, found: Result | NFFLrError = found) -> int:
            if isinstance(found, NFFLrError):
                raise type(found)(with_file(found, job)) from found
            code = 0 if found.converged else 5
            finding = Finding(source, found.message, code, found, calculator.todict())
            run.write(begun, finding)
            return run.tell(job, [finding], begun.outputs)

        yield run.attempt(one.job, debug, write)
