"""Which structure files a command line means, and the name of each one's results."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from ..errors import ConfigError
from ..storage.files import COMPRESSIONS, stem

# What counts as a structure in a folder that is given whole: one structure per file, no results of ours.
FORMATS = {".cif", ".vasp", ".poscar", ".xyz", ".extxyz", ".exyz", ".pdb", ".res", ".xsf", ".gen"}
NAMES = ("POSCAR", "CONTCAR")
# What counts as labelled data in a folder that is given whole.
DATA_FORMATS = {".xyz", ".extxyz", ".exyz", ".db", ".traj", ".lmdb", ".aselmdb", ".npz"}
DATA_NAMES = ("*OUTCAR*", "*vasprun*.xml*")


def find_structures(arguments: Sequence[str]) -> list[Path]:
    """Files that arguments name: a file, a folder (the structures directly in it), a pattern like ``*.cif``.

    A file named twice counts once; the order is that of the arguments, sorted within folder and pattern.

    Raises:
        ConfigError: a folder or pattern holds no structure. A file that is missing is found out on reading.
    """
    found = [path for argument in arguments for path in _find(argument)]
    return list({path.resolve(): path for path in reversed(found)}.values())[::-1]


def _find(argument: str) -> list[Path]:
    path = Path(argument)
    if path.is_dir():
        inside = sorted(p for p in path.iterdir() if p.is_file() and _is_structure(p))
        if not inside:
            formats = ", ".join(sorted(FORMATS))
            raise ConfigError(f"{argument}: no structure in this folder; expected files {formats} or POSCAR")
        return inside
    if path.exists() or not glob.has_magic(argument):
        return [path]
    return _matches(argument)


def _matches(pattern: str) -> list[Path]:
    matches = sorted(p for p in map(Path, glob.glob(pattern, recursive=True)) if p.is_file())
    if not matches:
        raise ConfigError(f"{pattern}: no file matches; check the pattern")
    return matches


def find_data(arguments: Sequence[str]) -> list[str]:
    """Sources of labelled data that arguments name: files, folders, patterns, names of JARVIS data sets.

    A source named twice counts once; the order is that of the arguments, sorted within folder and pattern.

    Raises:
        ConfigError: a folder or pattern holds no data. A file that is missing is found out on reading.
    """
    found = [source for argument in arguments for source in _find_data(argument)]
    return list({Path(source).resolve(): source for source in reversed(found)}.values())[::-1]


def _find_data(argument: str) -> list[str]:
    from ..data.sources import modules

    path = Path(argument)
    if any(module.opens(argument) for module in modules()):
        return [argument]
    if path.is_dir():
        inside = sorted(str(p) for p in path.iterdir() if p.is_file() and _is_data(p))
        if inside:
            return inside
        below = sorted(p for p in path.glob("*/*") if p.is_file() and _is_data(p))
        hint = f"; give '{path}/*/{below[0].name}' for those in its folders" if below else ""
        formats = ", ".join(sorted(DATA_FORMATS))
        raise ConfigError(
            f"{argument}: no labelled data in this folder; expected files {formats}, OUTCAR, vasprun.xml or "
            f"id_prop.csv{hint}"
        )
    if not glob.has_magic(argument):
        return [argument]
    return [str(p) for p in _matches(argument)]


def _is_data(path: Path) -> bool:
    suffixes = [s.lower() for s in path.suffixes if s.lower() not in COMPRESSIONS]
    known = bool(suffixes) and suffixes[-1] in DATA_FORMATS
    return not path.name.startswith(".") and (known or any(fnmatch(path.name, name) for name in DATA_NAMES))


def data_stem(found: Sequence[str]) -> str:
    """What results are called: the stem of a file, of several that of the first and their number."""
    first = stem(Path(found[0]).absolute())
    return first if len(found) == 1 else f"{first}-and-{len(found) - 1}-more"


def _is_structure(path: Path) -> bool:
    suffixes = [s for s in path.suffixes if s.lower() not in COMPRESSIONS]
    known = bool(suffixes) and suffixes[-1].lower() in FORMATS
    return not path.name.startswith(".") and (known or path.name.startswith(NAMES))


def result_stems(paths: Sequence[Path]) -> list[str]:
    """A distinct name for the results of each file: its stem, or the whole name where stems of a folder
    are equal, with folders in front where names still are.

    Raises:
        ConfigError: two files would have one name all the same.
    """
    names = [stem(path) for path in paths]
    together = Counter(_within(path) for path in paths)
    for k, path in enumerate(paths):
        if together[_within(path)] > 1:  # POSCAR.a and POSCAR.b
            names[k] = path.name.replace(".", "-")
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


def _within(path: Path) -> tuple[Path, str]:
    return path.resolve().parent, stem(path)
