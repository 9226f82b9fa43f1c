"""Kinds of source that structures come from: one file each, found by being here.

A source is a module with

- ``opens(source) -> bool``: whether ``source`` is of this kind; cheap, raises nothing;
- ``read(source, selection=None) -> Sequence[Entry]`` (see below): the structures, with those of the stored
  values that ``selection`` names (None: all). Raises ``StructureError`` naming file and record. What is
  returned may read lazily;
- ``KEYS``: by which names it stores ``total_energy``, ``forces`` and ``stress``;
- ``ENERGY_UNITS``: the unit that the format fixes, or None if the user has to say it;
- ``STRESS``: likewise unit, sign and order (see ``nfflr.data.records``), or None;
- ``KINDS``, if it has more than one: a ``Kind`` with these five for each further one;
- ``FALLBACK = True``, for the one that opens any file.

``read`` gives each structure to ``check_structure`` with the name of its file and frame. Kinds are asked
first, then files in the order of their names, and the fallback last.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ase

from ...errors import ConfigError

Selection = Collection[str] | None


@dataclass(frozen=True)
class Entry:
    """A structure as a source has it, with the values stored under their own names and in their own units."""

    id: str
    group: str
    atoms: ase.Atoms
    values: Mapping[str, Any]
    per_atom: Collection[str] = ()  # names of the values that the source gives for every atom


Names = Mapping[str, Sequence[str]]
Stress = tuple[str, int, str | None] | None


class Source(Protocol):
    """What a source module has, see above."""

    KEYS: Names
    ENERGY_UNITS: str | None
    STRESS: Stress

    def opens(self, source: object, /) -> bool: ...

    def read(self, source: Any, /, selection: Selection = None) -> Sequence[Entry]: ...


@dataclass
class Kind:
    """A further source of a module: files of a kind, whose units or frames differ."""

    opens_file: Callable[[Path], bool]
    read: Callable[..., Sequence[Entry]]
    KEYS: Names
    ENERGY_UNITS: str | None
    STRESS: Stress

    def opens(self, source: object) -> bool:
        path = file_of(source)
        return path is not None and self.opens_file(path)


class LazyEntries(Sequence):
    """Entries that are read when they are asked for; a subclass gives ``__len__`` and ``entry``."""

    def entry(self, k: int) -> Entry:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Entry:  # type: ignore[override]  # no slices
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.entry(index % len(self))


def file_of(source: object) -> Path | None:
    """The path of a source that is a file."""
    return Path(source) if isinstance(source, str | Path) and Path(source).is_file() else None


def selected(values: Mapping[str, Any], selection: Selection) -> dict[str, Any]:
    """The values whose names are in the selection; all where it is None."""
    return {name: value for name, value in values.items() if selection is None or name in selection}


def modules() -> list[Source]:
    """Every source; the source that opens any file (``FALLBACK``) is the last."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    files: list[Any] = [importlib.import_module(f"{__name__}.{name}") for name in names]
    kinds = [kind for module in files for kind in getattr(module, "KINDS", ())]
    return kinds + sorted(files, key=lambda module: getattr(module, "FALLBACK", False))


def find(source: object) -> Source:
    """The source module or kind that reads ``source``.

    Raises:
        ConfigError: none does.
    """
    for module in modules():
        if module.opens(source):
            return module
    if not isinstance(source, str | Path):
        raise ConfigError(
            f"data source: got a {type(source).__qualname__}; expected a file, a folder, the name of a "
            "JARVIS data set, or a list of these or of ase.Atoms"
        )
    if Path(source).is_dir():
        raise ConfigError(
            f"{source}: the folder holds no id_prop.csv or id_prop.json; give a folder that does, one of "
            "deepmd (type.raw, set.*) or of .aselmdb files, or a file"
        )
    raise ConfigError(
        f"{source}: no such file; check the path (a JARVIS data set has a name such as dft_3d; "
        "names beyond the common ones are known to nfflr[jarvis])"
    )


def parts(source: object) -> list:
    """The members of a list of paths and names; a list with any other source alone."""
    members = list(source) if isinstance(source, Sequence) and not isinstance(source, str | bytes) else []
    return members if members and all(isinstance(item, str | Path) for item in members) else [source]


def display_name(source: object) -> str:
    """The name of a source in messages and ids: its file name, for several the first and their number."""
    first, *others = parts(source)
    name = Path(first).name if isinstance(first, str | Path) else "structures"
    return f"{name} and {len(others)} more" if others else name


def folders(sources: Sequence[object]) -> list[str]:
    """The folders before the display name of each source by which they differ: ``a/`` of ``a/OUTCAR``."""
    tails = [Path(source).resolve().parts if isinstance(source, str | Path) else () for source in sources]
    prefixes = []
    for tail in tails:
        depth = 1
        while depth < len(tail) and any(x[-depth:] == tail[-depth:] for x in tails if x != tail):
            depth += 1
        prefixes.append("".join(f"{part}/" for part in tail[-depth:-1]))
    return prefixes
