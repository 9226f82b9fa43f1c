"""What a format is said to hold is there when the file is read, through the door and by ASE."""

import ase
import ase.io
import numpy as np
import pytest
from ase.constraints import FixAtoms, FixBondLengths, FixCartesian, FixedLine, FixedPlane, FixScaled
from hypothesis import given, settings
from hypothesis import strategies as st

from nfflr.structures import writers
from nfflr.structures.constraints import constraints_of, fixed_directions
from nfflr.structures.readers import read_structure
from nfflr.structures.writers import (
    FORMATS,
    TRAJECTORY,
    carried,
    file_name,
    format_of,
    losses,
    structure_bytes,
)

ALL = [*FORMATS.values(), TRAJECTORY]
SKEWED = [[4.0, 0.2, -0.1], [1.0, 4.2, 0.3], [0.5, 0.7, 4.4]]
UPRIGHT = np.diag([4.0, 4.2, 4.4])


@st.composite
def structures(draw):
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    cell = draw(st.sampled_from([SKEWED, UPRIGHT]))
    places = np.array([[0.1, 0.1, 0.1], [0.5, 0.6, 0.2], [0.3, 0.8, 0.7], [0.8, 0.3, 0.6]])
    places += 0.05 * rng.random((4, 3))  # never so near that a reader objects
    atoms = ase.Atoms("SiOSiH", scaled_positions=places, cell=cell, pbc=True)
    if draw(st.booleans()):
        atoms.pbc = draw(st.sampled_from([(True, True, False), (False, False, False)]))
    if draw(st.booleans()):
        atoms.set_masses([29.97, 15.999, 28.085, 2.014])
    if draw(st.booleans()):
        atoms.set_initial_charges([0.5, -1.0, 0.25, 0.25])
    if draw(st.booleans()):
        atoms.set_initial_magnetic_moments([1.0, 0.0, -1.0, 0.5])
    mask = (True, False, True)
    kinds = [FixAtoms([1, 2]), FixCartesian(0, mask), FixScaled(3, mask)]
    kinds += [FixedPlane(1, (0, 0, 1)), FixedLine(2, (0, 1, 0)), FixedPlane(1, (0, 1, 1))]
    several = st.lists(st.sampled_from(kinds), max_size=2, unique_by=lambda c: tuple(c.index))
    atoms.set_constraint(draw(several | st.just(FixBondLengths([(0, 1)]))))
    if draw(st.booleans()):
        atoms.set_momenta(rng.normal(size=(4, 3)))
    return atoms


def same_crystal(found, atoms):
    """Equal up to a rotation of the whole, and lattice translations of atoms."""
    assert list(found.symbols) == list(atoms.symbols) and found.pbc.tolist() == atoms.pbc.tolist()
    assert found.cell.cellpar() == pytest.approx(atoms.cell.cellpar(), abs=1e-4)
    assert found.cell.handedness == atoms.cell.handedness
    offset = found.get_scaled_positions(wrap=False) - atoms.get_scaled_positions(wrap=False)
    np.testing.assert_allclose(offset - np.round(offset), 0, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(structures())
def test_a_file_holds_what_its_format_is_said_to_hold(tmp_path_factory, atoms):
    folder = tmp_path_factory.mktemp("written")
    for form in ALL:
        lost = losses(atoms, form)
        if writers.OPEN in lost:
            continue
        path = folder / f"x{form.suffix}"
        path.write_bytes(structure_bytes(atoms, form))
        for found in (read_structure(path), ase.io.read(path)):
            same_crystal(found, atoms)
            if form.kind not in ("cif", "lammps-data"):  # which turn the cell
                assert found.positions == pytest.approx(atoms.positions, abs=1e-5)
            for word in (carried(atoms) - set(lost)) - {writers.CONSTRAINTS}:
                assert word in carried(found), (form.title, word)
            if writers.MASSES not in lost:
                assert found.get_masses() == pytest.approx(atoms.get_masses(), abs=1e-3)
            if writers.VELOCITIES not in lost:
                speed = np.linalg.norm(atoms.get_velocities(), axis=1)
                assert np.linalg.norm(found.get_velocities(), axis=1) == pytest.approx(speed, abs=1e-6)
            if writers.CHARGES not in lost:
                assert found.get_initial_charges() == pytest.approx(atoms.get_initial_charges(), abs=1e-6)
            if writers.MOMENTS not in lost:
                moments = atoms.get_initial_magnetic_moments()
                assert found.get_initial_magnetic_moments() == pytest.approx(moments)
            if writers.CONSTRAINTS not in lost:
                assert_held_alike(found, atoms)


def assert_held_alike(found, atoms):
    """Constraints let the same steps through."""
    step = 0.1 * np.random.default_rng(0).normal(size=(len(atoms), 3))
    if any(isinstance(c, FixBondLengths) for c in atoms.constraints):
        step[:] = 0
    ends = []
    for each in (found, atoms):
        copy = each.copy()
        copy.set_velocities(np.zeros((len(copy), 3)))
        copy.positions = atoms.positions
        copy.set_positions(copy.positions + step)
        ends.append(copy.positions)
    assert ends[0] == pytest.approx(ends[1], abs=1e-6)


def test_every_structure_has_a_format_that_holds_it():
    atoms = ase.Atoms("Si2", positions=[(0, 0, 0), (1, 1, 1)])
    atoms.set_constraint(FixBondLengths([(0, 1)]))
    assert losses(atoms, FORMATS["xyz"]) == [writers.CONSTRAINTS] and losses(atoms, TRAJECTORY) == []
    atoms.set_constraint(FixAtoms([0]))
    assert losses(atoms, FORMATS["xyz"]) == []


@pytest.mark.parametrize("stem", ["POSCAR", "my-CONTCAR-2", "OUTCAR", "XDATCAR", "si", "vasprun", "CONFIG"])
@pytest.mark.parametrize("form", ALL, ids=lambda form: form.kind)
def test_ase_finds_the_format_of_every_name(tmp_path, stem, form):
    atoms = ase.Atoms("Si2", scaled_positions=[(0, 0, 0), (0.25, 0.3, 0.4)], cell=SKEWED, pbc=True)
    path = tmp_path / file_name(stem, "relaxed", form)
    path.write_bytes(structure_bytes(atoms, form))
    same_crystal(ase.io.read(path), atoms)
    same_crystal(read_structure(path), atoms)


@pytest.mark.parametrize(
    ("name", "form"),
    [("a.cif", "cif"), ("POSCAR", "vasp"), ("a.vasp", "vasp"), ("a.xyz", "xyz"), ("a.lmp", "lammps")]
    + [("a.data", "lammps"), ("a.xsf", "xsf"), ("a.gen", "gen"), ("a.traj", "xyz"), ("a.json", "xyz")],
)
def test_the_format_of_a_file_is_that_of_its_content(tmp_path, name, form):
    atoms = ase.Atoms("Si2", scaled_positions=[(0, 0, 0), (0.25, 0.3, 0.4)], cell=UPRIGHT, pbc=True)
    options = {"format": "lammps-data", "masses": True} if form == "lammps" else {}
    ase.io.write(tmp_path / name, atoms, **options)
    assert format_of(tmp_path / name) == form


@given(st.lists(st.tuples(*[st.booleans()] * 3), min_size=1, max_size=6), st.booleans())
def test_directions_and_constraints_are_two_ways_to_say_one_thing(flags, lattice):
    atoms = ase.Atoms(f"Si{len(flags)}", cell=SKEWED, pbc=True)
    atoms.set_constraint(constraints_of(np.array(flags), FixScaled if lattice else FixCartesian))
    assert fixed_directions(atoms, lattice=lattice).tolist() == [list(row) for row in flags]
    partly = any(any(row) and not all(row) for row in flags)
    assert (fixed_directions(atoms, lattice=not lattice) is None) == partly
