"""The order of atoms in two structures: exchanges are found, hops are left alone."""

import ase
import numpy as np
import pytest
from ase.build import bulk, fcc100, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from nfflr.structures.cells import exchanged, nearest_order


def copper() -> ase.Atoms:
    return bulk("Cu", a=3.62, cubic=True) * 2


def swapped(atoms, *cycle):
    """The atoms of a cycle put at the place of the next."""
    other = atoms.copy()
    other.positions[list(cycle)] = atoms.positions[np.roll(cycle, -1)]
    return other


@settings(deadline=None, max_examples=40)
@given(st.permutations(range(12)), st.integers(0, 1000), st.sampled_from([(1, 1, 1), (1, 1, 0), (0, 0, 0)]))
def test_any_order_of_the_same_atoms_is_undone(permutation, seed, pbc):
    rng = np.random.default_rng(seed)
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True) * (1, 1, 2)
    atoms = atoms[rng.permutation(16)[:12]]
    atoms.pbc = pbc
    final = atoms.copy()
    final.positions += rng.normal(scale=0.1, size=(12, 3))
    final.positions += (rng.integers(-1, 2, (12, 3)) * pbc) @ atoms.cell.array
    shuffled = final[list(permutation)]
    order = nearest_order(atoms, shuffled)
    assert np.array_equal(np.array(permutation)[order], np.arange(12))


@settings(deadline=None, max_examples=40)
@given(st.permutations(range(8)), st.integers(0, 1000))
def test_the_cycles_of_any_permutation_are_found(permutation, seed):
    atoms = bulk("Cu", a=3.62, cubic=True) * (1, 1, 2)
    final = atoms[list(permutation)]
    final.positions += np.random.default_rng(seed).normal(scale=0.1, size=(8, 3))
    assert exchanged(atoms, final) == cycles(permutation)


def cycles(permutation):
    groups, visited = [], set()
    for start in range(len(permutation)):
        group, k = [], start
        while k not in visited:
            visited.add(k)
            group.append(k)
            k = permutation[k]
        if len(group) > 1:
            groups.append(sorted(group))
    return groups


@pytest.mark.parametrize("cycle", [(3, 20), (3, 20, 7), (0, 1, 2, 30)])
def test_atoms_that_change_places_are_named(cycle):
    atoms = copper()
    final = swapped(atoms, *cycle)
    final.rattle(0.05, seed=0)
    assert exchanged(atoms, final) == [sorted(cycle)]


def test_two_exchanges_are_two_groups():
    atoms = copper()
    assert exchanged(atoms, swapped(swapped(atoms, 3, 20), 5, 9)) == [[3, 20], [5, 9]]


def test_only_atoms_of_one_element_change_places():
    atoms = copper()
    atoms.symbols[20] = "Ag"
    assert exchanged(atoms, swapped(atoms, 3, 20)) == []  # two elements that trade sites: a path of its own


def test_an_exchange_beside_a_hop_is_found():
    atoms = copper()
    del atoms[0]
    final = atoms.copy()
    final.positions[0] = copper().positions[0]
    assert exchanged(atoms, final) == []
    assert exchanged(atoms, swapped(final, 3, 20)) == [[3, 20]]
    assert exchanged(atoms, swapped(final, 0, 20)) == [[0, 20]]  # the atom that hops is itself out of order


def test_mechanisms_of_diffusion_are_no_exchange():
    slab = fcc100("Cu", (3, 3, 2), vacuum=6)
    pushed = slab.copy()  # a row moves on by one place, as in an interstitialcy or a kick-out
    spacing = slab.get_distance(9, 10)
    pushed.positions[[9, 10]] += [spacing, 0, 0]
    assert exchanged(slab, pushed) == []
    corner = slab.copy()  # the second of the two atoms turns by 90 degrees
    corner.positions[9] += [spacing, 0, 0]
    corner.positions[10] += [0, 0, spacing]
    assert exchanged(slab, corner) == []
    turned = molecule("CH4")
    turned.rotate(20, "z")
    assert exchanged(molecule("CH4"), turned) == []
