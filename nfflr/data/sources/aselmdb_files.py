"""ASE databases in LMDB, for sets larger than memory: a file ``.aselmdb`` or a folder of them, read lazily.

The form of the data sets of Open Catalyst, OMat24 and OMol25; energies are eV per structure, stresses eV/Å³
with tension positive, as ASE has them. Needs the extra ``nfflr[lmdb]``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from ...structures.formats.aselmdb import SUFFIX, Rows
from . import Entry, Wanted
from .ase_files import ENERGY_UNITS, KEYS, STRESS, entry

__all__ = ["ENERGY_UNITS", "KEYS", "STRESS", "opens", "read"]


def opens(source: object) -> bool:
    if not isinstance(source, str | Path):
        return False
    path = Path(source)
    return (path.suffix == SUFFIX and path.is_file()) or any(_files(path))


def read(source: str | Path, wanted: Wanted = None) -> AseLmdbEntries:
    path = Path(source)
    return AseLmdbEntries(_files(path) if path.is_dir() else [path], wanted)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []


class AseLmdbEntries(Sequence):
    """The rows of files one behind the other; holds none of them."""

    def __init__(self, paths: Sequence[Path], wanted: Wanted = None):
        self.files, self.wanted = [Rows(path) for path in paths], wanted
        self.ends = list(accumulate(len(rows) for rows in self.files))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> Entry:  # type: ignore[override]  # no slices
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        k = index % len(self)
        place = bisect_right(self.ends, k)
        rows = self.files[place]
        row = k - (self.ends[place] - len(rows))
        return entry(rows[row], row, Path(rows.name).name, self.wanted)
