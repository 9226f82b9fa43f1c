"""Configurations of MLIP-2 and MLIP-3 for moment tensor potentials: ``.cfg`` files of ``BEGIN_CFG`` blocks.

Lengths are Å, energies eV per configuration, forces eV/Å. ``PlusStress`` is −V σ in eV: the stress times the
volume, pressure positive, as the row "Total" of VASP's OUTCAR (Novikov et al., Mach. Learn.: Sci. Technol. 2,
025002 (2021)). Older files with ``Stress`` or ``Virial`` mean other things; these values are left out.

Atoms carry types only, 0, 1, …; their elements stand in a file beside it, ``train.cfg.species``: symbols in
the order of the types (``Cu Zr``), or in a line ``Feature species Cu Zr`` of each configuration.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ase
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

from ...errors import StructureError
from ...notes import note
from ..species import is_symbol
from . import content_of, plain_name, start_of, suffix_of

COMPONENTS = ("xx", "yy", "zz", "yz", "xz", "xy")  # ASE's order


def opens(path: Path) -> bool:
    """Whether a file named ``.cfg`` begins with ``BEGIN_CFG``; AtomEye's files have that name too."""
    return suffix_of(path) == ".cfg" and start_of(path, 200).lstrip().startswith(b"BEGIN_CFG")


def read(path: Path) -> Iterator[ase.Atoms]:
    """Every configuration with its labels.

    Raises:
        StructureError: elements are not given, or a block is malformed or did not converge; names file, frame
            and line.
    """
    species = _species_beside(path)
    lines = content_of(path).decode("utf-8", "replace").splitlines()
    start, count, other_stress = None, 0, False
    for number, line in enumerate(lines):
        word = line.strip()
        if word == "BEGIN_CFG":
            if start is not None:
                break
            start = number
        elif word == "END_CFG" and start is not None:
            block = Block(path, count, start + 1, lines[start + 1 : number])
            other_stress |= block.other_stress
            yield block.atoms(species)
            start, count = None, count + 1
    if start is not None:
        raise StructureError(
            f"{path}: frame {count} has no END_CFG (it begins in line {start + 1}); the file may be truncated"
        )
    if other_stress:
        note(f"{path}: values named Stress or Virial are left out, PlusStress is read")


def _species_beside(path: Path) -> list[str] | None:
    for name in (f"{path.name}.species", f"{plain_name(path)}.species"):
        file = path.with_name(name)
        if file.is_file():
            return _symbols(file.read_text(errors="replace"), str(file))
    return None


def _symbols(text: str, where: str) -> list[str]:
    symbols = text.replace(",", " ").split()
    for symbol in symbols:
        if not is_symbol(symbol):
            raise StructureError(f"{where}: {symbol!r} is no element; write symbols as: Cu Zr")
    if not symbols:
        raise StructureError(f"{where}: is empty; write symbols as: Cu Zr")
    return symbols


class Block:
    """The lines of a configuration, by the names of its sections."""

    def __init__(self, path: Path, index: int, first: int, lines: list[str]):
        self.path, self.where = path, f"{path}: frame {index}"
        self.first, self.lines, self.at = first, lines, 0
        self.size, self.cell, self.table = 0, np.zeros((0, 3)), np.zeros((0, 0))
        self.columns: list[str] = []
        self.energy: float | None = None
        self.stress: dict[str, float] = {}
        self.other_stress = False
        self.features: dict[str, str] = {}
        while self.at < len(lines):
            words = lines[self.at].split()
            self.at += 1
            if words:
                self._section(words[0].rstrip(":").lower(), words)

    def _section(self, name: str, words: list[str]) -> None:
        if name == "size":
            (size,) = self._row(1)
            if not (size.is_integer() and size >= 0):
                raise self._error(self.at - 1, "Size is no whole number")
            self.size = int(size)
        elif name == "supercell":
            rows: list[list[float]] = []
            while self.at < len(self.lines) and _numbers(self.lines[self.at]) and len(rows) < 3:
                rows.append(self._row(3))
            self.cell = np.reshape(rows, (-1, 3))
        elif name in ("atomdata", "atomic_data"):
            self.columns = words[1:]
            self.table = np.array([self._row(len(self.columns)) for _ in range(self.size)])
        elif name == "energy":
            (self.energy,) = self._row(1)
        elif name == "plusstress":
            self.stress = dict(zip(words[1:], self._row(len(words) - 1), strict=True))
        elif name in ("stress", "virial"):
            self.other_stress = True
            self.at += 1
        elif name == "feature" and len(words) > 1:
            self.features[words[1]] = " ".join(words[2:])
        else:
            raise self._error(self.at - 1, f"{words[0]!r} is no section of such a file")

    def _row(self, length: int) -> list[float]:
        """The numbers of the next line."""
        row = _numbers(self.lines[self.at]) if self.at < len(self.lines) else None
        if row is None or len(row) != length:
            raise self._error(self.at, f"expected {length} numbers")
        self.at += 1
        return row

    def _error(self, k: int, reason: str) -> StructureError:
        line = self.first + min(k, len(self.lines)) + 1
        return StructureError(f"{self.where}: line {line}: {reason}; correct the file")

    def atoms(self, species: list[str] | None) -> ase.Atoms:
        """The structure and its labels; raises as ``read``."""
        if "not_converged" in self.features.get("EFS_by", ""):
            raise StructureError(f"{self.where}: the calculation did not converge (EFS_by); leave it out")
        if not self.size:
            raise StructureError(f"{self.where}: has no Size or no atoms; expected at least one")
        if "species" in self.features:
            species = _symbols(self.features.pop("species"), f"{self.where}: Feature species")
        symbols = self._elements(species)
        pbc = np.arange(3) < len(self.cell)
        cell = np.zeros((3, 3))
        cell[pbc] = self.cell
        atoms = ase.Atoms(symbols, self._positions(cell), cell=cell, pbc=pbc, info=self.features)
        results: dict = {} if self.energy is None else {"energy": self.energy}
        if (forces := self._vectors("f")) is not None:
            results["forces"] = forces
        if self.stress and atoms.cell.rank == 3:
            missing = [name for name in COMPONENTS if name not in self.stress]
            if missing:
                raise StructureError(f"{self.where}: PlusStress lacks {', '.join(missing)}; correct the file")
            results["stress"] = -np.array([self.stress[name] for name in COMPONENTS]) / atoms.get_volume()
        if results:
            atoms.calc = SinglePointCalculator(atoms, **results)
        return atoms

    def _positions(self, cell: np.ndarray) -> np.ndarray:
        """Cartesian coordinates (N, 3) in Å."""
        fractions, positions = self._vectors("direct_"), self._vectors("cartes_")
        if fractions is not None:
            if len(self.cell) != 3:
                raise StructureError(f"{self.where}: direct coordinates need three vectors in Supercell")
            positions = fractions @ cell
        if positions is None:
            raise StructureError(
                f"{self.where}: AtomData has no cartes_x, cartes_y, cartes_z; correct the file"
            )
        if not np.isfinite(cell).all() or not np.isfinite(positions).all():
            raise StructureError(f"{self.where}: Supercell or a coordinate is not finite; correct the file")
        return positions

    def _elements(self, species: list[str] | None) -> list[str]:
        if species is None:
            raise StructureError(
                f"{self.path}: atoms have types and no elements; write the symbols in the order of the types "
                f"into {self.path.name}.species, as: Cu Zr"
            )
        kinds = self.table[:, self.columns.index("type")] if "type" in self.columns else np.zeros(self.size)
        wrong = ~np.isin(kinds, np.arange(len(species)))
        if wrong.any():
            raise StructureError(
                f"{self.where}: has the type {kinds[np.argmax(wrong)]:g}, but {len(species)} symbols are "
                f"given ({' '.join(species)}); types count from 0"
            )
        return [species[int(k)] for k in kinds]

    def _vectors(self, prefix: str) -> np.ndarray | None:
        """Three columns (N, 3), or None if one is absent."""
        names = [f"{prefix}{axis}" for axis in "xyz"]
        if any(name not in self.columns for name in names):
            return None
        return self.table[:, [self.columns.index(name) for name in names]]


def _numbers(line: str) -> list[float] | None:
    try:
        return [float(word) for word in line.split()] or None
    except ValueError:
        return None
