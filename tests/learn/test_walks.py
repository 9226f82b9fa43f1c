"""Walks end before the committee's doubt, or an explosion, makes them nonsense."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from nfflr.learn.walks import md_frames, relaxation_frames, walk
from nfflr.workflows.molecular_dynamics import MdSettings


class Doubtful(EMT):
    """EMT that doubts its forces by how far atoms are from where they began, Å as eV/Å."""

    def __init__(self, start, strength=1.0):
        super().__init__()
        self.start, self.strength = start, strength

    def calculate(self, atoms=None, *arguments, **keywords):
        super().calculate(atoms, *arguments, **keywords)
        gone = np.linalg.norm(atoms.positions - self.start.positions, axis=1)
        self.results["forces_std"] = gone
        self.results["forces"] = self.results["forces"] * self.strength


SETTINGS = MdSettings(temperature=600, timestep=4, steps=60, interval=3, seed=1, melting=False)


@pytest.fixture
def copper():
    return bulk("Cu", cubic=True).repeat(2)


@pytest.mark.parametrize("limit", [0.15, 0.25])
def test_no_frame_is_beyond_the_limit_and_the_next_would_have_been(copper, limit):
    every = walk(copper, Doubtful(copper), SETTINGS, np.inf)
    gone = np.array([np.linalg.norm(f.positions - copper.positions, axis=1).max() for f in every])
    assert len(every) == 20 and gone.max() > 0.3
    first = int(np.argmax(gone > limit))
    frames = walk(copper, Doubtful(copper), SETTINGS, limit)
    assert len(frames) == first > 0
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(frames, every, strict=False))


def test_a_calculator_that_explodes_leaves_only_frames_that_atoms_fit_into(copper):
    copper.rattle(0.02, seed=1)
    frames = walk(copper, Doubtful(copper, strength=-20.0), SETTINGS, np.inf)  # every hill is a valley
    assert len(frames) < 20
    assert all(np.isfinite(f.positions).all() for f in frames)


def test_a_ladder_of_temperatures_gives_colder_and_hotter_frames(copper):
    frames = md_frames({"cu": copper}, EMT(), 900.0, 60, np.inf, np.random.default_rng(3))
    assert len(frames) == 60 and {f.info["config_type"] for f in frames} == {"md"}
    assert not any(f.has("momenta") for f in frames)
    spread = []
    for rung in (frames[:20], frames[20:40], frames[40:]):
        sites = copper.get_scaled_positions() @ rung[0].cell.array
        spread.append(np.mean([np.square(f.positions - sites).mean() for f in rung]))
    assert spread[0] < spread[1] < spread[2]


def test_relaxations_come_nearer_to_rest(copper):
    frames = relaxation_frames({"cu": copper}, EMT(), 900.0, np.random.default_rng(3))
    largest = []
    for frame in frames:
        frame.calc = EMT()
        largest.append(np.abs(frame.get_forces()).max())
    assert len(frames) >= 2 and largest[-1] < 0.5 * largest[0]
