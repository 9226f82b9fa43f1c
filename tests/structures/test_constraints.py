"""Constraints: which atoms they hold, and their copies in a supercell."""

import pickle

import ase
import numpy as np
import pytest
from ase.build import bulk, fcc111, graphene
from ase.calculators.emt import EMT
from ase.constraints import (
    FixAtoms,
    FixBondLength,
    FixBondLengths,
    FixCartesian,
    FixCom,
    FixedLine,
    FixedPlane,
    FixScaled,
    Hookean,
)
from ase.io import read, write
from hypothesis import given, settings
from hypothesis import strategies as st

from nfflr.errors import StructureError
from nfflr.structures.constraints import (
    FixFractional,
    held_atoms,
    kind_of,
    labels_by_atom,
    listed,
    moved_while_held,
    repeated,
    with_sound_constraints,
)
from nfflr.workflows.molecular_dynamics import MdSettings, md
from nfflr.workflows.relaxation import RelaxSettings, relax

INDICES = st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True)
MASKS = st.tuples(*[st.booleans()] * 3)
DIRECTIONS = st.sampled_from([(1, 0, 0), (0, 1, 0), (1, 1, 0), (1, -1, 2)])
CONSTRAINTS = st.one_of(
    st.builds(FixAtoms, INDICES),
    st.builds(FixCartesian, INDICES, MASKS),
    st.builds(FixScaled, INDICES, MASKS),
    st.builds(FixedPlane, INDICES, DIRECTIONS),
    st.builds(FixedLine, INDICES, DIRECTIONS),
)


def crystal() -> ase.Atoms:
    atoms = bulk("Cu", a=3.6, cubic=True)
    atoms.set_cell(atoms.cell.array + [[0, 0, 0], [0.4, 0, 0], [0.1, 0.2, 0]], scale_atoms=True)
    return atoms


@settings(deadline=None, max_examples=60)
@given(st.lists(CONSTRAINTS, max_size=3), st.tuples(*[st.integers(1, 3)] * 3), st.integers(0, 2**31))
def test_each_copy_of_an_atom_is_held_as_the_atom_is(constraints, repeats, seed):
    atoms = crystal()
    atoms.set_constraint(constraints)
    supercell = repeated(atoms, repeats)
    assert len(supercell) == 4 * np.prod(repeats)
    move = np.random.default_rng(seed).normal(size=(4, 3))
    steps = []
    for structure in (atoms, supercell):
        wanted = structure.positions + np.tile(move, (len(structure) // 4, 1))
        after = structure.copy()
        after.set_positions(wanted)
        steps.append((after.positions - structure.positions).reshape(-1, 4, 3))
    np.testing.assert_allclose(steps[1], np.broadcast_to(steps[0], steps[1].shape), atol=1e-9)
    assert labels_by_atom(supercell) == labels_by_atom(atoms) * int(np.prod(repeats))


def test_what_an_atom_carries_is_repeated_with_it():
    atoms = crystal()
    atoms.set_masses([1.0, 2.0, 3.0, 4.0])
    atoms.set_initial_charges([0.1, 0.2, 0.3, 0.4])
    atoms.set_initial_magnetic_moments([1, -1, 2, -2])
    atoms.set_momenta(np.arange(12.0).reshape(4, 3))
    supercell = repeated(atoms, (1, 2, 1))
    for name in ("masses", "initial_charges", "initial_magmoms", "momenta"):
        assert np.array_equal(supercell.arrays[name], np.concatenate([atoms.arrays[name]] * 2))


def test_one_cell_is_a_copy_whatever_it_is_constrained_by():
    atoms = crystal()
    atoms.set_constraint([FixBondLength(0, 1), FixCom()])
    copy = repeated(atoms, (1, 1, 1))
    assert copy is not atoms and [type(c) for c in copy.constraints] == [FixBondLengths, FixCom]


def test_a_fixed_centre_of_mass_is_that_of_the_supercell():
    atoms = crystal()
    atoms.set_constraint([FixCom(), FixAtoms([1])])
    supercell = repeated(atoms, (2, 1, 1))
    assert [type(c) for c in supercell.constraints] == [FixAtoms, FixCom]
    assert held_atoms(supercell, "fixed") == [1, 5]


@pytest.mark.parametrize("constraint", [FixBondLength(0, 1), Hookean(0, 1, rt=1.0, k=5.0)])
def test_constraints_without_a_multiple_are_refused_by_name(constraint):
    atoms = crystal()
    atoms.set_constraint(constraint)
    with pytest.raises(StructureError, match=type(constraint).__name__) as caught:
        repeated(atoms, (1, 1, 2))
    assert caught.value.exit_code == 3


def test_an_axis_without_a_vector_is_not_repeated():
    sheet = graphene()
    assert len(repeated(sheet, (2, 2, 1))) == 8
    with pytest.raises(StructureError, match="axis c"):
        repeated(sheet, (1, 1, 2))


def test_kinds():
    assert kind_of(FixAtoms([0])) == kind_of(FixCartesian([0])) == kind_of(FixScaled([0])) == "fixed"
    assert (
        kind_of(FixCartesian([0], (True, False, False)))
        == kind_of(FixedLine([0], (0, 0, 1)))
        == "partly fixed"
    )
    assert kind_of(FixCom()) == kind_of(FixBondLength(0, 1)) == "other"
    assert kind_of(FixScaled([0], (False,) * 3)) == kind_of(FixAtoms([])) == "none"
    atoms = crystal()
    atoms.set_constraint([FixAtoms([-1]), FixAtoms([1])])
    assert held_atoms(atoms, "fixed") == [1, 3] and held_atoms(atoms, "partly fixed") == []


def test_fixed_coordinates_of_an_upright_cell_are_one_thing_in_both_spellings():
    upright, skewed = bulk("Cu", cubic=True), crystal()
    for atoms, same in ((upright, True), (skewed, False)):
        labels = []
        for kind in (FixCartesian, FixScaled):
            atoms.set_constraint(kind([0], (True, False, False)))
            labels.append(labels_by_atom(atoms))
        assert (labels[0] == labels[1]) is same
    lines = []
    for direction in ((0, 0, 1), (0, 0, -2)):
        upright.set_constraint(FixedLine([2], direction))
        lines.append(labels_by_atom(upright))
    assert lines[0] == lines[1]


@pytest.mark.parametrize("mask", [(True, False, False), (False, True, True)])
def test_fixed_fractions_of_a_skewed_cell_relax_to_the_minimum_and_conserve_energy(mask):
    atoms = fcc111("Cu", (2, 2, 2), vacuum=5)
    atoms.rattle(0.1, seed=1)
    atoms.set_constraint(FixScaled([0, 1, 2], mask))
    settings = RelaxSettings(fmax=1e-3, steps=200, optimizer="bfgs")
    relaxed = relax(atoms, EMT(), settings)
    held = np.array(mask)
    move = relaxed.relaxed.get_scaled_positions(wrap=False) - atoms.get_scaled_positions(wrap=False)
    assert relaxed.converged and np.abs(move[:3, held]).max() < 1e-12 < np.abs(move[:3, ~held]).min()
    slopes = relaxed.relaxed.get_forces(apply_constraint=False)[:3] @ atoms.cell.array.T  # −dE/d(fraction)
    assert np.abs(slopes[:, ~held]).max() < 0.02 and np.abs(slopes[:, held]).max() > 0.1
    settings = MdSettings(ensemble="nve", temperature=300, timestep=2, steps=50, interval=5, melting=False)
    conserved = md(relaxed.relaxed, EMT(), settings).table.columns["conserved (eV)"]
    kinetic = md(relaxed.relaxed, EMT(), settings).table.columns["kinetic energy (eV)"]
    assert np.ptp(conserved) < 0.01 * np.ptp(kinetic)


def test_fixed_fractions_stay_what_they_are_in_copies_and_files(tmp_path):
    atoms = crystal()
    atoms.set_constraint([FixScaled([0], (False, False, True)), FixAtoms([1])])
    sound = with_sound_constraints(atoms)
    assert type(atoms.constraints[0]) is FixScaled and with_sound_constraints(sound) is sound
    for copy in (sound.copy(), repeated(sound, (1, 1, 2)), pickle.loads(pickle.dumps(sound))):
        assert [type(c) for c in copy.constraints] == [FixFractional, FixAtoms]
    for name in ("a.vasp", "a.traj"):
        write(tmp_path / name, sound)
        kept = with_sound_constraints(read(tmp_path / name))
        assert sorted(map(str, labels_by_atom(kept))) == sorted(map(str, labels_by_atom(atoms)))


def test_moves_against_a_constraint_are_found():
    atoms = crystal()
    atoms.set_constraint([FixAtoms([0]), FixCartesian([1], (False, False, True)), FixCom()])
    positions = atoms.positions + [[0.1, 0, 0], [0.1, 0, 0], [0.1, 0, 0], [0, 0, 0]]
    assert moved_while_held(atoms, positions, 0.01) == [0]
    positions[1, 2] += 0.02
    assert moved_while_held(atoms, positions, 0.01) == [0, 1]


@pytest.mark.parametrize(
    ("indices", "text"),
    [([3], "atom 3"), ([3, 20], "atoms 3 and 20"), (list(range(9)), "atoms 0, 1, 2, 3, 4, 5 and 3 more")],
)
def test_lists_of_atoms(indices, text):
    assert listed(indices) == text
