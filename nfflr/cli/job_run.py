"""One command's work: a workflow on one structure after another, each result written by itself."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import ase
import click
from pydantic import BaseModel

from ..errors import ConfigError, NFFLrError
from ..workflows.framework.contract import Workflow, read_result, result_record
from ..workflows.framework.results import Result
from .failure import explain, fail
from .opening import Models
from .output import Outputs, provenance
from .printed_notes import notes_about
from .progress import step_bar
from .resume import archive_folder, drop_archive, settle_archive
from .summary import SummaryTable, describe


@dataclass(frozen=True)
class Job:
    """One call of a workflow: its structure files (two for a path) and the name of the results."""

    paths: tuple[Path, ...]
    stem: str

    @property
    def name(self) -> str:
        return ", ".join(map(str, self.paths))

    def digests(self) -> list[str]:
        """SHA-256 of each file, which tells that one has changed since."""
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in self.files()]

    def files(self) -> list[Path]:
        """The files that the paths mean, where ``file@K`` names a frame."""
        from ..structures.readers import file_and_frame

        return [file_and_frame(path)[0] for path in self.paths]


@dataclass(frozen=True)
class Finding:
    """What one model found for a job: a result, or why there is none."""

    model: str
    message: str
    exit_code: int
    result: Result | None = None
    calculator: dict | None = None


@dataclass
class Begun:
    """A job that is about to be done: its files, what was asked for, since when; or what is done already."""

    outputs: Outputs
    asked: dict
    started: float  # s, of a clock that starts anywhere
    done: Finding | None = None
    seconds: float | None = None  # taken, if what followed is not to count


class Run:
    """The settings, models, earlier results and table that the jobs of one command share.

    Raises:
        ConfigError: an option that no job could be done with.
        CheckpointError: a model is damaged.
    """

    def __init__(
        self,
        workflow: Workflow,
        settings: BaseModel,
        jobs: list[Job],
        *,
        model: tuple[str, ...],
        compare: tuple[Path, ...],
        device: str,
        dtype: str | None,
        compile: bool | None,
        trust: bool,
        out: Path,
        overwrite: bool,
        resume: bool,
        format: str | None,
    ):
        self.workflow, self.settings, self.jobs = workflow, settings, jobs
        self.format = format or None
        self.out, self.overwrite, self.compare, self.resume = out, overwrite, compare, bool(resume)
        if len(model) > 1 and not workflow.overlays:
            raise ConfigError(f"--model: nff {workflow.name} does not compare models; give one")
        for path in compare:
            if not path.is_dir():
                read_result(path, workflow)  # a wrong one is found out before anything is computed
        self.models = Models(model, device, dtype, compile, bool(trust))
        self.table = SummaryTable(out / f"{workflow.name}-summary.csv", workflow.result)
        self.several = len(jobs) * max(1, len(model)) > 1  # so that there is something to tabulate

    def do(self, job: Job) -> int:
        """Read, compute, write, say; returns the exit code.

        Raises:
            NFFLrError: naming the job's file.
        """
        from ..structures.readers import read_structure

        structures = [read_structure(path) for path in job.paths]
        structures = self.workflow.prepare(structures, self.settings, [str(path) for path in job.paths])
        try:
            findings, outputs = self._compute(job, structures)
        except NFFLrError as error:
            raise type(error)(with_file(error, job)) from error
        return self.tell(job, findings, outputs)

    def attempt(self, job: Job, debug: bool, action: Callable[[Job], int] | None = None) -> int:
        """Do a job, or something else with it; whatever goes wrong is a line, a row and an exit code."""
        try:
            return (action or self.do)(job)
        except BrokenPipeError:
            raise
        except Exception as error:
            message, code = explain(error)
            self.record(job, code, message)
            return fail(message, code, debug)

    def tell(self, job: Job, findings: list[Finding], outputs: Outputs) -> int:
        """Print what was found and add it to the table; returns the exit code."""
        for finding in findings:
            self._say(job, finding)
            self.record(job, finding.exit_code, finding.message, finding.model, finding.result)
        for file in outputs.paths.values():
            click.echo(f"  wrote {file}")
        return max(finding.exit_code for finding in findings)

    def begin(self, job: Job, structures: list[ase.Atoms], sources: Sequence[str]) -> Begun:
        """Claim the files of a job, or find what a run that is being resumed has made of it already."""
        calculator = self.attach(sources[0], structures, computes=False)
        outputs = self._outputs(job, structures)
        asked = {
            "structure": job.name,
            "structure_sha256": job.digests(),  # now, since a file may change during a long run
            "settings": self.settings.model_dump(mode="json"),
        }
        if self.resume and (done := self._finished(asked, sources[0], calculator.todict(), outputs)):
            if self.workflow.extends:
                settle_archive(self.archive(job, sources[0]))
            for source in sources[1:] if self.workflow.extends else sources:
                drop_archive(self.archive(job, source))
            return Begun(outputs, asked, time.perf_counter(), done)
        # Killed while it wrote its results, of which the JSON is the last: they are written again.
        half = self.resume and not outputs.paths["json"].exists()
        longer = self.resume and self._extends(job, asked, sources[0], calculator.todict(), outputs)
        inputs = {path.resolve() for one in self.jobs for path in one.files()}
        outputs.claim(self.overwrite or half or longer, inputs)
        return Begun(outputs, asked, time.perf_counter())

    def write(
        self,
        begun: Begun,
        finding: Finding,
        others: Mapping[str, Result] = MappingProxyType({}),
        compared: dict | None = None,
    ) -> None:
        """Write the files of a result, drawn beside ``others``."""
        assert finding.result is not None  # else it was raised
        record = {
            "workflow": self.workflow.name,
            **begun.asked,
            "calculator": finding.calculator,
            "wall_time_s": begun.seconds or time.perf_counter() - begun.started,
            **provenance(),
            **({"compared": compared} if compared else {}),
        }
        begun.outputs.write(finding.result, record, self._figure(finding, others))

    def _compute(self, job: Job, structures: list[ase.Atoms]) -> tuple[list[Finding], Outputs]:
        """The findings, the subject's first, and the files they were written to."""
        subject, *rivals = self.models.sources_for(structures[0])
        begun = self.begin(job, structures, (subject, *rivals))
        if begun.done is not None:
            return [begun.done], begun.outputs
        compared, others = self._earlier(job, (subject, *rivals))
        with ExitStack() as stack:  # archives go when the results are written
            first = self._find(job, structures, subject, stack)
            begun.seconds = time.perf_counter() - begun.started
            findings = [first, *(self._rival(job, structures, source, stack) for source in rivals)]
            for rival in findings[1:]:
                if rival.result is not None:
                    others[rival.model] = rival.result
                    compared[rival.model] = {"calculator": rival.calculator, **result_record(rival.result)}
            self.write(begun, first, others, compared)
        return findings, begun.outputs

    def _finished(self, asked: dict, source: str, calculator: dict, outputs: Outputs) -> Finding | None:
        """What a run that is being resumed has written already, if it was asked for the same thing."""
        path = outputs.paths["json"]
        if not path.is_file():
            return None
        result, record = read_result(path, self.workflow)
        if not _same_calculator(record, calculator) or any(record.get(n) != v for n, v in asked.items()):
            return None
        outputs.paths = {name: path.with_name(file) for name, file in record["files"].items()}
        return Finding(source, result.message, 0 if result.converged else 5, result)

    def _extends(self, job: Job, asked: dict, source: str, calculator: dict, outputs: Outputs) -> bool:
        """Whether this makes a finished run longer, of which the records are kept."""
        path = outputs.paths["json"]
        if not (self.workflow.extends and path.is_file() and self.archive(job, source).is_dir()):
            return False
        _, record = read_result(path, self.workflow)
        before, now = dict(record.get("settings") or {}), dict(asked["settings"])
        for name in self.workflow.extends:
            if name not in before or not now.pop(name) >= before.pop(name):
                return False
        same = before == now and record.get("structure_sha256") == asked["structure_sha256"]
        return same and _same_calculator(record, calculator)

    def attach(self, source: str, structures: list[ase.Atoms], computes: bool = True):
        """A calculator, which refuses unknown elements before the first step, and atoms far too close."""
        from ..structures.checks import check_trained_distances

        atoms_in_all, steps = max(map(len, structures)), 0
        if self.workflow.name == "md":  # the one whose length is known
            steps = self.settings.model_dump()["steps"]
        calculator = self.models.calculator(source, atoms_in_all, steps, computes)
        shortest = getattr(calculator, "shortest_distances", None)
        for atoms in structures:
            atoms.calc = calculator
            if shortest is not None:
                check_trained_distances(atoms, shortest)
        return calculator

    def _find(self, job: Job, structures: list[ase.Atoms], source: str, stack: ExitStack) -> Finding:
        calculator = self.attach(source, structures)
        title, extra = f"{self.workflow.name} {job.stem}", {}
        if len(self.jobs) > 1:
            title += f" ({self.jobs.index(job) + 1}/{len(self.jobs)})"
        if self.workflow.archives:
            folder = self.archive(job, source)
            trajectory = self._trajectory(job, source, structures)
            extra["archive"] = stack.enter_context(
                archive_folder(folder, self.resume, self.overwrite, trajectory)
            )
        with step_bar(title) as progress, notes_about(job.name):
            result = self.workflow.function(*structures, calculator, self.settings, progress, **extra)
        return Finding(source, result.message, 0 if result.converged else 5, result, calculator.todict())

    def _trajectory(self, job: Job, source: str, structures: list[ase.Atoms]) -> Path | None:
        """File of the frames of a run that can be made longer: the first model's."""
        if not self.workflow.extends or source != self.models.sources_for(structures[0])[0]:
            return None
        return self._outputs(job, structures).paths["trajectory"]

    def _outputs(self, job: Job, structures: list[ase.Atoms]) -> Outputs:
        return Outputs(self.out, job.stem, self.workflow, structures[0], job.paths[0], self.format)

    def archive(self, job: Job, source: str | None = None) -> Path:
        """Folder of the archive; each model to compare with has its own."""
        number = self.models.sources.index(source) if source in self.models.sources else 0
        return self.out / f"{job.stem}-{self.workflow.name}{f'.{number}' if number else ''}.state"

    def _rival(self, job: Job, structures: list[ase.Atoms], source: str, stack: ExitStack) -> Finding:
        """What a model to compare with found; if it cannot, the subject's result is written all the same."""
        try:
            return self._find(job, structures, source, stack)
        except NFFLrError as error:
            return Finding(source, f"{with_file(error, job)} (model {source})", error.exit_code)

    def _earlier(self, job: Job, taken: tuple[str, ...]) -> tuple[dict[str, dict], dict[str, Result]]:
        """Earlier results by the name of what made them: where they are from, and what they hold."""
        compared: dict[str, dict] = {}
        others: dict[str, Result] = {}
        for path in self.compare:
            file = path / f"{job.stem}-{self.workflow.name}.json" if path.is_dir() else path
            result, record = read_result(file, self.workflow)
            label = (record.get("calculator") or {}).get("source") or file.stem
            label = str(file) if label in (*taken, *others) else label
            others[label], compared[label] = result, {"file": str(file)}
        return compared, others

    def _figure(self, finding: Finding, others: Mapping[str, Result]):
        plot = self.workflow.plot
        if plot is None:
            return None
        return lambda: plot(finding.result, others, finding.model) if others else plot(finding.result)

    def _say(self, job: Job, finding: Finding) -> None:
        if self.several:
            click.echo(f"{job.name} with {finding.model}:")
        if finding.result is not None:
            click.echo(describe(finding.result))
        if finding.exit_code:
            named = finding.message if finding.result is None else f"{job.name}: {finding.message}"
            fail(named, finding.exit_code, debug=False)

    def record(
        self, job: Job, exit_code: int, message: str, model: str = "", result: Result | None = None
    ) -> None:
        """A row of the table."""
        self.table.add(self.jobs.index(job), job.name, model, exit_code, message, result)

    def save_table(self) -> None:
        """Write the table if there are several results: whole at any time, so after each job."""
        if self.several and self.out.is_dir():
            self.table.write()  # the folder is made by the first result; where all fail, nothing is left


def _same_calculator(record: dict, calculator: dict) -> bool:
    """Whether a result's model is this one: where it was read from may change, and how it is evaluated."""
    free = {"source": None, "compiled": None}
    return {**calculator, **free} == {**(record.get("calculator") or {}), **free}


def with_file(error: NFFLrError, job: Job) -> str:
    """The message, which says "structure", with the name of the file."""
    return re.sub(r"^structure( \d+)?:", lambda m: f"{job.name}{m[1] or ''}:", str(error))
