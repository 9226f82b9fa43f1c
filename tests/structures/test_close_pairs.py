"""Close pairs in any cell, compared with a brute force over images."""

import ase
import numpy as np
import pytest
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from nfflr.errors import StructureError
from nfflr.structures.checks import check_distances, check_trained_distances
from nfflr.structures.neighbours import close_pairs

QUICK = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def brute_force(positions, cell, pbc, cutoff):
    """Distances of all pairs below the cutoff, each once, over images up to four cells away."""
    ranges = [range(-4, 5) if axis else (0,) for axis in pbc]
    steps = np.array(np.meshgrid(*ranges)).reshape(3, -1).T
    distances = []
    for i, first in enumerate(positions):
        for j in range(i, len(positions)):
            lengths = np.linalg.norm(positions[j] + steps @ cell - first, axis=1)
            if i == j:  # an image and its opposite are one pair
                lengths = np.sort(lengths)[1::2]
            distances += lengths[lengths <= cutoff].tolist()
    return np.sort(distances)


@QUICK
@given(st.integers(0, 2**31), st.tuples(*[st.booleans()] * 3), st.sampled_from([0.3, 1.0, 2.5]))
def test_pairs_are_those_of_a_brute_force(seed, pbc, cutoff):
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(0.9, 4, 3)) + rng.uniform(-0.4, 0.4, (3, 3))
    positions = rng.uniform(-6, 6, (rng.integers(1, 7), 3))
    if any(pbc):
        inside = np.linalg.solve(cell.T, positions.T).T
        positions = np.where(pbc, inside % 1, inside) @ cell  # so that four cells are enough
    pairs = close_pairs(positions, cell, np.array(pbc), cutoff)
    assert pairs.distances == pytest.approx(brute_force(positions, cell, pbc, cutoff), abs=1e-9)
    vectors = positions[pairs.second] - positions[pairs.first] + pairs.shifts @ cell
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(pairs.distances, abs=1e-9)
    moved = positions + (rng.integers(-50, 50, positions.shape) * pbc) @ cell
    again = close_pairs(moved, cell, np.array(pbc), cutoff)
    assert again.distances == pytest.approx(pairs.distances, abs=1e-6)


def test_many_atoms_need_memory_for_their_pairs_alone():
    atoms = bulk("Cu", cubic=True).repeat(20)
    assert len(close_pairs(atoms.positions, atoms.cell.array, atoms.pbc, 2.0).distances) == 0


def test_atoms_that_are_too_close_are_named_with_image_and_distance():
    atoms = ase.Atoms("SiGeSi", [[0, 0, 0], [3, 3, 3], [6.9, 0.1, 0]], cell=[7, 7, 7], pbc=True)
    expected = r"cu: atoms 0 and 2 \(Si, Si\) in the image \(-1, 0, 0\) are 0.141 Å"
    with pytest.raises(StructureError, match=expected):
        check_distances(atoms, "cu")
    atoms.pbc = False
    check_distances(atoms)
    atoms.positions[1] = atoms.positions[0]
    with pytest.raises(StructureError, match=r"atoms 0 and 1 \(Si, Ge\) coincide"):
        check_distances(atoms)


def test_half_of_the_shortest_trained_distance_is_the_limit_of_a_potential():
    table = np.zeros((119, 119))
    table[14, 14], table[6, 14], table[14, 6], table[6, 6] = 2.2, 1.6, 1.6, np.inf
    check_trained_distances(ase.Atoms("Si2", [[0, 0, 0], [1.2, 0, 0]]), table)
    check_trained_distances(ase.Atoms("SiC", [[0, 0, 0], [0.9, 0, 0]]), table)
    check_trained_distances(ase.Atoms("C2", [[0, 0, 0], [0.4, 0, 0]]), table)  # never seen
    check_trained_distances(ase.Atoms("O2", [[0, 0, 0], [0.4, 0, 0]]), table)
    expected = r"atoms 0 and 1 \(Si, Si\) are 1 Å apart, less than half .*\(2\.2 Å\)"
    with pytest.raises(StructureError, match=expected):
        check_trained_distances(ase.Atoms("Si2", [[0, 0, 0], [1.0, 0, 0]]), table)
    with pytest.raises(StructureError, match=r"atoms 1 and 2 \(C, Si\)"):
        check_trained_distances(ase.Atoms("SiCSi", [[0, 0, 0], [1.9, 0, 0], [2.6, 0, 0]]), table)
