"""JSON with structures of pymatgen: one, lists of them, and data sets whose records hold one each.

pymatgen itself is not needed. Site properties are kept: ``magmom`` (μ_B), ``charge`` (e), ``velocities``
(Å/fs), ``selective_dynamics`` as constraints, ``forces`` (eV/Å). Oxidation states are left out.

Energies of records are in eV per structure, forces in eV/Å. The convention of ``stress`` depends on the data
set:

- MPtrj (Deng et al., Nat. Mach. Intell. 5, 1031 (2023); https://doi.org/10.6084/m9.figshare.23713842): kbar,
  pressure positive, as VASP prints it. The energy is ``corrected_total_energy``; where records have none, it
  follows from ``energy_per_atom``, which is the corrected one too, and else is ``uncorrected_total_energy``.
- MatPES (Kaplan et al., arXiv:2503.04070; fields at https://matpes.ai): kbar, pressure positive, six numbers
  in the order xx, yy, zz, yz, xz, xy.
- Other records state no convention. Their ``stress`` is kept as ``info["stress_as_stored"]``.
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
from ..species import Element, atoms_of, element_of
from . import documents, is_json, numbers_of, start_of

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
PARAMETERS = ("a", "b", "c", "alpha", "beta", "gamma")
DISAGREEMENT = 1e-3  # Å between the fractional and the Cartesian coordinates of a site
MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
STORED_STRESS = "stress_as_stored"
KBAR = factor("kbar", "stress")  # eV/Å³


def opens(path: Path) -> bool:
    """Whether a JSON file begins with a structure of pymatgen's."""
    if not is_json(path):
        return False
    start = start_of(path)
    mark, other_form = MARK.search(start), OTHER_FORMS.search(start)
    return mark is not None and (other_form is None or mark.start() < other_form.start())


def read(path: Path) -> Iterator[ase.Atoms]:
    """Every structure, in the order of the file, with the labels of its record.

    Raises:
        StructureError: a structure is disordered, or something of it is missing; names file and record.
    """
    stress_is_known = has_stress_convention(path)
    count = 0
    for where, document in documents(path):
        for name, record in _records(document, ""):
            place = f"{where}: frame {count}" + (f" ({name})" if name else "")
            try:
                yield _labelled(record, name, place, stress_is_known)
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


def _labelled(record: dict, name: str, where: str, stress_is_known: bool) -> ase.Atoms:
    atoms = structure(record["structure"], where)
    skip = {"structure", "stress", *FORCES}
    atoms.info |= {key: value for key, value in record.items() if key not in skip and _is_value(value)}
    if name:
        atoms.info["config_id"] = name
    results: dict[str, Any] = {}
    key = next((key for key in ENERGIES if record.get(key) is not None), None)
    if key is not None:
        per_atom = key == "energy_per_atom" and isinstance(record[key], int | float)
        energy = record[key] * len(atoms) if per_atom else record[key]
        results["energy"] = float(numbers_of(energy, (), "energy", where))
        atoms.info.pop("energy", None)
    site_forces = atoms.info.pop("forces", None)
    forces = next((record[key] for key in FORCES if record.get(key) is not None), site_forces)
    if forces is not None:
        results["forces"] = numbers_of(forces, (len(atoms), 3), "forces", where)
    stress = record.get("stress")
    if stress is not None and stress_is_known:
        shape = (6,) if np.size(stress) == 6 else (3, 3)
        array = numbers_of(np.reshape(stress, -1) if shape == (6,) else stress, shape, "stress", where)
        results["stress"] = -KBAR * (array if shape == (6,) else full_3x3_to_voigt_6_stress(array))
    elif stress is not None:
        atoms.info[STORED_STRESS] = np.asarray(stress, dtype=float)
    if record.get("magmom") is not None:
        results["magmoms"] = numbers_of(record["magmom"], (len(atoms),), "magmom", where)
        atoms.info.pop("magmom", None)
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def _is_value(value: Any) -> bool:
    """Whether something of a record can be a property: a number, text, or a list of numbers."""
    numbers = isinstance(value, list) and value and all(isinstance(v, int | float) for v in value)
    return isinstance(value, str | bool | int | float) or bool(numbers)


def structure(content: dict, where: str) -> ase.Atoms:
    """The atoms of pymatgen's dict of a ``Structure`` or ``Molecule``.

    Raises:
        StructureError: sites are disordered or malformed.
    """
    sites = content["sites"]
    cell, pbc = _lattice(content.get("lattice"), where)
    elements = [_element(site, f"{where}: site {k}") for k, site in enumerate(sites)]
    positions = [_position(site, cell, pbc, k, where) for k, site in enumerate(sites)]
    atoms = atoms_of(elements, positions=np.reshape(positions, (-1, 3)), cell=cell, pbc=pbc)
    _set_properties(atoms, sites, where)
    atoms.info |= {key: content[key] for key in ("charge", "spin_multiplicity") if content.get(key)}
    return atoms


def _lattice(lattice: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
    if lattice is None:  # a molecule
        return np.zeros((3, 3)), np.zeros(3, bool)
    if not isinstance(lattice, dict):
        raise StructureError(f"{where}: lattice is no JSON object; expected 'matrix' or lengths and angles")
    pbc = np.array(lattice.get("pbc", [True] * 3), dtype=bool)
    if "matrix" in lattice:
        return numbers_of(lattice["matrix"], (3, 3), "lattice matrix", where), pbc
    missing = [name for name in PARAMETERS if name not in lattice]
    if missing:
        raise StructureError(f"{where}: the lattice has no {missing[0]!r}; give its matrix")
    values = numbers_of([lattice[name] for name in PARAMETERS], (6,), "lattice parameters", where)
    return Cell.fromcellpar(values).array, pbc


def _element(site: Any, where: str) -> Element:
    """The element of a site, without its oxidation state."""
    species = site.get("species") if isinstance(site, dict) else None
    if not isinstance(species, list) or not species or not all(isinstance(kind, dict) for kind in species):
        raise StructureError(f"{where} has no list of species; expected one element")
    if len(species) > 1 or abs(float(species[0].get("occu", 1)) - 1) > 1e-6:
        shares = ", ".join(f"{kind.get('element')} {kind.get('occu', 1)}" for kind in species)
        raise StructureError(f"{where} is partially occupied ({shares}); give an ordered structure")
    symbol = str(species[0].get("element"))
    element = element_of(symbol, any_case=False)
    if element is None:
        raise StructureError(f"{where} has the unknown element {symbol!r}; expected a symbol")
    return element


def _position(site: dict, cell: np.ndarray, pbc: np.ndarray, k: int, where: str) -> np.ndarray:
    """Cartesian coordinates (3,) in Å."""
    cartesian, fractional = (
        numbers_of(site[key], (3,), f"{key} of site {k}", where) if key in site else None
        for key in ("xyz", "abc")
    )
    if cartesian is None and fractional is None:
        raise StructureError(f"{where}: site {k} has no coordinates; expected 'abc' or 'xyz'")
    if fractional is None or not cell.any():
        if cartesian is None:
            raise StructureError(f"{where}: site {k} has fractional coordinates but there is no lattice")
        return cartesian
    position = fractional @ cell
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
    for name, columns_each, setter in (
        ("magmom", np.ndim(columns.get("magmom", [0])[0]) and 3, atoms.set_initial_magnetic_moments),
        ("charge", 0, atoms.set_initial_charges),
        ("velocities", 3, lambda values: atoms.set_velocities(values / ase.units.fs)),
        ("selective_dynamics", 3, lambda values: _hold(atoms, ~values.astype(bool))),
        ("forces", 3, lambda values: atoms.info.update(forces=values)),
    ):
        if name in columns:
            shape = (n, columns_each) if columns_each else (n,)
            setter(numbers_of(columns.pop(name), shape, name, where))
    for name, values in columns.items():
        if name not in atoms.arrays and all(isinstance(v, int | float) for v in values):
            atoms.set_array(name, np.array(values))


def _hold(atoms: ase.Atoms, fixed: np.ndarray) -> None:
    """Fix atoms along lattice vectors (N, 3), or wholly where there is no lattice."""
    if atoms.cell.rank < 3:
        fixed = np.repeat(fixed.all(axis=1, keepdims=True), 3, axis=1)
    atoms.set_constraint(constraints_of(fixed, FixScaled))


def _plain(value: Any) -> Any:
    """The number of a moment that pymatgen stores with its axis."""
    return value["moment"] if isinstance(value, dict) and "moment" in value else value
