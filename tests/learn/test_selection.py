"""Which structures are labelled next: against brute force, and on points whose answer is plain."""

import ase
import numpy as np
import pytest
from ase.build import bulk

from nfflr.calculator import NFFLrCalculator
from nfflr.learn.sampling import choose, farthest_points
from nfflr.learn.students import describe


def brute_force(points, known, count):
    """The same greedy rule, from all distances anew each time."""
    chosen = []
    for _ in range(count):
        taken = [*known, *points[chosen]]
        nearest = [min((np.linalg.norm(p - t) for t in taken), default=np.inf) for p in points]
        chosen.append(int(np.argmax(nearest)))
    return chosen


@pytest.mark.parametrize("seed", range(5))
def test_farthest_points_agree_with_brute_force(seed):
    rng = np.random.default_rng(seed)
    points, known = rng.normal(size=(40, 3)), rng.normal(size=(seed, 3))
    assert farthest_points(points, known, 12) == brute_force(points, known, 12)


def test_a_point_far_from_what_is_known_comes_first():
    points = np.array([[0.0, 0.0], [1.0, 0.0], [9.0, 0.0], [1.1, 0.0]])
    assert farthest_points(points, np.zeros((1, 2)), 2) == [2, 3]


def test_copies_of_what_is_known_or_chosen_are_not_taken():
    points = np.array([[1.0], [1.0], [2.0]])
    assert farthest_points(points, np.array([[2.0]]), 3) == [0]
    assert farthest_points(np.zeros((0, 1)), np.array([[2.0]]), 3) == []


def test_the_committee_decides_before_distance_does():
    doubt = np.array([0.1, 5.0, 4.0, 0.2])
    points = np.array([[100.0], [1.0], [3.0], [50.0]])  # the far ones are well known to the committee
    assert sorted(choose(doubt, points, np.zeros((1, 1)), count=2)) == [1, 2]
    assert choose(doubt, points, np.zeros((1, 1)), count=1) == [2]  # of the two the farther


def test_descriptors_know_structure_and_nothing_else():
    model = NFFLrCalculator.load("mlearn-si-fast").model
    atoms = bulk("Si", cubic=True)
    turned = atoms.copy()
    turned.rotate(40, (1, 2, 3), rotate_cell=True)
    turned.positions += 0.3
    hot = atoms.copy()
    hot.rattle(0.1, seed=1)
    same, moved, other, double = describe(model, [atoms, turned[::-1], hot, atoms.repeat((2, 1, 1))])
    scale = np.abs(other - same).max()
    assert scale > 0.1
    np.testing.assert_allclose(moved, same, atol=1e-3 * scale)  # single precision
    np.testing.assert_allclose(double, same, atol=1e-3 * scale)
    assert isinstance(turned, ase.Atoms)
