"""Which files of structures and data a command line means, and the name of each one's results."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path

from ..errors import ConfigError
from ..storage.files import COMPRESSIONS, stem
from ..structures.kinds import LABELLED, LABELLED_NAMES, STRUCTURE_NAMES, STRUCTURES


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
