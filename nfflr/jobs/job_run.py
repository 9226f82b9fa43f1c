"""One run: a workflow on one structure after another, each result written by itself."""

from __future__ import annotations

import csv
import io
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ase
from matplotlib.figure import Figure

from ..errors import ConfigError, NFFLrError, StoppedError
from ..notes import notes_about
from ..storage.archives import FolderArchive, StoredFrames
from ..storage.files import claim_folder, locked, write_atomically
from ..workflows.framework.contract import find_workflow
from ..workflows.framework.result_files import Outputs, refuse_existing, versions
from ..workflows.framework.results import Result, result_record, scalar_fields
from ..workflows.framework.saved_results import read_fields, read_result
from .opening import Models, calculator_record
from .plan import Job, Listener, Outcome, Plan


@dataclass
class Begun:
    """A job whose files are claimed, or that an earlier run has finished."""

    outputs: Outputs
    request: dict  # structure, its digest and the settings, for the JSON
    started: float  # s, of ``time.perf_counter``
    done: Outcome | None = None
    seconds: float | None = None  # of the calculation, where others follow before the result is written


class Run:
    """The settings, models, earlier results and table that the jobs of one plan share.

    Raises:
        ConfigError: an option that no job could be done with.
        CheckpointError: a model is damaged.
    """

    def __init__(self, plan: Plan, listener: Listener):
        self.plan, self.listener, self.workflow = plan, listener, find_workflow(plan.workflow)
        if len(plan.calculators) > 1 and not self.workflow.overlays:
            raise ConfigError(f"--model: nff {plan.workflow} does not compare models; give one")
        for path in plan.compare:
            if not path.is_dir():
                read_fields(path, self.workflow)  # refuses a wrong file before anything is computed
        self.models = Models(
            plan.calculators, plan.device, plan.dtype, plan.compile, plan.trust, plan.threads, listener.say
        )
        self.outcomes: dict[int, Sequence[Outcome]] = {}  # of each job, by its number
        self.summary = plan.out / f"{plan.workflow}-summary.csv"

    def claim(self) -> None:
        """Report that the work begins.

        Raises:
            ConfigError: a table exists, and is not to be replaced.
        """
        if self.plan.count > 1:
            refuse_existing([self.summary], self.plan.overwrite or self.plan.resume)
        self.listener.begin(self.plan)

    def finish(self, number: int, outcomes: Sequence[Outcome]) -> None:
        """Enter the outcomes of a job in the table, which is whole at any time, and report them."""
        self.outcomes[number] = outcomes
        self.listener.finished(outcomes)
        if self.plan.count > 1 and self.plan.out.is_dir():
            self._write_table()  # the first result makes the folder; where all fail, nothing is left

    @property
    def failures(self) -> str:
        """How many jobs failed so far, as progress bars show it."""
        failed = [any(outcome.exit_code for outcome in outcomes) for outcomes in self.outcomes.values()]
        return f"{sum(failed)} failed"

    @contextmanager
    def resumable(self) -> Iterator[None]:
        """Make an interrupt a ``StoppedError``, which says how to go on."""
        try:
            yield
        except KeyboardInterrupt as error:
            count = f"{len(self.outcomes)} of {len(self.plan.jobs)}"
            text = f"interrupted, {count} are done; continue with --resume"
            raise StoppedError(text, getattr(error, "signum", signal.SIGINT)) from error

    def attempt(
        self, job: Job, action: Callable[[Job], Sequence[Outcome]] | None = None
    ) -> Sequence[Outcome]:
        """Do a job, or another action with it; an exception becomes its outcome."""
        try:
            return (action or self.do)(job)
        except BrokenPipeError:
            raise
        except Exception as error:
            return [Outcome.failed(job.name, error)]

    def do(self, job: Job) -> Sequence[Outcome]:
        """Read, compute and write; an outcome for each model, the subject's first.

        Raises:
            NFFLrError: naming the job's file.
        """
        structures = self.read(job)
        try:
            sources = self.models.sources_for(structures[0])
            begun = self.begin(job, structures, sources)
            if begun.done is not None:
                return [begun.done]
            return self._compute(job, structures, sources, begun)
        except NFFLrError as error:
            raise job.named(error) from error

    def read(self, job: Job) -> list[ase.Atoms]:
        """The structures, after the workflow's rule for constraints, velocities and the like."""
        return self.workflow.prepare(job.read(), self.plan.settings, job.names)

    def begin(self, job: Job, structures: list[ase.Atoms], sources: Sequence[str]) -> Begun:
        """Claim the files of a job, or find the outcome of the run that this one resumes."""
        description = calculator_record(self.attach(sources[0], structures, computes=False))
        outputs = self._outputs(job, structures)
        request = {
            "structure": job.name,
            "structure_sha256": job.digests(),  # now, since a file may change during a long run
            "settings": self.plan.settings.model_dump(mode="json"),
        }
        begun = Begun(outputs, request, time.perf_counter())
        replaces = False
        if self.plan.resume:
            begun.done, replaces = self._earlier_outcome(job, request, sources[0], description, outputs)
        if begun.done is not None:
            for source in sources:  # of a run that was killed after it wrote its results
                _settle(self.archive(job, source), source == sources[0] and bool(self.workflow.extends))
            return begun
        inputs = {path.resolve() for other in self.plan.jobs for path in other.files()}
        outputs.claim(self.plan.overwrite or replaces, inputs)
        return begun

    def write(
        self,
        begun: Begun,
        outcome: Outcome,
        others: Mapping[str, Result] = MappingProxyType({}),
        compared: Mapping[str, dict] = MappingProxyType({}),
    ) -> Outcome:
        """Write the files of a result, drawn beside ``others``; returns the outcome with its files."""
        assert outcome.result is not None  # an error was raised before
        record = {
            "workflow": self.workflow.name,
            **begun.request,
            "calculator": outcome.calculator,
            "wall_time_s": begun.seconds or time.perf_counter() - begun.started,
            "versions": versions(),
            "command": self.plan.command,
            **({"compared": dict(compared)} if compared else {}),
        }
        outputs = begun.outputs
        outputs.write(outcome.result, record, self._figure(outcome, others))
        # The archive goes, so that frames are read from the files.
        kinds = outputs.kinds.items()
        frames = {name: StoredFrames(outputs.paths[name]) for name, kind in kinds if kind == "trajectory"}
        result = outcome.result.model_copy(update=frames)
        return replace(outcome, result=result, files=dict(outputs.paths))

    def attach(self, source: str, structures: list[ase.Atoms], computes: bool = True) -> Any:
        """A calculator on the structures, which refuses unknown elements and atoms far too close."""
        from ..structures.checks import check_trained_distances

        # Only md takes all its steps; other workflows may end before.
        steps = self.plan.settings.model_dump()["steps"] if self.workflow.name == "md" else 0
        calculator = self.models.calculator(source, max(map(len, structures)), steps, computes)
        shortest = getattr(calculator, "shortest_distances", None)
        for atoms in structures:
            atoms.calc = calculator
            if shortest is not None:
                check_trained_distances(atoms, shortest)
        return calculator

    def archive(self, job: Job, source: str | None = None) -> Path:
        """Folder of the archive, one for each model."""
        number = self.models.sources.index(source) if source in self.models.sources else 0
        return self.plan.out / f"{job.stem}-{self.workflow.name}{f'.{number}' if number else ''}.state"

    def _compute(
        self, job: Job, structures: list[ase.Atoms], sources: Sequence[str], begun: Begun
    ) -> list[Outcome]:
        compared, others = self._earlier(job, sources)
        with ExitStack() as stack:  # deletes the archives when the results are written
            first = self._evaluate(job, structures, sources[0], stack)
            begun.seconds = time.perf_counter() - begun.started
            rivals = [self._rival(job, structures, source, stack) for source in sources[1:]]
            for rival in rivals:
                if rival.result is not None:
                    others[rival.model] = rival.result
                    compared[rival.model] = {"calculator": rival.calculator, **result_record(rival.result)}
            return [self.write(begun, first, others, compared), *rivals]

    def _evaluate(self, job: Job, structures: list[ase.Atoms], source: str, stack: ExitStack) -> Outcome:
        calculator = self.attach(source, structures)
        title, extra = f"{self.workflow.name} {job.stem}", {}
        if len(self.plan.jobs) > 1:
            title += f" ({self.plan.jobs.index(job) + 1}/{len(self.plan.jobs)})"
        if self.workflow.archives:
            trajectory = None  # the frames of a run that can be made longer: the first model's
            if self.workflow.extends and source == self.models.sources_for(structures[0])[0]:
                trajectory = self._outputs(job, structures).paths["trajectory"]
            extra["archive"] = stack.enter_context(self._archived(self.archive(job, source), trajectory))
        with self.listener.steps(title) as progress, notes_about(job.name):
            result = self.workflow.function(*structures, calculator, self.plan.settings, progress, **extra)
        return Outcome(job.name, source, result, calculator=calculator_record(calculator))

    def _rival(self, job: Job, structures: list[ase.Atoms], source: str, stack: ExitStack) -> Outcome:
        """The outcome of a model to compare with; its failure does not concern the first model's result."""
        try:
            return self._evaluate(job, structures, source, stack)
        except NFFLrError as error:
            full_error = type(error)(f"{job.named(error)} (model {source})")
            return Outcome.failed(job.name, full_error, source)

    def _earlier_outcome(
        self, job: Job, request: dict, source: str, description: dict, outputs: Outputs
    ) -> tuple[Outcome | None, bool]:
        """The outcome of the run that this one resumes, if it was the same; and whether files may go.

        They may if that run was killed before it wrote the JSON, which is last, or if this makes it longer.
        """
        path = outputs.paths["json"]
        if not path.is_file():
            return None, True
        _, record = read_fields(path, self.workflow)
        if not _same_calculator(record, description):
            return None, False
        if all(record.get(name) == value for name, value in request.items()):
            outputs.paths = {name: path.with_name(file) for name, file in record["files"].items()}
            result = read_result(path)
            return Outcome(job.name, source, result, calculator=description, files=outputs.paths), False
        before, now = dict(record.get("settings") or {}), dict(request["settings"])
        longer = bool(self.workflow.extends) and self.archive(job, source).is_dir()
        for name in self.workflow.extends:
            longer = longer and name in before and now.pop(name) >= before.pop(name)
        same = before == now and record.get("structure_sha256") == request["structure_sha256"]
        return None, longer and same

    def _outputs(self, job: Job, structures: list[ase.Atoms]) -> Outputs:
        first = job.structures[0]
        source = first if isinstance(first, Path) else Path(f"{job.stem}.xyz")
        return Outputs(
            self.plan.out, job.stem, self.workflow, structures[0], source, self.plan.format or None
        )

    def _earlier(self, job: Job, sources: Sequence[str]) -> tuple[dict[str, dict], dict[str, Result]]:
        """By the name of their calculator, the files of earlier results, and the results."""
        compared: dict[str, dict] = {}
        others: dict[str, Result] = {}
        for path in self.plan.compare:
            file = path / f"{job.stem}-{self.workflow.name}.json" if path.is_dir() else path
            result, record = read_fields(file, self.workflow)
            label = (record.get("calculator") or {}).get("source") or file.stem
            label = str(file) if label in (*sources, *others) else label
            others[label], compared[label] = result, {"file": str(file)}
        return compared, others

    def _figure(self, outcome: Outcome, others: Mapping[str, Result]) -> Callable[[], Figure] | None:
        plot = self.workflow.plot
        if plot is None:
            return None
        return lambda: plot(outcome.result, others, outcome.model) if others else plot(outcome.result)

    def _write_table(self) -> None:
        """One row per structure and model, in the order of the jobs."""
        fields = scalar_fields(self.workflow.result)
        content = io.StringIO()
        writer = csv.writer(content, lineterminator="\n")
        writer.writerow(["structure", "model", "converged", "exit code", "message", *fields.values()])
        for _, outcomes in sorted(self.outcomes.items()):
            for outcome in outcomes:
                row = [outcome.item, outcome.model, outcome.converged, outcome.exit_code, outcome.message]
                row += [getattr(outcome.result, name, None) for name in fields]
                writer.writerow([str(cell).lower() if isinstance(cell, bool) else cell for cell in row])
        write_atomically(self.summary, content.getvalue().encode())

    @contextmanager
    def _archived(self, folder: Path, trajectory: Path | None) -> Iterator[FolderArchive]:
        """The archive of a job; deleted when the block ends, kept when the run is interrupted.

        Without anything saved it is deleted too. A run that can be made longer has its frames in
        ``trajectory``, and its records stay.

        Raises:
            ConfigError: an earlier run was interrupted here; it needs --resume or --overwrite.
            ResourceError: another process uses the archive.
            StoppedError: an interrupt came; says how to go on.
        """
        claim_folder(folder)
        with locked(folder):
            if _records(folder) and not self.plan.resume:
                finished = trajectory is not None and FolderArchive(folder).is_finished()
                if not self.plan.overwrite and not finished:
                    raise ConfigError(
                        f"{folder}: a run was interrupted here; use --resume, or --overwrite to drop it"
                    )
                for path in _records(folder):
                    path.unlink()
            if _records(folder):
                self.listener.say(f"resuming from {folder}")
            archive = FolderArchive(folder)
            if trajectory is not None:
                archive.reopen(trajectory)
            try:
                yield archive
            except (NFFLrError, KeyboardInterrupt) as error:
                if archive.is_new():
                    archive.remove()
                    raise
                if isinstance(error, NFFLrError):
                    raise
                text = f"{folder}: interrupted, what is finished is kept there; continue with --resume"
                raise StoppedError(text, getattr(error, "signum", signal.SIGINT)) from error
            finally:
                archive.close()
            _end(archive, trajectory is not None)


def _settle(folder: Path, records_stay: bool) -> None:
    """End an archive that a killed run left beside its results."""
    if folder.is_dir():
        with locked(folder):
            _end(FolderArchive(folder), records_stay)


def _end(archive: FolderArchive, records_stay: bool) -> None:
    """Delete the archive of a run whose results are written, or keep its records alone."""
    if records_stay:
        archive.keep_records()
    else:
        archive.remove()


def _records(folder: Path) -> list[Path]:
    """The files of a run that has begun."""
    return [path for path in folder.iterdir() if path.name[0] != "."]


def _same_calculator(record: dict, calculator: dict) -> bool:
    """Whether a result is of this model, wherever it was read from and however it is evaluated."""
    free = {"source": None, "compiled": None}
    return {**calculator, **free} == {**(record.get("calculator") or {}), **free}
