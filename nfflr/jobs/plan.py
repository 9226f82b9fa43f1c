"""What is to be done for many structures, and what comes of it."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import ase
from ase.calculators.calculator import Calculator
from ase.io.jsonio import encode
from pydantic import BaseModel

from ..errors import NFFLrError, as_nfflr_error
from ..structures.readers import file_and_frame
from ..workflows.framework.interface import Progress, silent
from ..workflows.framework.results import Result


@dataclass(frozen=True)
class Job:
    """One call of a workflow: its structures (two for a path), their names, and the name of the results."""

    structures: tuple[Path | ase.Atoms, ...]
    names: tuple[str, ...]
    stem: str

    @property
    def name(self) -> str:
        return ", ".join(self.names)

    def read(self) -> list[ase.Atoms]:
        """The structures, without calculators."""
        from ..structures import readers

        return [
            readers.read_structure(structure) if isinstance(structure, Path) else structure.copy()
            for structure in self.structures
        ]

    def digests(self) -> list[str]:
        """SHA-256 of each file or structure, which tells that one has changed since."""
        contents = [
            file_and_frame(structure)[0].read_bytes()
            if isinstance(structure, Path)
            else encode(structure.copy().todict()).encode()
            for structure in self.structures
        ]
        return [hashlib.sha256(content).hexdigest() for content in contents]

    def files(self) -> list[Path]:
        """The files, without the ``@K`` that names a frame."""
        return [file_and_frame(path)[0] for path in self.structures if isinstance(path, Path)]

    def named(self, error: NFFLrError) -> NFFLrError:
        """An error of a workflow, which says "structure", with the name that the structure has here."""
        word, _, number = error.item.partition(" ")
        return error.named(self.name + f" {number}".rstrip()) if word == "structure" else error


@dataclass(frozen=True)
class Plan:
    """All that a process needs to do some of the jobs, on this machine or another that shares its files.

    ``run_many`` says what the fields mean.
    """

    workflow: str
    settings: BaseModel
    jobs: tuple[Job, ...]
    calculators: tuple[str | Calculator, ...]
    command: str  # for the JSON
    out: Path = Path(".")
    compare: tuple[Path, ...] = ()
    device: str = "cpu"
    dtype: str | None = None
    compile: bool | None = None
    trust: bool = False
    threads: int | None = None
    overwrite: bool = False
    resume: bool = False
    format: str | None = None
    folder: Path = field(default_factory=Path.cwd)  # to which paths are relative

    @property
    def count(self) -> int:
        """Number of results."""
        return len(self.jobs) * max(1, len(self.calculators))


@dataclass(frozen=True)
class Outcome:
    """What came of one structure with one calculator: a result, or an error.

    Attributes:
        item: the structure's file or name.
        model: name of the calculator; empty where it failed before one was chosen.
        result: None where there is an error.
        error: why there is no result; its ``exit_code`` says of which kind it is.
        calculator: description of the calculator, as in the JSON.
        files: what was written, by name.
        traceback: of the error, for reports of defects.
    """

    item: str
    model: str = ""
    result: Result | None = None
    error: NFFLrError | None = None
    calculator: dict | None = None
    files: dict[str, Path] = field(default_factory=dict)
    traceback: str = ""

    @classmethod
    def failed(cls, item: str, error: BaseException, model: str = "") -> Outcome:
        """The outcome of what ended with this error."""
        lines = "".join(traceback.format_exception(error))
        return cls(item, model, error=as_nfflr_error(error), traceback=lines)

    @property
    def converged(self) -> bool:
        return self.result is not None and self.result.converged

    @property
    def exit_code(self) -> int:
        """What ``nff`` exits with: 0 if all is well, 5 if it is not converged, or the error's code."""
        if self.error is not None:
            return self.error.exit_code
        return 0 if self.converged else 5

    @property
    def message(self) -> str:
        """The error, or what the result says of itself."""
        return str(self.error) if self.result is None else self.result.message


class Listener:
    """Is told by ``run_many`` what happens; this one keeps it to itself. Override what you want to know."""

    def begin(self, plan: Plan) -> None:
        """The options are sound, and the work begins."""

    def say(self, line: str) -> None:
        """A line about how something is computed."""

    def finished(self, outcomes: Sequence[Outcome]) -> None:
        """A job is done: an outcome for each of its models."""

    def steps(self, title: str) -> AbstractContextManager[Progress]:
        """What the steps of a workflow report to while it works on one structure."""
        return nullcontext(silent)

    def counts(self, title: str) -> AbstractContextManager[Callable[[int, int | None, str], None]]:
        """What the number of finished jobs is reported to: ``update(done, total, text)``."""
        return nullcontext(lambda done, total, text: None)
