"""Data files for LAMMPS, in ``metal`` units: one type of atoms for each element and mass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import ase
import numpy as np
from ase.calculators.lammps import Prism, convert
from ase.data import atomic_masses, atomic_numbers

from .symbols import EQUAL


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
