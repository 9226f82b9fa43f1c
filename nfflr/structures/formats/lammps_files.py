"""Files of LAMMPS, also compressed: data files and text dumps (``dump custom``).

The formats are those of https://docs.lammps.org/read_data.html and https://docs.lammps.org/dump.html.

Elements of a data file follow from ``Atom Type Labels``, from comments behind ``Masses`` (``1 28.085 # Si``),
or from the masses. Its first line is a comment, from which units and boundaries are taken if it names them,
as ``units = metal, boundary = p p f``; otherwise they are ``metal`` and periodic.

Elements of a dump follow from a column ``element`` or ``typelabel``, or from ``mass``. Units are those of an
``ITEM: UNITS``, otherwise ``metal``. Atoms are sorted by ``id``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.calculators.lammps import convert
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.formats import open_with_compression

from ...errors import StructureError
from ...notes import note
from ..species import Element, atoms_of, element_of_type
from . import UNPACKING, cannot_unpack, content_of, plain_name, start_of, suffix_of

SUFFIXES = (".data", ".lmp", ".lammps", ".lammps-data", ".lammps_data", ".lammpsdata")
STYLES = {
    "atomic": "id type x y z",
    "charge": "id type q x y z",
    "bond": "id molecule type x y z",
    "angle": "id molecule type x y z",
    "molecular": "id molecule type x y z",
    "full": "id molecule type q x y z",
    "sphere": "id type diameter density x y z",
    "dipole": "id type q x y z mux muy muz",
    "spin": "id type x y z spx spy spz sp",
}
IMAGES = ("ix", "iy", "iz")  # flags that may stand behind the columns of a style
GUESSED = ("atomic", "charge", "molecular", "full")
UNITS = ("metal", "real", "electron", "si", "cgs")
SECTION = re.compile(r"[A-Z]\w+(?: [A-Z]\w+)*")  # Atoms, Pair Coeffs, BondBond13 Coeffs …
HEADER = re.compile(
    r"(?P<numbers>[-+.\deEdD\s]+?)\s+(?P<name>atoms|atom\s+types|[xyz]lo\s+[xyz]hi|xy\s+xz\s+yz|[abc]vec|"
    r"abc\s+origin)$"
)
DATA_ADVICE = "write Masses with comments, as '1 28.085 # Si', or a section Atom Type Labels"
Line = tuple[int, list[str], str]  # number, words, comment
START = re.compile(rb"\s*ITEM: (TIMESTEP|UNITS|TIME|NUMBER OF ATOMS)\b")
DUMP_ADVICE = (
    "types alone name no elements: dump a column element (dump_modify ... element Si O), typelabel or mass"
)
POSITIONS = {"": False, "u": False, "s": True, "su": True}  # whether they are fractions of the box


def opens(path: Path) -> bool:
    if suffix_of(path) in SUFFIXES or is_dump(path):
        return True
    named = plain_name(path).name.startswith("data.")
    return named and re.search(rb"^\s*\d+\s+atoms\b", start_of(path, 2000), re.MULTILINE) is not None


def is_dump(path: Path) -> bool:
    """Whether the file is a dump, which begins with an ``ITEM``."""
    start = start_of(path, 2000)
    return START.match(start) is not None or (suffix_of(path) == ".lammpstrj" and b"\0" not in start)


def read(path: Path) -> Iterator[ase.Atoms]:
    if not is_dump(path):
        yield _Data(path, content_of(path).decode("utf-8-sig", "replace")).atoms()
        return
    try:
        with open_with_compression(str(path), "rb") as file:
            yield from _Dump(path, (line.decode("utf-8", "replace").strip() for line in file)).frames()
    except UNPACKING as error:
        raise cannot_unpack(path, error) from error


class _Data:
    """A file as header values and the lines of each section."""

    def __init__(self, path: Path, text: str):
        self.path = path
        title, *lines = text.replace("\r\n", "\n").split("\n")
        match = re.search(r"\bunits\s*=?\s*(lj|real|metal|si|cgs|electron|micro|nano)\b", title)
        self.units = match[1] if match else "metal"
        if self.units not in UNITS:
            raise self.wrong(1, f"units {self.units} are not read; expected metal or real")
        words = re.search(r"boundary\s*=?\s*((?:[pfsm]{1,2}\s+){2}[pfsm]{1,2})", title)
        self.pbc = ["p" in word for word in words[1].split()] if words else [True] * 3
        self.header: dict[str, list[float]] = {}
        self.sections: dict[str, list[Line]] = {}
        self.style = ""  # in the comment behind the word Atoms
        self._split(lines)

    def _split(self, lines: list[str]) -> None:
        body: list[Line] | None = None
        for number, line in enumerate(lines, start=2):
            content, _, comment = (part.strip() for part in line.partition("#"))
            name = " ".join(content.split())
            if SECTION.fullmatch(name):
                body = self.sections.setdefault(name, [])
                if name == "Atoms":
                    self.style = comment.partition(" ")[0].partition("/")[0]
            elif content and body is not None:
                body.append((number, content.split(), comment))
            elif content and (match := HEADER.match(content)):
                key = " ".join(match["name"].split())
                self.header[key] = self._floats(number, match["numbers"].split())

    def wrong(self, number: int, message: str) -> StructureError:
        return StructureError(f"{self.path}: line {number}: {message}")

    def _floats(self, number: int, words: list[str]) -> list[float]:
        try:
            return [float(word) for word in words]
        except ValueError as error:
            raise self.wrong(number, f"got {' '.join(words)!r}; expected numbers") from error

    def _convert(self, values: Any, quantity: str) -> Any:
        return convert(values, quantity, self.units, "ASE")

    def atoms(self) -> ase.Atoms:
        n_atoms, cell = int(self.header.get("atoms", [0])[0]), self._cell()
        if not n_atoms or "Atoms" not in self.sections:
            raise StructureError(
                f"{self.path}: has no line 'N atoms' or no section Atoms; expected a data file of LAMMPS, "
                "or the file is truncated"
            )
        columns = self._columns(n_atoms)
        order = np.argsort(columns["id"].astype(int))
        columns = {name: words[order] for name, words in columns.items()}
        meanings = self._elements(columns["type"].tolist())
        positions = np.column_stack([columns[axis].astype(float) for axis in "xyz"])
        images = np.column_stack([columns[name].astype(int) for name in IMAGES])
        positions = self._convert(positions, "distance") + images @ cell
        elements = [meanings[kind] for kind in columns["type"]]
        atoms = atoms_of(elements, positions=positions, cell=cell, pbc=self.pbc)
        charges = columns["q"].astype(float) if "q" in columns else np.zeros(0)
        if charges.any():
            atoms.set_initial_charges(self._convert(charges, "charge"))
        self._set_velocities(atoms, {int(word): place for place, word in enumerate(columns["id"])})
        return atoms

    def _cell(self) -> np.ndarray:
        """Lattice vectors (3, 3) in Å."""
        vectors = [self.header.get(f"{axis}vec", []) for axis in "abc"]
        if all(len(vector) == 3 for vector in vectors):
            return np.asarray(self._convert(np.array(vectors), "distance"))
        bounds = [self.header.get(f"{axis}lo {axis}hi", []) for axis in "xyz"]
        tilt = self.header.get("xy xz yz", [0.0] * 3)
        if any(len(bound) != 2 for bound in bounds) or len(tilt) != 3:
            raise StructureError(
                f"{self.path}: has no box; expected lines 'lo hi xlo xhi' of three axes, or avec, bvec "
                "and cvec"
            )
        cell = np.diag([high - low for low, high in bounds])
        cell[1, 0], cell[2, 0], cell[2, 1] = tilt
        return np.asarray(self._convert(cell, "distance"))

    def _columns(self, n_atoms: int) -> dict[str, np.ndarray]:
        """Words of the section Atoms by column; image flags are zero where the file has none."""
        lines = self.sections["Atoms"]
        if len(lines) < n_atoms:
            raise StructureError(
                f"{self.path}: has {len(lines)} of {n_atoms} atoms; the file is truncated, or its line "
                "'atoms' is wrong"
            )
        if len(lines) > n_atoms:
            raise self.wrong(lines[n_atoms][0], f"is one more than the {n_atoms} atoms of the header")
        names = STYLES[self._style([row for _, row, _ in lines])].split()
        width = len(lines[0][1])
        for number, row, _ in lines:
            if len(row) != width or width not in (len(names), len(names) + 3):
                raise self.wrong(number, f"got {' '.join(row)!r}; expected columns {' '.join(names)}")
            numbers = [word for name, word in zip(names, row, strict=False) if name not in ("id", "type")]
            self._floats(number, numbers)
            if not row[0].isdecimal():
                raise self.wrong(number, f"got {row[0]!r}; expected the id of an atom")
            if any(not re.fullmatch(r"[+-]?\d+", word) for word in row[len(names) :]):
                raise self.wrong(number, "the last three columns are no image flags")
        words = np.array([row for _, row, _ in lines])  # (N, columns)
        if len(np.unique(words[:, 0])) < n_atoms:
            raise StructureError(f"{self.path}: two atoms have one id; give each its own")
        columns = dict.fromkeys(IMAGES, np.zeros(n_atoms))
        return columns | dict(zip((*names, *IMAGES), words.T, strict=False))

    def _style(self, rows: list[list[str]]) -> str:
        """The style that the comment behind Atoms names, or the only one that columns fit."""
        if self.style in STYLES:
            return self.style
        fitting = [style for style in GUESSED if self._fits(STYLES[style].split(), rows)]
        if len(fitting) != 1:
            raise StructureError(
                f"{self.path}: the columns of Atoms fit {' and '.join(fitting) or 'no style'}; write the "
                "style behind the word Atoms, as 'Atoms # charge'"
            )
        return fitting[0]

    def _fits(self, names: list[str], rows: list[list[str]]) -> bool:
        if len(rows[0]) not in (len(names), len(names) + 3):
            return False
        columns = dict(zip(names, zip(*rows, strict=False), strict=False))
        n_types = self.header.get("atom types", [np.inf])[0]
        labels = {words[-1] for _, words, _ in self.sections.get("Atom Type Labels", [])}
        types = all(
            word in labels or (word.isdecimal() and 1 <= int(word) <= n_types) for word in columns["type"]
        )
        # Charges of a whole file are not written as positive integers.
        charges = "q" not in columns or not all(word.isdecimal() and int(word) for word in columns["q"])
        return types and charges and all(word.isdecimal() for word in columns.get("molecule", ()))

    def _elements(self, types: list[str]) -> dict[str, Element]:
        """The element of each type, by number and by label."""
        labels: dict[str, str] = {}
        for number, words, _ in self.sections.get("Atom Type Labels", []):
            if len(words) != 2:
                raise self.wrong(number, f"got {' '.join(words)!r}; expected a type and its label")
            labels[words[0]] = words[1]
        numbers = {label: kind for kind, label in labels.items()}
        masses: dict[str, tuple[int, float | None, str]] = {}
        for number, words, comment in self.sections.get("Masses", []):
            (mass,) = self._floats(number, words[1:2] or [""])
            kind = numbers.get(words[0], words[0])
            masses[kind] = number, self._convert(mass, "mass"), comment.partition(" ")[0]
        elements = {}
        for word in dict.fromkeys(types):
            kind = numbers.get(word, word)
            number, weight, comment = masses.get(kind, (0, None, ""))
            where = f"{self.path}: line {number}" if number else f"{self.path}: type {word}"
            elements[word] = element_of_type(labels.get(kind) or comment, weight, where, DATA_ADVICE)
        return elements

    def _set_velocities(self, atoms: ase.Atoms, places: dict[int, int]) -> None:
        lines = self.sections.get("Velocities", [])
        if lines and len(lines) < len(atoms):
            raise StructureError(
                f"{self.path}: has velocities of {len(lines)} of {len(atoms)} atoms; the file is truncated"
            )
        velocities = np.zeros((len(atoms), 3))
        for number, words, _ in lines:
            values = self._floats(number, words)
            if len(values) < 4 or int(values[0]) not in places:
                raise self.wrong(
                    number, f"got {' '.join(words)!r}; expected the id of an atom and its velocity"
                )
            velocities[places[int(values[0])]] = values[1:4]
        if velocities.any():
            atoms.set_velocities(self._convert(velocities, "velocity"))


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
        elements = {kind: element_of_type(*kind, where, DUMP_ADVICE) for kind in dict.fromkeys(kinds)}
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
