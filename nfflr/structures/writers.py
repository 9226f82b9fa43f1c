"""Structures to files: the format of the input, as long as it holds all that the structure carries.

A result is written in the format of its input. If that format cannot hold what the
structure carries (an open axis, constraints, isotopes, velocities, charges, magnetic moments), or cannot be
written, the result is extended XYZ; an ASE trajectory if even that cannot hold the constraints.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import ase
import ase.io
import ase.io.formats
import numpy as np
from ase.calculators.lammps import Prism, convert
from ase.constraints import FixCartesian, FixScaled
from ase.data import atomic_masses, atomic_numbers

from ..errors import ConfigError, StructureError
from ..storage.files import write_atomically
from . import formats
from .constraints import constraints_of, fixed_directions
from .formats import lammps_files
from .species import EQUAL

# Words for what a structure may carry beyond elements, positions and a periodic cell.
OPEN, CONSTRAINTS, MASSES = "an open axis", "its constraints", "masses of isotopes"
VELOCITIES, CHARGES, MOMENTS = "velocities", "charges", "magnetic moments"

# ASE's names
ARRAYS = {MASSES: "masses", VELOCITIES: "momenta", CHARGES: "initial_charges", MOMENTS: "initial_magmoms"}


@dataclass(frozen=True)
class Format:
    """A format that results are written in."""

    title: str
    suffix: str
    kind: str  # ASE's name of the format
    holds: frozenset[str]  # beyond elements, positions and a periodic cell


EVERYTHING = frozenset({OPEN, CONSTRAINTS, MASSES, VELOCITIES, CHARGES, MOMENTS})
FORMATS = {
    "cif": Format("CIF", ".cif", "cif", frozenset()),
    "vasp": Format("POSCAR", ".vasp", "vasp", frozenset({CONSTRAINTS, VELOCITIES})),
    "xyz": Format("extended XYZ", ".xyz", "extxyz", EVERYTHING),
    # ASE reads isotopes in LAMMPS's files as other elements, so there they count as lost.
    "lammps": Format("LAMMPS data", ".lammps-data", "lammps-data", frozenset({VELOCITIES, CHARGES})),
    "xsf": Format("XSF", ".xsf", "xsf", frozenset()),
    "gen": Format("DFTB+ gen", ".gen", "gen", frozenset()),
}
TRAJECTORY = Format("an ASE trajectory", ".traj", "traj", EVERYTHING)
OWN = {"cif": "cif", "poscar": "vasp", "lammps_files": "lammps"}  # modules of ``formats`` that read them
CIF_VALUES = ("spacegroup", "unit_cell", "occupancy", "spacegroup_kinds")  # stored by ASE's reader


def format_of(path: Path) -> str:
    """The name in ``FORMATS`` of a structure file's format; ``"xyz"`` where it is another."""
    reader = formats.find(path)
    if reader is lammps_files and lammps_files.is_dump(path):
        return "xyz"
    if reader is not None:
        return OWN.get(reader.__name__.rpartition(".")[2], "xyz")
    kind = formats.ase_format(path)
    return next((name for name, form in FORMATS.items() if form.kind == kind), "xyz")


def carried(atoms: ase.Atoms) -> frozenset[str]:
    """What a structure carries beyond elements, positions and a periodic cell."""
    standard = atomic_masses[atoms.numbers]
    marks = {
        OPEN: not (atoms.pbc.all() and atoms.cell.rank == 3),
        CONSTRAINTS: bool(atoms.constraints),
        MASSES: atoms.has("masses") and np.abs(atoms.get_masses() - standard).max(initial=0) > 1e-3,
        VELOCITIES: atoms.has("momenta") and atoms.get_momenta().any(),
        CHARGES: atoms.get_initial_charges().any(),
        MOMENTS: atoms.get_initial_magnetic_moments().any(),
    }
    return frozenset(word for word, present in marks.items() if present)


def losses(atoms: ase.Atoms, form: Format) -> list[str]:
    """What a format cannot hold of a structure, in words."""
    lost = carried(atoms) - form.holds
    if form is not TRAJECTORY and fixed_directions(atoms, lattice=form.kind == "vasp") is None:
        lost |= {CONSTRAINTS}
    return sorted(lost)


def write_structure(path: str | Path, atoms: ase.Atoms) -> None:
    """Write a structure in the format that the name of the file says; the file is whole or absent.

    Raises:
        ConfigError: the name is that of no format that is written.
        StructureError: the format cannot hold what the structure carries.
        ResourceError: the file cannot be written.
    """
    path = Path(path)
    forms = [*FORMATS.values(), TRAJECTORY]
    form = next((form for form in forms if form.suffix == path.suffix.lower()), None)
    if form is None:
        endings = ", ".join(form.suffix for form in forms)
        raise ConfigError(f"{path}: the ending names no format that is written; expected one of {endings}")
    if lost := losses(atoms, form):
        raise StructureError(
            f"{path}: {form.title} cannot hold {', '.join(lost)}; give a name in .xyz or .traj"
        )
    write_atomically(path, structure_bytes(atoms, form))


def structure_bytes(atoms: ase.Atoms, form: Format) -> bytes:
    """The content of a file of one structure; what the format cannot hold is left out.

    ``read_structure`` and ``ase.io.read`` read it.
    """
    atoms = _plain(atoms, form)
    if form.kind == "lammps-data":
        return lammps_data(atoms).encode()
    content = io.StringIO() if form.kind in ("extxyz", "vasp", "xsf", "gen") else io.BytesIO()
    ase.io.write(content, atoms, format=form.kind)
    text = content.getvalue()
    return text if isinstance(text, bytes) else text.encode()


def _plain(atoms: ase.Atoms, form: Format) -> ase.Atoms:
    """A copy that ASE's writer of this format takes: constraints in its terms, no values twice."""
    calculator, atoms = atoms.calc, atoms.copy()
    atoms.calc = calculator
    if form.kind != "traj":
        in_lattice = form.kind == "vasp"
        fixed = fixed_directions(atoms, lattice=in_lattice)
        kind = FixScaled if in_lattice else FixCartesian
        atoms.set_constraint([] if fixed is None else constraints_of(fixed, kind))
    for name in [*CIF_VALUES, *(calculator.results if calculator is not None else ())]:
        atoms.info.pop(name, None)
        atoms.arrays.pop(name, None)
    atoms.info = {k: v for k, v in atoms.info.items() if isinstance(v, str | int | float | np.ndarray)}
    velocities, written = atoms.get_velocities(), carried(atoms) & form.holds
    for word, name in ARRAYS.items():
        if word not in written:
            atoms.arrays.pop(name, None)
    if VELOCITIES in written:  # momenta belong to the masses that are written
        atoms.set_momenta(velocities * atoms.get_masses()[:, None], apply_constraint=False)
    return atoms


def file_name(stem: str, ending: str, form: Format) -> str:
    """A name from which ASE finds the format: in ``POSCAR-relaxed.xyz`` it would read a POSCAR.

    Example:
        >>> file_name("POSCAR", "relaxed", FORMATS["vasp"]), file_name("POSCAR", "relaxed", FORMATS["xyz"])
        ('POSCAR-relaxed.vasp', 'poscar-relaxed.xyz')
    """
    name = f"{stem}-{ending}{form.suffix}"
    others = (f for f in ase.io.formats.ioformats.values() if f.name != form.kind)
    return name.lower() if any(f.match_name(name) for f in others) else name


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
