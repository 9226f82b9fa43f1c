"""VASP's POSCAR and CONTCAR, also compressed: the whole format of https://www.vasp.at/wiki/index.php/POSCAR.

Flags of ``Selective dynamics`` become ``FixAtoms`` or, along single lattice vectors, ``FixScaled``. A file of
VASP 4 has no symbols: its title is taken for them only if it is nothing else, then a POTCAR or OUTCAR beside.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import ase
import numpy as np
from ase.constraints import FixScaled
from ase.io.formats import extension2format, ioformats, open_with_compression
from ase.units import fs

from ...errors import StructureError
from ...notes import note
from ..constraints import constraints_of
from ..kinds import POSCAR
from ..species import Element, atoms_of, element_of, is_symbol
from . import content_of, plain_name, start_of

NAMES = ("POSCAR", "CONTCAR", "CENTCAR")
BESIDE = [name + packed for name in ("POTCAR", "OUTCAR") for packed in ("", ".gz", ".bz2")]
FLAG = re.compile(r"\.?([TF])", re.IGNORECASE)  # all that Fortran looks at


def opens(path: Path) -> bool:
    name = plain_name(path)
    if name.suffix.lower() in POSCAR:
        return True
    if not any(word in name.name.upper() for word in NAMES):
        return False
    ending = name.suffix.lower().lstrip(".")
    if ending not in extension2format and ending not in ioformats:
        return True
    lines = _lines(start_of(path, 2000))  # POSCAR.xyz: what is in it decides
    return bool(lines[1:] and _numbers(lines[1])) and all(len(_numbers(line)) >= 3 for line in lines[2:5])


def read(path: Path) -> Iterator[ase.Atoms]:
    yield _Poscar(path, _lines(content_of(path))).atoms()


def _lines(content: bytes) -> list[str]:
    text = content.decode("utf-8-sig", "replace")  # a title may be in any encoding
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _numbers(line: str) -> list[float]:
    """The numbers that a line begins with; Fortran writes exponents with D too."""
    numbers = []
    for word in line.split():
        try:
            numbers.append(float(re.sub(r"(?<=[\d.])[dD](?=[+-]?\d)", "e", word)))
        except ValueError:
            break
    return numbers


class _Poscar:
    """The lines of a file, read from the top."""

    def __init__(self, path: Path, lines: list[str]):
        self.path, self.lines, self.at = path, lines, 0

    def atoms(self) -> ase.Atoms:
        title = self.next("a title")
        scale, cell = self._cell()
        elements = self._elements(title)
        mode = self.next("Direct or Cartesian").strip()
        selective = mode[:1] in ("s", "S")
        if selective:
            mode = self.next("Direct or Cartesian").strip()
        if not mode or _numbers(mode):
            raise self.wrong(f"got {mode!r}; expected Direct or Cartesian, then the coordinates")
        positions, flags = self._positions(len(elements), selective)
        positions = positions * scale if mode[0] in "cCkK" else positions @ cell
        atoms = atoms_of(elements, positions=positions, cell=cell, pbc=True)
        if selective:
            atoms.set_constraint(constraints_of(~flags, FixScaled))
        velocities = self._velocities(len(atoms))
        if velocities is not None and velocities.any():
            atoms.set_velocities(velocities / fs)  # ASE sets those of fixed atoms to zero
        return atoms

    def next(self, what: str) -> str:
        """The next line; a StructureError where there is none, nor is there ``what``."""
        if self.at >= len(self.lines) or (self.at == len(self.lines) - 1 and not self.lines[-1]):
            raise StructureError(
                f"{self.path}: ends after line {self.at}; expected {what}: the file is truncated"
            )
        self.at += 1
        return self.lines[self.at - 1]

    def wrong(self, message: str) -> StructureError:
        return StructureError(f"{self.path}: line {self.at}: {message}")

    def _vector(self, what: str, wrong: str) -> tuple[str, list[float]]:
        """The next line and the three numbers that it begins with."""
        line = self.next(what)
        if len(numbers := _numbers(line)[:3]) < 3:
            raise self.wrong(f"got {line.strip()!r}; expected {wrong}")
        return line, numbers

    def _cell(self) -> tuple[np.ndarray, np.ndarray]:
        """Factors (1,) or (3,) of Cartesian coordinates, and the cell (3, 3) in Å."""
        line = self.next("a scale factor")
        scale = np.array(_numbers(line)[:3])
        if len(scale) not in (1, 3) or not scale.all() or (len(scale) == 3 and scale.min() < 0):
            raise self.wrong(f"got {line.strip()!r}; expected one scale factor or three positive ones")
        three = "three lattice vectors", "a lattice vector of three numbers"
        cell = np.array([self._vector(*three)[1] for _ in range(3)])
        if scale[0] < 0:  # the volume
            volume = abs(np.linalg.det(cell))
            if volume < 1e-12:
                raise self.wrong("the lattice vectors are linearly dependent; check the cell")
            scale = np.cbrt(-scale / volume)
        return scale, cell * scale

    def _elements(self, title: str) -> list[Element]:
        """The element of each atom."""
        what = "the number of atoms of each species"
        line = self.next(what)
        words, labels = _words(line), None
        if words and not _numbers(words[0]):
            labels, line = words, self.next(what)
            words = _words(line)
        if not words or not all(word.isdecimal() for word in words):
            raise self.wrong(f"got {line.strip()!r}; expected {what}")
        labels = self._labels_elsewhere(title, len(words)) if labels is None else labels
        if len(labels) != len(words):
            raise self.wrong(f"got {len(words)} counts for {len(labels)} symbols; expected one for each")
        counts = zip(labels, map(int, words), strict=True)
        return [element for label, n in counts for element in [self._element(label)] * n]

    def _element(self, label: str) -> Element:
        element = element_of(label)
        if element is None:
            raise self.wrong(f"{label!r} is no chemical symbol; expected one for each count, as Si or Si_pv")
        return element

    def _labels_elsewhere(self, title: str, number: int) -> list[str]:
        """The symbols of a file that has no line of them."""
        words = title.split()
        words = words if len(words) == number and all(map(is_symbol, words)) else []
        places = (self.path.with_name(name) for name in BESIDE)
        files = ((path.name, _titles(path)) for path in places if path.is_file() and path != self.path)
        name, beside = next(((name, labels) for name, labels in files if len(labels) == number), ("", []))
        if words and beside and [self._element(x) for x in words] != [self._element(x) for x in beside]:
            raise self.wrong(
                f"the title says {' '.join(words)} and {name} says {' '.join(beside)}; write a line "
                "of symbols above the counts"
            )
        if not words and not beside:
            raise self.wrong(
                "there are no symbols; write a line of symbols, as Si O, above the counts, or put the POTCAR "
                "beside the file (a title is not taken for symbols)"
            )
        return words or beside

    def _positions(self, number: int, selective: bool) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates (N, 3) as written, and flags (N, 3): whether they may change."""
        rows, flags = [], []
        for k in range(number):
            if self.at < len(self.lines) - 1 and not self.lines[self.at].strip():
                self.at += 1
                raise self.wrong(f"is blank after {k} of {number} atoms; the file is truncated")
            line, row = self._vector(f"{number} atoms, got {k}", f"three coordinates (atom {k} of {number})")
            rows.append(row)
            marks = [FLAG.match(word) for word in line.split()[3:6]] if selective else []
            if selective and (len(marks) < 3 or None in marks):
                raise self.wrong(
                    f"got {line.strip()!r}; Selective dynamics needs three flags T or F behind coordinates"
                )
            flags.append([mark[1] in "tT" for mark in marks if mark])
        return np.array(rows).reshape(-1, 3), np.array(flags, dtype=bool)

    def _velocities(self, number: int) -> np.ndarray | None:
        """Velocities (N, 3) in Å/fs, if the file has them."""
        mode = self._mode()
        if mode[:1] in ("l", "L"):
            note(f"{self.path}: velocities of the lattice are left out; ASE cannot hold them")
            for _ in range(7):  # a number, three velocities, three vectors
                self.next("velocities of the lattice")
            mode = self._mode()
        if _numbers(mode):
            raise self.wrong(
                f"got {mode!r} behind {number} atoms; the counts of the atoms are too small, or a blank line "
                "before velocities is missing"
            )
        first = self.lines[self.at] if self.at < len(self.lines) else ""
        if len(_numbers(first)) < 3:  # nothing, or numbers of VASP's integrator
            return None
        velocities, _ = self._positions(number, False)
        if mode and mode[0] not in "cCkK":
            note(
                f"{self.path}: velocities in lattice vectors per POTIM are left out; write them in Å/fs "
                "below a line Cartesian"
            )
            return None
        return velocities

    def _mode(self) -> str:
        """The next line, stripped; empty where there is none."""
        self.at += 1
        return self.lines[self.at - 1].strip() if self.at <= len(self.lines) else ""


def _words(line: str) -> list[str]:
    return re.split("[!#]", line)[0].split()


def _titles(path: Path) -> list[str]:
    """Species of a POTCAR or OUTCAR in order, as ``Si_pv``; none if it cannot be read."""
    labels = []
    try:
        with open_with_compression(str(path), "rb") as file:
            for line in file:
                if b"TITEL" in line:
                    labels.append(line.decode("ascii", "replace").split()[3])
                elif b"ions per type" in line:  # an OUTCAR is long
                    break
    except (OSError, EOFError, ValueError, IndexError):
        return []
    return labels
