"""Data files of LAMMPS (``read_data``, ``write_data``), also compressed: https://docs.lammps.org/read_data.html.

Elements follow from ``Atom Type Labels``, from comments behind ``Masses`` (``1 28.085 # Si``), or from the
masses. The first line is a comment, from which units and boundaries are taken if it names them, as
``units = metal, boundary = p p f``; otherwise they are ``metal`` and periodic.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ase
import numpy as np
from ase.calculators.lammps import Prism, convert
from ase.data import atomic_masses, atomic_numbers

from ...errors import StructureError
from ..species import EQUAL, Element, atoms_of, element_of_type
from . import content_of, plain_name, start_of, suffix_of

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
ADVICE = "write Masses with comments, as '1 28.085 # Si', or a section Atom Type Labels"
Line = tuple[int, list[str], str]  # number, words, comment


def opens(path: Path) -> bool:
    start = start_of(path, 2000)
    if suffix_of(path) in SUFFIXES:
        return not start.lstrip().startswith(b"ITEM:")  # a dump
    named = plain_name(path).name.startswith("data.")
    return named and re.search(rb"^\s*\d+\s+atoms\b", start, re.MULTILINE) is not None


def read(path: Path) -> Iterator[ase.Atoms]:
    yield _Data(path, content_of(path).decode("utf-8-sig", "replace")).atoms()


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
            elements[word] = element_of_type(labels.get(kind) or comment, weight, where, ADVICE)
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


class AtomType(NamedTuple):
    """What LAMMPS calls a type: a chemical symbol, and the mass in amu."""

    symbol: str
    mass: float

    @property
    def label(self) -> str:
        """``Si``, or with the mass of an isotope ``Si_29.97``, which tells types of one element apart."""
        isotope = abs(self.mass - atomic_masses[atomic_numbers[self.symbol]]) >= EQUAL
        return f"{self.symbol}_{self.mass:.8g}" if isotope else self.symbol


def types_of(atoms: ase.Atoms) -> list[AtomType]:
    """Types in the order in which they first appear; masses that round to the standard one are one type."""
    return list(dict.fromkeys(_type_by_atom(atoms)))


def _type_by_atom(atoms: ase.Atoms) -> list[AtomType]:
    standard = atomic_masses[atoms.numbers]
    masses = np.round(atoms.get_masses(), 6)
    masses = np.where(np.abs(masses - standard) < EQUAL, standard, masses)
    return [AtomType(s, float(m)) for s, m in zip(atoms.get_chemical_symbols(), masses, strict=True)]


def lammps_data(
    atoms: ase.Atoms,
    types: Sequence[AtomType] | None = None,
    *,
    velocities: bool = True,
    skewed: bool = False,
    origin: np.ndarray | None = None,
) -> str:
    """The text of a data file, turned so that the cell is as LAMMPS needs it.

    Args:
        atoms: with three lattice vectors.
        types: in the order of their numbers; default: ``types_of(atoms)``.
        velocities: write those of the structure, if it has some.
        skewed: write tilt factors of zero too, so that a barostat can change them.
        origin: corner (3,) of the box in Å; default: zero.
    """
    types = types_of(atoms) if types is None else types
    prism = Prism(atoms.get_cell())
    *lengths, xy, xz, yz = prism.get_lammps_prism()
    corner = np.zeros(3) if origin is None else prism.vector_to_lammps(origin)
    numbers = {kind: k for k, kind in enumerate(types, start=1)}
    boundary = " ".join("p" if periodic else "f" for periodic in atoms.pbc)
    lines = [
        f"{atoms.get_chemical_formula()}, units = metal, boundary = {boundary}",
        "",
        f"{len(atoms)} atoms",
        f"{len(types)} atom types",
        "",
        *(
            f"{corner[k]:.17g} {corner[k] + lengths[k]:.17g} {axis}lo {axis}hi"
            for k, axis in enumerate("xyz")
        ),
        *([f"{xy:.17g} {xz:.17g} {yz:.17g} xy xz yz"] if skewed or prism.is_skewed() else []),
        *("", "Atom Type Labels", "", *(f"{k} {kind.label}" for kind, k in numbers.items())),
        *("", "Masses", "", *(f"{k} {kind.mass:.10g} # {kind.label}" for kind, k in numbers.items())),
    ]
    charges = atoms.get_initial_charges() if atoms.has("initial_charges") else None
    if charges is not None:
        charges = convert(charges, "charge", "ASE", "metal")
    lines += ["", f"Atoms # {'atomic' if charges is None else 'charge'}", ""]
    positions = prism.vector_to_lammps(atoms.positions)
    for k, (kind, x) in enumerate(zip(_type_by_atom(atoms), positions, strict=True)):
        charge = "" if charges is None else f" {charges[k]:.10g}"
        lines.append(f"{k + 1} {numbers[kind]}{charge} {_row(x)}")
    if velocities and atoms.has("momenta"):
        rows = convert(prism.vector_to_lammps(atoms.get_velocities()), "velocity", "ASE", "metal")
        lines += ["", "Velocities", "", *(f"{k} {_row(row)}" for k, row in enumerate(rows, start=1))]
    return "\n".join(lines) + "\n"


def _row(vector: np.ndarray) -> str:
    return " ".join(f"{value:.17g}" for value in vector)
