"""JSON with structures of pymatgen: one, lists of them, and data sets whose records hold one each.

pymatgen itself is not needed. Site properties are kept: ``magmom`` (μ_B), ``charge`` (e), ``velocities``
(Å/fs), ``selective_dynamics`` as constraints, ``forces`` (eV/Å). Oxidation states are left out.

Of records, energies are eV per structure and forces eV/Å. What ``stress`` is depends on the data set:

- MPtrj (Deng et al., Nat. Mach. Intell. 5, 1031 (2023); https://doi.org/10.6084/m9.figshare.23713842): kbar,
  pressure positive, as VASP prints it. The energy is ``corrected_total_energy``; where records have none, it
  follows from ``energy_per_atom``, which is the corrected one too, and else is ``uncorrected_total_energy``.
- MatPES (Kaplan et al., arXiv:2503.04070; fields at https://matpes.ai): kbar, pressure positive, six numbers
  in the order xx, yy, zz, yz, xz, xy.
- Of other records nobody knows. Their ``stress`` is kept as ``info["stress_as_stored"]``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase
import ase.units
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.cell import Cell
from ase.constraints import FixScaled
from ase.stress import full_3x3_to_voigt_6_stress

from ...errors import StructureError
from ...units import factor
from ..constraints import constraints_of
from ..species import Element, element_of, set_masses
from . import documents, is_json, start_of

CLASSES = rb"I?Structure|I?Molecule|Computed(?:Structure)?Entry"
MARK = re.compile(
    rb'"@class"\s*:\s*"(?:%s)"|"lattice"\s*:\s*\{[^{}]*"matrix"|"species"\s*:\s*\[\s*\{\s*"(?:element|occu)"'
    % CLASSES
)
OTHER_FORMS = re.compile(rb'"lattice_mat"|\A\s*\{\s*"(?:\d+|ids|nextid)"\s*:\s*[\{\[\d]')  # JARVIS, ASE
MPTRJ = re.compile(rb'"(?:un)?corrected_total_energy"|"ef_per_atom"|"e_per_atom_relaxed"')
MATPES = re.compile(rb'"matpes_id"')
ENERGIES = ("corrected_total_energy", "energy", "energy_per_atom", "uncorrected_total_energy")
FORCES = ("forces", "force")
IDENTIFIERS = ("matpes_id", "entry_id", "material_id", "mp_id", "task_id")
DISAGREEMENT = 1e-3  # Å between the fractional and the Cartesian coordinates of a site
MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
STORED_STRESS = "stress_as_stored"
KBAR = factor("kbar", "stress")  # eV/Å³


def opens(path: Path) -> bool:
    """Whether a JSON file begins with a structure of pymatgen's."""
    if not is_json(path):
        return False
    start = start_of(path)
    mark, other = MARK.search(start), OTHER_FORMS.search(start)
    return mark is not None and (other is None or mark.start() < other.start())


def read(path: Path) -> Iterator[ase.Atoms]:
    """Every structure, in the order of the file, with the labels of its record.

    Raises:
        StructureError: a structure is disordered, or something of it is missing; names file and record.
    """
    known = has_stress_convention(path)
    count = 0
    for where, document in documents(path):
        for name, record in _records(document, ""):
            place = f"{where}: frame {count}" + (f" ({name})" if name else "")
            try:
                yield _labelled(record, name, place, known)
            except MALFORMED as error:
                raise StructureError(f"{place}: is malformed ({error}); correct the file") from error
            count += 1
    if not count:
        raise StructureError(f"{path}: holds no structure of pymatgen; give Structure, Molecule or records")


def has_stress_convention(path: Path) -> bool:
    """Whether the file is of a data set whose unit and sign of stress are published."""
    start = start_of(path)
    return bool("matpes" in path.name.lower() or MATPES.search(start) or MPTRJ.search(start))


def _records(node: Any, name: str) -> Iterator[tuple[str, dict]]:
    """Records within lists and dicts, with the keys that lead to them; a bare structure is a record too."""
    if isinstance(node, dict) and isinstance(node.get("sites"), list):
        yield name, {"structure": node}
    elif isinstance(node, dict) and isinstance(node.get("structure"), dict):
        ident = next((str(node[key]) for key in IDENTIFIERS if node.get(key) is not None), name)
        yield ident, node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _records(value, str(key))
    elif isinstance(node, list):
        for value in node:
            yield from _records(value, "")


def _labelled(record: dict, name: str, where: str, known: bool) -> ase.Atoms:
    atoms = structure(record["structure"], where)
    skip = {"structure", "stress", *FORCES}
    atoms.info |= {key: value for key, value in record.items() if key not in skip and _is_value(value)}
    if name:
        atoms.info["config_id"] = name
    results: dict[str, Any] = {}
    key = next((key for key in ENERGIES if record.get(key) is not None), None)
    if key is not None:
        energy = record[key]
        if key == "energy_per_atom" and isinstance(energy, int | float):
            energy *= len(atoms)
        results["energy"] = _array(energy, (), "energy", where)
        atoms.info.pop("energy", None)
    own = atoms.info.pop("forces", None)  # of the sites
    forces = next((record[key] for key in FORCES if record.get(key) is not None), own)
    if forces is not None:
        results["forces"] = _array(forces, (len(atoms), 3), "forces", where)
    stress = record.get("stress")
    if stress is not None and known:
        results["stress"] = -KBAR * _six(stress, where)
    elif stress is not None:
        atoms.info[STORED_STRESS] = np.asarray(stress, dtype=float)
    if record.get("magmom") is not None:
        results["magmoms"] = _array(record["magmom"], (len(atoms),), "magmom", where)
        atoms.info.pop("magmom", None)
    if results:
        results = {key: value if np.ndim(value) else float(value) for key, value in results.items()}
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def _is_value(value: Any) -> bool:
    """Whether something of a record can be a property: a number, text, or a list of numbers."""
    if isinstance(value, str | bool | int | float):
        return True
    return isinstance(value, list) and bool(value) and all(isinstance(v, int | float) for v in value)


def structure(content: dict, where: str) -> ase.Atoms:
    """The atoms of pymatgen's dict of a ``Structure`` or ``Molecule``.

    Raises:
        StructureError: sites are disordered or malformed.
    """
    sites = content["sites"]
    cell, pbc = _lattice(content.get("lattice"), where)
    elements = [_element(site, k, where) for k, site in enumerate(sites)]
    positions = [_position(site, cell, pbc, k, where) for k, site in enumerate(sites)]
    numbers = [number for number, _ in elements]
    atoms = ase.Atoms(numbers, np.reshape(positions, (-1, 3)), cell=cell, pbc=pbc)
    set_masses(atoms, [mass for _, mass in elements])
    _set_properties(atoms, sites, where)
    for key in ("charge", "spin_multiplicity"):
        if content.get(key):
            atoms.info[key] = content[key]
    return atoms


def _lattice(lattice: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
    if lattice is None:  # a molecule
        return np.zeros((3, 3)), np.zeros(3, bool)
    if not isinstance(lattice, dict):
        raise StructureError(f"{where}: lattice is no JSON object; expected 'matrix' or lengths and angles")
    if "matrix" in lattice:
        cell = _array(lattice["matrix"], (3, 3), "lattice matrix", where)
    else:
        names = ("a", "b", "c", "alpha", "beta", "gamma")
        missing = [name for name in names if name not in lattice]
        if missing:
            raise StructureError(f"{where}: the lattice has no {missing[0]!r}; give its matrix")
        values = _array([lattice[name] for name in names], (6,), "lattice parameters", where)
        cell = Cell.fromcellpar(values).array
    return cell, np.array(lattice.get("pbc", [True] * 3), dtype=bool)


def _element(site: Any, k: int, where: str) -> Element:
    """The element of a site, without its oxidation state."""
    species = site.get("species") if isinstance(site, dict) else None
    if not isinstance(species, list) or not species or not all(isinstance(kind, dict) for kind in species):
        raise StructureError(f"{where}: site {k} has no list of species; expected one element")
    if len(species) > 1 or abs(float(species[0].get("occu", 1)) - 1) > 1e-6:
        shares = ", ".join(f"{kind.get('element')} {kind.get('occu', 1)}" for kind in species)
        raise StructureError(f"{where}: site {k} is partially occupied ({shares}); give an ordered structure")
    symbol = str(species[0].get("element"))
    element = element_of(symbol, any_case=False)
    if element is None:
        raise StructureError(f"{where}: site {k} has the unknown element {symbol!r}; expected a symbol")
    return element


def _position(site: dict, cell: np.ndarray, pbc: np.ndarray, k: int, where: str) -> np.ndarray:
    """Cartesian coordinates (3,) in Å."""
    if "xyz" not in site and "abc" not in site:
        raise StructureError(f"{where}: site {k} has no coordinates; expected 'abc' or 'xyz'")
    cartesian = _array(site["xyz"], (3,), f"xyz of site {k}", where) if "xyz" in site else None
    if "abc" not in site or not cell.any():
        if cartesian is None:
            raise StructureError(f"{where}: site {k} has fractional coordinates but there is no lattice")
        return cartesian
    position = _array(site["abc"], (3,), f"abc of site {k}", where) @ cell
    if cartesian is None:
        return position
    steps = (position - cartesian) @ np.linalg.pinv(cell)  # the two may lie in different images
    difference = (steps - np.where(pbc, np.round(steps), 0)) @ cell
    if not np.abs(difference).max() < DISAGREEMENT:
        raise StructureError(
            f"{where}: site {k} lies at {np.round(position, 4).tolist()} by 'abc' and at "
            f"{np.round(cartesian, 4).tolist()} by 'xyz' (Å); correct the file"
        )
    return cartesian


def _set_properties(atoms: ase.Atoms, sites: list, where: str) -> None:
    """Site properties where ASE keeps them; those that not every site has are left out."""
    tables = [site.get("properties") or {} for site in sites]
    names = [name for name in tables[0] if all(t.get(name) is not None for t in tables)] if tables else []
    columns = {name: [_plain(table[name]) for table in tables] for name in names}
    n = len(atoms)
    if "magmom" in columns:
        shape = (n, 3) if np.ndim(columns["magmom"][0]) else (n,)
        atoms.set_initial_magnetic_moments(_array(columns.pop("magmom"), shape, "magmom", where))
    if "charge" in columns:
        atoms.set_initial_charges(_array(columns.pop("charge"), (n,), "charge", where))
    if "velocities" in columns:
        velocities = _array(columns.pop("velocities"), (n, 3), "velocities", where)
        atoms.set_velocities(velocities / ase.units.fs)
    if "selective_dynamics" in columns:
        free = _array(columns.pop("selective_dynamics"), (n, 3), "selective_dynamics", where).astype(bool)
        fixed = ~free if atoms.cell.rank == 3 else ~free.any(axis=1, keepdims=True).repeat(3, axis=1)
        atoms.set_constraint(constraints_of(fixed, FixScaled))
    if "forces" in columns:
        atoms.info["forces"] = _array(columns.pop("forces"), (n, 3), "forces", where)
    for name, values in columns.items():
        if name not in atoms.arrays and all(isinstance(v, int | float) for v in values):
            atoms.set_array(name, np.array(values))


def _plain(value: Any) -> Any:
    """The number of a moment that pymatgen stores with its axis."""
    if isinstance(value, dict) and "moment" in value:
        return value["moment"]
    return value


def _six(stress: Any, where: str) -> np.ndarray:
    """A stress of 3×3 or six numbers (xx, yy, zz, yz, xz, xy) as the latter."""
    array = np.asarray(stress, dtype=float) if np.size(stress) in (6, 9) else np.zeros(0)
    if array.size == 6:
        return array.reshape(6)
    six: np.ndarray = full_3x3_to_voigt_6_stress(_array(stress, (3, 3), "stress", where))
    return six


def _array(value: Any, shape: tuple[int, ...], name: str, where: str) -> np.ndarray:
    try:
        array = np.array(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise StructureError(f"{where}: {name} is not made of numbers; correct the file") from error
    if array.shape != shape:
        raise StructureError(f"{where}: {name} has shape {array.shape}, expected {shape}; correct the file")
    if not np.isfinite(array).all():
        raise StructureError(f"{where}: {name} is not finite; correct the file")
    return array
