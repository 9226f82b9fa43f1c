"""Text dumps of LAMMPS (``dump custom``), also compressed: https://docs.lammps.org/dump.html.

Elements follow from a column ``element`` or ``typelabel``, or from ``mass``. Units are those of an
``ITEM: UNITS``, otherwise ``metal``. Atoms are sorted by ``id``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import ase
import numpy as np
from ase.calculators.lammps import convert
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.formats import open_with_compression

from ...errors import StructureError
from ...notes import note
from ..species import Element, atoms_of, element_of_type
from . import UNPACKING, cannot_unpack, start_of, suffix_of

START = re.compile(rb"\s*ITEM: (TIMESTEP|UNITS|TIME|NUMBER OF ATOMS)\b")
UNITS = ("metal", "real", "electron", "si", "cgs")
ADVICE = (
    "types alone name no elements: dump a column element (dump_modify ... element Si O), typelabel or mass"
)
POSITIONS = {"": False, "u": False, "s": True, "su": True}  # whether they are fractions of the box


def opens(path: Path) -> bool:
    start = start_of(path, 2000)
    return START.match(start) is not None or (suffix_of(path) == ".lammpstrj" and b"\0" not in start)


def read(path: Path) -> Iterator[ase.Atoms]:
    try:
        with open_with_compression(str(path), "rb") as file:
            yield from _Dump(path, (line.decode("utf-8", "replace").strip() for line in file)).frames()
    except UNPACKING as error:
        raise cannot_unpack(path, error) from error


class _Dump:
    """Lines of a file, and what its items have said so far."""

    def __init__(self, path: Path, lines: Iterator[str]):
        self.path, self.lines, self.at, self.count = path, lines, 0, 0
        self.units = "metal"
        self.default_named = False

    def wrong(self, message: str) -> StructureError:
        return StructureError(f"{self.path}: frame {self.count}: line {self.at}: {message}")

    def next(self) -> str:
        """The next line; a StructureError where the file ends inside a frame."""
        for line in self.lines:
            self.at += 1
            return line
        raise StructureError(
            f"{self.path}: frame {self.count} ends after line {self.at}; the file is truncated"
        )

    def frames(self) -> Iterator[ase.Atoms]:
        items: dict = {}
        while item := self._item(bool(items)):
            if item == "UNITS":
                self.units = self.next()
                if self.units not in UNITS:
                    raise self.wrong(f"units {self.units} are not read; expected metal or real")
            elif item in ("TIMESTEP", "NUMBER OF ATOMS"):
                line = self.next()
                if not line.isdecimal():
                    raise self.wrong(f"got {line!r}; expected a number")
                items[item] = int(line)
            elif item.startswith("BOX BOUNDS"):
                items["box"] = self._box(item.split()[2:])
            elif item.startswith("ATOMS"):
                if "NUMBER OF ATOMS" not in items or "box" not in items:
                    raise self.wrong("expected NUMBER OF ATOMS and BOX BOUNDS before ATOMS")
                yield self._atoms(self._columns(item.split()[1:], items["NUMBER OF ATOMS"]), items)
                self.count += 1
                items = {}
            else:
                self.next()  # TIME, or an item of a later version: its value

    def _item(self, inside: bool) -> str:
        """The next ``ITEM:``; empty at the end of the file."""
        for line in self.lines:
            self.at += 1
            if line.startswith("ITEM: "):
                return line.removeprefix("ITEM: ").strip()
            if line:
                self.count -= not inside  # the line belongs to the frame before
                raise self.wrong(f"got {line[:40]!r}; expected a line ITEM, or NUMBER OF ATOMS is wrong")
        return self.next() if inside else ""

    def _box(self, words: list[str]) -> tuple[np.ndarray, np.ndarray, list[bool]]:
        """Cell (3, 3) in Å, its origin (3,), and which axes are periodic."""
        boundaries = words[-3:]
        if len(boundaries) < 3 or not all(re.fullmatch("[pfsm]{1,2}", word) for word in boundaries):
            raise self.wrong(
                "expected boundaries behind BOX BOUNDS, as pp pp pp, which say the periodic axes"
            )
        general, skewed = words[:2] == ["abc", "origin"], words[:3] == ["xy", "xz", "yz"]
        rows = np.array([self._bounds(4 if general else 2 + skewed) for _ in range(3)])
        if general:
            cell, origin = rows[:, :3], rows[:, 3]
        else:
            xy, xz, yz = rows[:, 2] if skewed else (0.0, 0.0, 0.0)
            low, high = rows[:, 0].copy(), rows[:, 1].copy()
            low[:2] -= min(0, xy, xz, xy + xz), min(0, yz)  # bounds enclose the tilted box
            high[:2] -= max(0, xy, xz, xy + xz), max(0, yz)
            cell = np.diag(high - low)
            cell[1, 0], cell[2, 0], cell[2, 1] = xy, xz, yz
            origin = low
        cell, origin = (convert(x, "distance", self.units, "ASE") for x in (cell, origin))
        return cell, origin, ["p" in word for word in boundaries]

    def _bounds(self, count: int) -> list[float]:
        line = self.next()
        try:
            values = [float(word) for word in line.split()]
        except ValueError:
            values = []
        if len(values) < count:
            raise self.wrong(f"got {line!r}; expected {count} numbers")
        return values

    def _columns(self, names: list[str], number: int) -> dict[str, np.ndarray]:
        """Words (N,) of each column, sorted by id."""
        rows: list[list[str]] = []
        for _ in range(number):
            row = self.next().split()
            if row[:1] == ["ITEM:"] or not row:
                raise self.wrong(f"has {len(rows)} of {number} atoms; the file is truncated")
            if len(row) != len(names):
                raise self.wrong(f"got {len(row)} columns; expected {len(names)}: {' '.join(names)}")
            rows.append(row)
        columns = dict(zip(names, np.array(rows, dtype=str).reshape(-1, len(names)).T, strict=True))
        if "id" not in names:
            return columns
        ids = self._values(columns, ["id"])[:, 0]
        if len(np.unique(ids)) < number:
            raise self.wrong("two atoms of this frame have one id")
        return {name: words[np.argsort(ids)] for name, words in columns.items()}

    def _values(self, columns: dict, names: list[str], quantity: str = "") -> np.ndarray:
        """Numbers (N, columns) in ASE's units; no columns if one is absent."""
        if not all(name in columns for name in names):
            return np.zeros((0, 0))
        try:
            values = np.column_stack([columns[name].astype(float) for name in names])
        except ValueError as error:
            raise self.wrong(f"this frame has a column with a word that is no number ({error})") from error
        return np.asarray(convert(values, quantity, self.units, "ASE")) if quantity else values

    def _atoms(self, columns: dict[str, np.ndarray], items: dict) -> ase.Atoms:
        cell, origin, pbc = items["box"]
        positions = self._positions(columns, cell, origin)
        atoms = atoms_of(self._elements(columns), positions=positions, cell=cell, pbc=pbc)
        if "TIMESTEP" in items:
            atoms.info["timestep"] = items["TIMESTEP"]
        if (velocities := self._values(columns, ["vx", "vy", "vz"], "velocity")).size:
            atoms.set_velocities(velocities)
        if (charges := self._values(columns, ["q"], "charge")).size:
            atoms.set_initial_charges(charges[:, 0])
        if (forces := self._values(columns, ["fx", "fy", "fz"], "force")).size:
            atoms.calc = SinglePointCalculator(atoms, forces=forces)
        return atoms

    def _positions(self, columns: dict, cell: np.ndarray, origin: np.ndarray) -> np.ndarray:
        for suffix, scaled in POSITIONS.items():
            names = [axis + suffix for axis in "xyz"]
            if all(name in columns for name in names):
                values = self._values(columns, names, "" if scaled else "distance")
                return origin + values @ cell if scaled else values
        raise self.wrong("expected columns x y z, xu yu zu, xs ys zs or xsu ysu zsu")

    def _elements(self, columns: dict) -> list[Element]:
        n = len(next(iter(columns.values())))
        labels = columns.get("element", columns.get("typelabel"))
        names = [None] * n if labels is None else labels.tolist()
        masses = [None] * n
        if "mass" in columns:
            masses = self._values(columns, ["mass"], "mass")[:, 0].tolist()
        else:
            self._check_default(columns)
        kinds = list(zip(names, masses, strict=True))
        where = f"{self.path}: frame {self.count}"
        elements = {kind: element_of_type(*kind, where, ADVICE) for kind in dict.fromkeys(kinds)}
        return [elements[kind] for kind in kinds]

    def _check_default(self, columns: dict) -> None:
        """Note that all types are carbon, which LAMMPS writes where no element was named."""
        if self.default_named or not {"element", "type"} <= columns.keys():
            return
        self.default_named = True
        if set(columns["element"]) == {"C"} and len(set(columns["type"])) > 1:
            note(
                f"{self.path}: all types are C, which LAMMPS writes unless dump_modify names elements; "
                "check them"
            )
