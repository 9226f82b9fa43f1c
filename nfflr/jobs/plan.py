"""What is to be done for many structures: the files, the jobs with their names, and what comes of them."""

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
from ..structures.kinds import LABELLED, LABELLED_NAMES, STRUCTURE_NAMES, STRUCTURES
from ..structures.readers import file_and_frame
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


def jobs_of(workflow: Workflow, structures: Any) -> list[Job]:
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
    for name in stems:
        if Path(name).name != name:
            raise ConfigError(f"structures: {name!r} cannot be part of a file's name; choose another name")
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


def find_structures(arguments: Iterable[str | Path]) -> list[Path]:
    """Files that arguments name: a file, a folder (the structures directly in it), a pattern like ``*.cif``.

    A file named twice counts once; the order is that of the arguments, sorted within folder and pattern.

    Raises:
        ConfigError: a folder or pattern holds no structure. A missing file is noticed when it is read.
    """
    return _without_repeats(path for argument in arguments for path in _expand(str(argument), _structures_in))


def find_data(arguments: Iterable[str]) -> list[str]:
    """Sources of labelled data that arguments name: files, folders, patterns, names of JARVIS data sets.

    As ``find_structures`` does for structures.
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
    files = [path for path in sorted(folder.iterdir()) if _has_kind(path, STRUCTURES, STRUCTURE_NAMES)]
    if not files:
        formats = ", ".join(sorted(STRUCTURES))
        raise ConfigError(f"{folder}: no structure in this folder; expected files {formats} or POSCAR")
    return files


def _data_in(folder: Path) -> list[Path]:
    files = [path for path in sorted(folder.iterdir()) if _has_kind(path, LABELLED, LABELLED_NAMES)]
    if files:
        return files
    below = [path for path in sorted(folder.glob("*/*")) if _has_kind(path, LABELLED, LABELLED_NAMES)]
    hint = f"; give '{folder}/*/{below[0].name}' for those in its folders" if below else ""
    raise ConfigError(
        f"{folder}: no labelled data in this folder; expected files {', '.join(sorted(LABELLED))}, OUTCAR, "
        f"vasprun.xml or id_prop.csv{hint}"
    )


def _has_kind(path: Path, formats: set[str], names: Sequence[str]) -> bool:
    """Whether a visible file has one of the formats, compressed or not, or one of the names."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in COMPRESSIONS]
    fits = bool(suffixes) and suffixes[-1] in formats
    fits = fits or any(fnmatch(path.name, name) for name in names)
    return fits and path.is_file() and not path.name.startswith(".")


def data_stem(sources: Sequence[str]) -> str:
    """What results are called: the stem of a file, of several that of the first and their number."""
    first = stem(Path(sources[0]).absolute())
    return first if len(sources) == 1 else f"{first}-and-{len(sources) - 1}-more"


def result_stems(paths: Sequence[Path]) -> list[str]:
    """A distinct name for the results of each file: its stem, or the whole name where stems of a folder
    are equal, with folders in front where names still are.

    Raises:
        ConfigError: two files would have one name all the same.
    """
    names = [stem(path) for path in paths]
    places = [(path.resolve().parent, name) for path, name in zip(paths, names, strict=True)]
    together = Counter(places)
    for k, place in enumerate(places):
        if together[place] > 1:  # POSCAR.a and POSCAR.b
            names[k] = paths[k].name.replace(".", "-")
    folders = [list(path.resolve().parent.parts[1:]) for path in paths]
    while True:
        counts = Counter(names)
        clashing = [k for k, name in enumerate(names) if counts[name] > 1]
        if not clashing:
            return names
        if not all(folders[k] for k in clashing):
            first, second = [paths[k] for k in clashing if names[k] == names[clashing[0]]][:2]
            raise ConfigError(f"{first}, {second}: their results would have one name; rename one of them")
        for k in clashing:
            names[k] = f"{folders[k].pop()}-{names[k]}"
