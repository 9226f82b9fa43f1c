"""Pairs that come too near are found as by brute force, with time and memory that grow as the atoms do."""

import tracemalloc

import ase
import numpy as np
import pytest
from ase.build import bulk
from lennard_jones import LennardJones

from nfflr.workflows.dynamics.guard import Guard, NearPairs
from nfflr.workflows.dynamics.preparation import MdSettings

CELL = np.array([[8.0, 0, 0], [2.0, 7, 0], [-1.0, 1.0, 9]])


def table(values):
    reach = np.zeros((119, 119))
    for (a, b), value in values.items():
        reach[a, b] = reach[b, a] = value
    return reach


def brute_force(atoms, reach):
    shifts = [range(-2, 3) if periodic else [0] for periodic in atoms.pbc]
    found = []
    for shift in np.stack(np.meshgrid(*shifts), -1).reshape(-1, 3):
        bond = atoms.positions[None] + shift @ atoms.cell.array - atoms.positions[:, None]
        distance = np.linalg.norm(bond, axis=2)
        near = distance < reach[np.ix_(atoms.numbers, atoms.numbers)]
        a, b = np.nonzero(near & ((distance > 0) | shift.any()))
        found += [(min(p, q), max(p, q), round(distance[p, q], 8)) for p, q in zip(a, b, strict=True)]
    return sorted(found)[::2]  # both directions of each


@pytest.mark.parametrize("pbc", [(0, 0, 0), (1, 1, 0), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("breathing", [0.0, 0.004], ids=["rigid", "breathing"])
def test_pairs_of_every_step_are_those_of_brute_force(pbc, breathing):
    rng = np.random.default_rng(1)
    atoms = ase.Atoms("Ar6Ne6", positions=rng.uniform(size=(12, 3)) @ CELL, cell=CELL, pbc=pbc)
    reach = table({(18, 18): 2.4, (18, 10): 1.8, (10, 10): 1.2})
    near = NearPairs(atoms.numbers, reach)
    sizes = []
    for _ in range(150):
        atoms.positions += rng.normal(scale=0.03, size=(12, 3))
        strain = np.eye(3) + breathing * rng.normal(size=(3, 3))
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        i, j, distance = near.find(atoms)
        rows = zip(np.minimum(i, j), np.maximum(i, j), distance.round(8), strict=True)
        assert sorted(rows) == brute_force(atoms, reach)
        sizes.append(len(i))
    assert min(sizes) != max(sizes)  # pairs came and went
    assert 2 <= near.searches < 100  # and were not searched every step


def test_a_short_cell_has_pairs_of_an_atom_with_its_images():
    atoms = ase.Atoms("Ar", cell=[2.0, 9, 9], pbc=True)
    i, j, distance = NearPairs(atoms.numbers, np.full((119, 119), 2.1)).find(atoms)
    assert list(i) == list(j) == [0] and distance == pytest.approx([2.0])


def guarded(cells):
    """A crystal that vibrates under a guard, and the peak of memory (bytes) over some steps."""
    atoms = bulk("Ar", a=5.3, cubic=True) * cells
    calculator = LennardJones()
    calculator.shortest_distances = np.full((119, 119), 3.4)
    guard, rng = Guard(calculator, MdSettings()), np.random.default_rng(0)
    tracemalloc.start()
    for step in range(5):
        guard.begin(atoms, step)
        atoms.positions += rng.normal(scale=0.02, size=atoms.positions.shape)
        guard._check(atoms)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert guard._near.searches == 1 and guard.too_near is None
    return len(atoms), peak


def test_memory_of_the_guard_grows_as_the_number_of_atoms():
    small, large = guarded(8), guarded(16)
    assert large[0] == 8 * small[0] == 16_384  # a table of them all takes 2 GiB
    assert large[1] < 12 * small[1]  # 64 if it grew as their square


def test_a_step_of_a_vibrating_crystal_looks_at_no_pair():
    atoms = bulk("Ar", a=5.3, cubic=True) * 3  # neighbours at 3.75 Å
    near = NearPairs(atoms.numbers, np.full((119, 119), 3.3))
    near.find(atoms)
    near._candidates.shift = near._candidates.reach = None  # what would be needed for a distance
    atoms.positions[0] += 0.12  # moves by 0.21 Å; 0.22 Å would need a look
    assert not len(near.find(atoms)[0]) and near.searches == 1
