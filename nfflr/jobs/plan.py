"""What is done for many structures: their files, the jobs with their names, and the outcomes."""

from __future__ import annotations

import glob
import hashlib
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import ase
from ase.calculators.calculator import Calculator
from ase.io.jsonio import encode
from pydantic import BaseModel

from ..errors import ConfigError, NFFLrError, as_nfflr_error
from ..storage.files import COMPRESSIONS, stem
from ..structures import readers
from ..structures.kinds import LABELLED, LABELLED_NAMES, STRUCTURE_NAMES, STRUCTURES
from ..workflows.framework.contract import Workflow
from ..workflows.framework.interface import Progress, silent
from ..workflows.framework.results import Result

Structure = str | Path | ase.Atoms


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
        return [
            readers.read_structure(structure) if isinstance(structure, Path) else structure.copy()
            for structure in self.structures
        ]

    def digests(self) -> list[str]:
        """SHA-256 of each file or structure, by which a later run notices a change."""
        contents = [
            readers.file_and_frame(structure)[0].read_bytes()
            if isinstance(structure, Path)
            else encode(structure.copy().todict()).encode()
            for structure in self.structures
        ]
        return [hashlib.sha256(content).hexdigest() for content in contents]

    def files(self) -> list[Path]:
        """The files, without the ``@K`` that names a frame."""
        return [readers.file_and_frame(path)[0] for path in self.structures if isinstance(path, Path)]

    def named(self, error: NFFLrError) -> NFFLrError:
        """An error of a workflow about "structure", with the name of this job's structure instead."""
        word, _, number = error.item.partition(" ")
        return error.named(f"{self.name} {number}".rstrip()) if word == "structure" else error


@dataclass(frozen=True)
class Plan:
    """All that a process needs to do some of the jobs, on any machine that shares the files.

    ``run_many`` documents the fields.
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


@dataclass(frozen=True, repr=False)
class Outcome:
    """The result of one structure with one calculator, or an error.

    Attributes:
        item: the structure's file or name.
        model: name of the calculator; empty where the job failed before it had one.
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
        """The outcome of a job that ended with this error."""
        lines = "".join(traceback.format_exception(error))
        return cls(item, model, error=as_nfflr_error(error), traceback=lines)

    def __repr__(self) -> str:
        state = "converged" if self.converged else self.message
        return f"<{type(self).__name__} {self.item}{self.model and f' with {self.model}'}: {state}>"

    @property
    def converged(self) -> bool:
        return self.result is not None and self.result.converged

    @property
    def exit_code(self) -> int:
        """The exit code of ``nff``: 0 if all is well, 5 if it is not converged, or the error's code."""
        if self.error is not None:
            return self.error.exit_code
        return 0 if self.converged else 5

    @property
    def message(self) -> str:
        """The error, or the message of the result."""
        return str(self.error) if self.result is None else self.result.message


class Listener:
    """``run_many`` reports to one. This class ignores all reports; override the methods that you need."""

    def begin(self, plan: Plan) -> None:
        """The options are sound, and the work begins."""

    def say(self, line: str) -> None:
        """A line about how something is computed."""

    def finished(self, outcomes: Sequence[Outcome]) -> None:
        """A job is done: an outcome for each of its models."""

    def steps(self, title: str) -> AbstractContextManager[Progress]:
        """The progress that a workflow reports its steps to, for one structure."""
        return nullcontext(silent)

    def counts(self, title: str) -> AbstractContextManager[Callable[[int, int | None, str], None]]:
        """A function ``update(done, total, text)`` that takes the number of finished jobs."""
        return nullcontext(lambda done, total, text: None)


def jobs_of(workflow: Workflow, structures: Any) -> tuple[Job, ...]:
    """A job with a name of its own for each structure, or for each pair; see ``run_many``.

    Raises:
        ConfigError: there is no structure, an entry is none, or two have one name.
    """
    pairs = len(workflow.structures) > 1
    if isinstance(structures, Mapping):
        groups = [_group(entry, workflow) for entry in structures.values()]
        stems = list(map(str, structures))
        labels = [tuple(f"{name} {k}" for k in (1, 2)) if pairs else (name,) for name in stems]
    else:
        entries = [structures] if isinstance(structures, Structure) else list(structures)
        if not pairs:
            paths = find_structures(entry for entry in entries if isinstance(entry, str | Path))
            entries = [*paths, *(entry for entry in entries if not isinstance(entry, str | Path))]
        groups = [_group(entry, workflow) for entry in entries]
        labels = [tuple(_label(part, k) for part in group) for k, group in enumerate(groups, 1)]
        firsts = zip(groups, labels, strict=True)
        stems = result_stems(
            [group[0] if isinstance(group[0], Path) else Path(f"{names[0]}.xyz") for group, names in firsts]
        )
    if not groups:
        raise ConfigError("structures: there is none; give at least one")
    for name in stems:
        if Path(name).name != name:
            raise ConfigError(f"structures: {name!r} cannot be part of a file's name; choose another name")
    return tuple(Job(*job) for job in zip(groups, labels, stems, strict=True))


def _group(entry: Any, workflow: Workflow) -> tuple[Path | ase.Atoms, ...]:
    """The structures of one job."""
    parts = tuple(entry) if isinstance(entry, tuple | list) else (entry,)
    number = len(workflow.structures)
    if len(parts) != number or not all(isinstance(part, Structure) for part in parts):
        expected = "a file or ase.Atoms" if number == 1 else f"{number} files or ase.Atoms"
        raise ConfigError(f"structures: got {entry!r}; expected {expected} for each {workflow.name}")
    return tuple(Path(part) if isinstance(part, str) else part for part in parts)


def _label(structure: Path | ase.Atoms, place: int) -> str:
    return str(structure) if isinstance(structure, Path) else f"{structure.get_chemical_formula()}-{place}"


def find_structures(arguments: Iterable[str | Path]) -> list[Path]:
    """Files that arguments name: a file, a folder (the structures directly in it), a pattern like ``*.cif``.

    A file named twice counts once; the order is that of the arguments, sorted within folder and pattern.

    Raises:
        ConfigError: a folder or pattern holds no structure. A missing file is noticed when it is read.
    """
    return _without_repeats(path for argument in arguments for path in _expand(str(argument), _structures_in))


def find_data(arguments: Iterable[str]) -> list[str]:
    """Sources of labelled data that arguments name: files, folders, patterns, names of JARVIS data sets.

    See ``find_structures``.
    """
    from ..data.sources import modules

    sources: list[Path] = []
    for argument in arguments:
        is_source = any(module.opens(argument) for module in modules())
        sources += [Path(argument)] if is_source else _expand(argument, _data_in)
    return list(map(str, _without_repeats(sources)))


def _without_repeats(paths: Iterable[Path]) -> list[Path]:
    return list({path.resolve(): path for path in reversed(list(paths))}.values())[::-1]


def _expand(argument: str, files_in: Callable[[Path], list[Path]]) -> list[Path]:
    path = Path(argument)
    if path.is_dir():
        return files_in(path)
    if path.exists() or not glob.has_magic(argument):
        return [path]
    matches = sorted(p for p in map(Path, glob.glob(argument, recursive=True)) if p.is_file())
    if not matches:
        raise ConfigError(f"{argument}: no file matches; check the pattern")
    return matches


def _structures_in(folder: Path) -> list[Path]:
    files = _of_kind(folder.iterdir(), STRUCTURES, STRUCTURE_NAMES)
    if not files:
        formats = ", ".join(sorted(STRUCTURES))
        raise ConfigError(f"{folder}: no structure in this folder; expected files {formats} or POSCAR")
    return files


def _data_in(folder: Path) -> list[Path]:
    files = _of_kind(folder.iterdir(), LABELLED, LABELLED_NAMES)
    if files:
        return files
    below = _of_kind(folder.glob("*/*"), LABELLED, LABELLED_NAMES)
    hint = f"; give '{folder}/*/{below[0].name}' for those in its folders" if below else ""
    raise ConfigError(
        f"{folder}: no labelled data in this folder; expected files {', '.join(sorted(LABELLED))}, OUTCAR, "
        f"vasprun.xml or id_prop.csv{hint}"
    )


def _of_kind(paths: Iterable[Path], formats: set[str], names: Sequence[str]) -> list[Path]:
    """Visible files, sorted, that have one of the formats, compressed or not, or one of the names."""

    def fits(path: Path) -> bool:
        suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in COMPRESSIONS]
        return (suffixes[-1:] and suffixes[-1] in formats) or any(fnmatch(path.name, name) for name in names)

    return sorted(path for path in paths if path.name[0] != "." and fits(path) and path.is_file())


def data_stem(sources: Sequence[str]) -> str:
    """The name of results: the stem of a file, and of several the first stem and how many follow."""
    first = stem(Path(sources[0]).absolute())
    return first if len(sources) == 1 else f"{first}-and-{len(sources) - 1}-more"


def result_stems(paths: Sequence[Path]) -> list[str]:
    """A distinct name for the results of each file.

    It is the stem, or the whole name where stems of a folder are equal, with folders in front where two
    names still are equal.

    Raises:
        ConfigError: two files would have one name all the same.
    """
    names = [stem(path) for path in paths]
    places = [(path.resolve().parent, name) for path, name in zip(paths, names, strict=True)]
    counts = Counter(places)
    for k, place in enumerate(places):
        if counts[place] > 1:  # POSCAR.a and POSCAR.b
            names[k] = paths[k].name.replace(".", "-")
    folders = [list(path.resolve().parent.parts[1:]) for path in paths]
    while True:
        repeats = Counter(names)
        clashing = [k for k, name in enumerate(names) if repeats[name] > 1]
        if not clashing:
            return names
        if not all(folders[k] for k in clashing):
            first, second = [paths[k] for k in clashing if names[k] == names[clashing[0]]][:2]
            raise ConfigError(f"{first}, {second}: their results would have one name; rename one of them")
        for k in clashing:
            names[k] = f"{folders[k].pop()}-{names[k]}"
