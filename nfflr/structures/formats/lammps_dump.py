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
from ase.data import chemical_symbols
from ase.io.formats import open_with_compression

from ...errors import StructureError
from ...notes import note
from ..species import element_of_type, set_masses
from . import UNPACKING, cannot_unpack, start_of, suffix_of

START = re.compile(rb"\s*ITEM: (TIMESTEP|UNITS|TIME|NUMBER OF ATOMS)\b")
UNITS = ("metal", "real", "electron", "si", "cgs")
ADVICE = (
    "types alone name no elements: dump a column element (dump_modify ... element Si O), typelabel or mass"
)
POSITIONS = {"x": False, "xu": False, "xs": True, "xsu": True}  # whether they are fractions of the box


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
        """The next line.

        Raises:
            StructureError: the file ends inside a frame.
        """
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
            elif item == "TIMESTEP":
                items["timestep"] = self._integer()
            elif item == "NUMBER OF ATOMS":
                items["number"] = self._integer()
            elif item.startswith("BOX BOUNDS"):
                items["box"] = self._box(item.split()[2:])
            elif item.startswith("ATOMS"):
                if "number" not in items or "box" not in items:
                    raise self.wrong("expected NUMBER OF ATOMS and BOX BOUNDS before ATOMS")
                yield self._atoms(item.split()[1:], items)
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
        if inside:
            self.next()
        return ""

    def _integer(self) -> int:
        line = self.next()
        if not line.isdecimal():
            raise self.wrong(f"got {line!r}; expected a number")
        return int(line)

    def _floats(self, line: str, count: int) -> list[float]:
        try:
            values = [float(word) for word in line.split()]
        except ValueError:
            values = []
        if len(values) < count:
            raise self.wrong(f"got {line!r}; expected {count} numbers")
        return values

    def _box(self, words: list[str]) -> tuple[np.ndarray, np.ndarray, list[bool]]:
        """Cell (3, 3) in Å, its origin (3,), and which axes are periodic."""
        boundaries = words[-3:]
        if len(boundaries) < 3 or not all(re.fullmatch("[pfsm]{1,2}", word) for word in boundaries):
            raise self.wrong(
                "expected boundaries behind BOX BOUNDS, as pp pp pp, which say the periodic axes"
            )
        general, skewed = words[:2] == ["abc", "origin"], words[:3] == ["xy", "xz", "yz"]
        rows = np.array([self._floats(self.next(), 4 if general else 2 + skewed) for _ in range(3)])
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

    def _atoms(self, names: list[str], items: dict) -> ase.Atoms:
        columns = self._columns(names, items["number"])
        cell, origin, pbc = items["box"]
        elements, masses = self._elements(columns)
        atoms = ase.Atoms(elements, self._positions(columns, cell, origin), cell=cell, pbc=pbc)
        set_masses(atoms, masses)
        if "timestep" in items:
            atoms.info["timestep"] = items["timestep"]
        if velocities := self._vectors(columns, "vx", "vy", "vz", quantity="velocity"):
            atoms.set_velocities(velocities[0])
        if "q" in columns:
            atoms.set_initial_charges(convert(self._numbers(columns["q"]), "charge", self.units, "ASE"))
        if forces := self._vectors(columns, "fx", "fy", "fz", quantity="force"):
            atoms.calc = SinglePointCalculator(atoms, forces=forces[0])
        return atoms

    def _columns(self, names: list[str], number: int) -> dict[str, np.ndarray]:
        """Words (N,) of each column, sorted by id."""
        rows: list[list[str]] = []
        for _ in range(number):
            row = self.next().split()
            if len(row) != len(names):
                if row[:1] == ["ITEM:"] or not row:
                    raise self.wrong(f"has {len(rows)} of {number} atoms; the file is truncated")
                raise self.wrong(f"got {len(row)} columns; expected {len(names)}: {' '.join(names)}")
            rows.append(row)
        words = np.array(rows, dtype=str).reshape(-1, len(names))
        if "id" in names:
            ids = self._numbers(words[:, names.index("id")])
            if len(np.unique(ids)) < number:
                raise self.wrong("two atoms of this frame have one id")
            words = words[np.argsort(ids)]
        return dict(zip(names, words.T, strict=True))

    def _numbers(self, words: np.ndarray) -> np.ndarray:
        try:
            return words.astype(float)
        except ValueError as error:
            raise self.wrong(f"this frame has a column with a word that is no number ({error})") from error

    def _vectors(self, columns: dict, *names: str, quantity: str) -> tuple[np.ndarray, ...]:
        """The vectors (N, 3) of three columns in ASE's units, in a tuple that is empty if they are absent."""
        if not all(name in columns for name in names):
            return ()
        values = np.column_stack([self._numbers(columns[name]) for name in names])
        return (convert(values, quantity, self.units, "ASE"),)

    def _positions(self, columns: dict, cell: np.ndarray, origin: np.ndarray) -> np.ndarray:
        for suffix, scaled in POSITIONS.items():
            names = [axis + suffix[1:] for axis in "xyz"]
            if all(name in columns for name in names):
                values = np.column_stack([self._numbers(columns[name]) for name in names])
                return origin + values @ cell if scaled else convert(values, "distance", self.units, "ASE")
        raise self.wrong("expected columns x y z, xu yu zu, xs ys zs or xsu ysu zsu")

    def _elements(self, columns: dict) -> tuple[np.ndarray, list[float | None]]:
        """Atomic numbers (N,) and masses (N,), None where they are standard."""
        labels = columns.get("element", columns.get("typelabel"))
        n = len(next(iter(columns.values())))
        masses = None
        if "mass" in columns:
            masses = convert(self._numbers(columns["mass"]), "mass", self.units, "ASE").tolist()
        names = [None] * n if labels is None else labels.tolist()
        kinds = list(zip(names, masses or [None] * n, strict=True))
        where = f"{self.path}: frame {self.count}"
        elements = {kind: element_of_type(*kind, where, ADVICE) for kind in dict.fromkeys(kinds)}
        if masses is None:
            self._check_default(columns)
        numbers = np.array([elements[kind][0] for kind in kinds], dtype=int)
        return numbers, [elements[kind][1] for kind in kinds]

    def _check_default(self, columns: dict) -> None:
        """Note that all types are carbon, which LAMMPS writes where no element was named."""
        if self.default_named or not {"element", "type"} <= columns.keys():
            return
        self.default_named = True
        if set(columns["element"]) == {chemical_symbols[6]} and len(set(columns["type"])) > 1:
            note(
                f"{self.path}: all types are C, which LAMMPS writes unless dump_modify names elements; "
                "check them"
            )
