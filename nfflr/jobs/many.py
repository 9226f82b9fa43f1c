"""``run_many``: a workflow on many structures, from Python and from the command line alike."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ase
from ase.calculators.calculator import Calculator

from .. import workflows
from ..errors import ConfigError, did_you_mean
from ..workflows.framework.contract import Workflow, find_workflow
from ..workflows.framework.interface import Settings
from .job_run import Run
from .opening import threads_restored
from .plan import Job, Listener, Outcome, Plan
from .spreading import Workers, all_together, one_by_one, parsl_workers, side_by_side
from .structure_files import find_structures, result_stems

Structure = str | Path | ase.Atoms


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
) -> list[Outcome]:
    """Run a workflow on every structure and write its results, as ``nff`` does.

    Each structure has files of its own, written whole or not at all, and where there are several results a
    table ``<workflow>-summary.csv`` lists them. A structure that fails does not stop the others. The results
    do not depend on how many processes there are. Those of a run that was interrupted are completed by the
    same call with ``resume``.

    With ``jobs`` above one a script has to call this below ``if __name__ == "__main__":``, since each process
    imports it.

    Args:
        workflow: a function of ``nfflr.workflows``, such as ``relax``, or its name.
        structures: files, folders, patterns as ``"in/*.cif"``, and structures; of structures without a name
            the results are called after formula and place, as ``Si8-1``. A mapping gives names. Workflows of
            two structures, such as ``neb``, take pairs.
        calculator: a name as ``open_calculator`` takes it or a calculator of ASE, of which each structure
            gets a copy; of several the first is compared with the others. Default: for each structure the
            bundled potential that covers it.
        settings: of the workflow; default: its own.
        jobs: structures done at a time, each by a process of its own with one thread.
        cluster: Python file with a ``parsl.Config`` called ``config``, whose workers do the structures.
        batch: relax all structures together on one device through torch-sim.
        out: folder for the results.
        resume: keep what is finished, and continue what an interrupted run began.
        overwrite: replace results that exist.
        format: of structures that are written, a name in ``structures.writers.FORMATS``; default: that of
            the input.
        compare: earlier results, or folders of them, to draw beside the new ones.
        device, dtype, compile, trust: as ``open_calculator`` takes them; ``compile=None`` evaluates a kernel
            if it is built already, or if a run is so long that to build it pays.
        threads: of this process meanwhile; default: ``OMP_NUM_THREADS``, or no more than help.
        listener: is told what happens.
        command: what the results name as their origin; default: the command line of this process.

    Returns:
        An outcome for each structure and calculator, in the order of the structures.

    Raises:
        ConfigError: an option is wrong, or results exist and neither ``resume`` nor ``overwrite`` is set.
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
    kind = _workflow(workflow)
    calculators = [calculator] if isinstance(calculator, str | Calculator) else calculator or ()
    plan = Plan(
        workflow=kind.name,
        settings=settings or kind.settings(),
        jobs=tuple(_jobs(kind, structures)),
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
            one_by_one(run)
        elif cluster is not None:
            side_by_side(run, parsl_workers(Path(cluster)))
        else:
            side_by_side(run, Workers(min(jobs, len(plan.jobs))))
    return [outcome for _, outcomes in sorted(run.outcomes.items()) for outcome in outcomes]


def _workflow(workflow: str | Callable) -> Workflow:
    name = workflow if isinstance(workflow, str) else workflow.__name__
    if name not in workflows.workflow_names():
        hint = did_you_mean(name, workflows.workflow_names())
        raise ConfigError(f"{name}: no such workflow{hint or '; see nff --help'}")
    return find_workflow(name)


def _jobs(workflow: Workflow, structures: Any) -> list[Job]:
    """The jobs that structures stand for, each with a name of its own.

    Raises:
        ConfigError: there is none, one is no structure, or two would have one name.
    """
    number = len(workflow.structures)
    if isinstance(structures, Mapping):
        groups = [_group(entry, workflow) for entry in structures.values()]
        labels = [_numbered(str(name), number) for name in structures]
        stems = [str(name) for name in structures]
    else:
        entries = [structures] if isinstance(structures, Structure) else list(structures)
        groups = [_group(entry, workflow) for entry in (_expanded(entries) if number == 1 else entries)]
        labels = [tuple(_label(part, k) for part in group) for k, group in enumerate(groups, 1)]
        stems = result_stems(
            [
                Path(label[0]) if isinstance(group[0], Path) else Path(f"{label[0]}.xyz")
                for group, label in zip(groups, labels, strict=True)
            ]
        )
    if not groups:
        raise ConfigError("structures: there is none; give at least one")
    for stem in stems:
        if Path(stem).name != stem:
            raise ConfigError(f"structures: {stem!r} cannot be part of a file's name; choose another name")
    return [Job(*job) for job in zip(groups, labels, stems, strict=True)]


def _expanded(entries: Iterable[Structure]) -> list[Path | ase.Atoms]:
    """Files that files, folders and patterns stand for, without repeats; then the structures."""
    paths = find_structures(entry for entry in entries if isinstance(entry, str | Path))
    return [*paths, *(entry for entry in entries if not isinstance(entry, str | Path))]


def _group(entry: Any, workflow: Workflow) -> tuple[Path | ase.Atoms, ...]:
    """The structures of one job."""
    parts = tuple(entry) if isinstance(entry, tuple | list) else (entry,)
    number = len(workflow.structures)
    if len(parts) != number or not all(isinstance(part, Structure) for part in parts):
        expected = "a file or ase.Atoms" if number == 1 else f"{number} files or ase.Atoms"
        raise ConfigError(f"structures: got {entry!r}; expected {expected} for each {workflow.name}")
    return tuple(Path(part) if isinstance(part, str) else part for part in parts)


def _label(structure: Path | ase.Atoms, place: int) -> str:
    if isinstance(structure, Path):
        return str(structure)
    return f"{structure.get_chemical_formula()}-{place}"


def _numbered(name: str, number: int) -> tuple[str, ...]:
    return (name,) if number == 1 else tuple(f"{name} {k}" for k in range(1, number + 1))
