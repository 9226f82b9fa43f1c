"""Strained and rattled structures: that they are what they say."""

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule

from nfflr.learn import sampling


def test_strains_are_first_volume_then_lengths_then_shears():
    copper = bulk("Cu", a=3.6, cubic=True)
    frames = sampling.pure_strains(copper, 14)
    volumes = np.array([f.get_volume() for f in frames]) / copper.get_volume()
    np.testing.assert_allclose(volumes[[0, 7]], [1.02**3, 0.98**3])
    np.testing.assert_allclose(volumes[[1, 2, 3]], 1.02)
    np.testing.assert_allclose(volumes[[4, 5, 6]], 1 - 0.01**2)  # half of an engineering shear, twice
    for frame in frames:
        np.testing.assert_allclose(frame.get_scaled_positions(), copper.get_scaled_positions(), atol=1e-12)


def test_rattled_supercells_are_small_and_large_and_grow_with_temperature():
    supercell = bulk("Cu", a=3.6, cubic=True).repeat(3)

    def spread(temperature):
        frames = sampling.rattled(supercell, 4, temperature, np.random.default_rng(1))  # unstrained ones
        return np.array([(f.positions - supercell.positions).std() for f in frames])

    distance = 3.6 / np.sqrt(2)
    np.testing.assert_allclose(spread(1000), 0.05 * distance * sampling.AMPLITUDES, rtol=0.1)
    np.testing.assert_allclose(spread(250), spread(1000) / 2, rtol=1e-6)


def test_atoms_that_overlap_are_seen():
    oxygen = ase.Atoms("O2", positions=[[0, 0, 0], [0, 0, 0.7]])
    assert sampling.too_close(oxygen)
    oxygen.positions[1, 2] = 1.2
    assert not sampling.too_close(oxygen)
    assert sampling.spacing(oxygen) == pytest.approx(1.2)
    assert sampling.spacing(ase.Atoms("He")) == np.inf


def test_the_first_structures_hold_the_given_one_and_obey_their_seed():
    cells = {"cu": bulk("Cu", cubic=True)}
    big = {"cu": cells["cu"].repeat(2)}

    def draw(seed):
        return sampling.seed_structures(cells, big, 24, 600.0, np.random.default_rng(seed))

    frames = draw(3)
    kinds = [frame.info["config_type"] for frame in frames]
    assert len(frames) == 24 and kinds[0] == "given" and frames[0] == cells["cu"]
    assert kinds.count("strained") == 4 and kinds.count("rattled") == 19
    assert frames == draw(3) and frames != draw(4)
    assert not any(map(sampling.too_close, frames))


def test_a_molecule_is_rattled_and_not_strained():
    water = molecule("H2O", vacuum=4.0)
    frames = sampling.seed_structures({"w": water}, {"w": water}, 10, 300.0, np.random.default_rng(0))
    assert [f.info["config_type"] for f in frames] == ["given"] + 9 * ["rattled"]
    assert all(np.array_equal(f.cell, water.cell) for f in frames)
