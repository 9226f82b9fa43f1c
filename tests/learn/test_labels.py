"""The teacher's answers: kept at once and to the last bit, never asked for twice, and never too many."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import CalculationFailed, Calculator, all_changes
from ase.calculators.emt import EMT

from nfflr.errors import NumericsError
from nfflr.learn.teacher import Labels, Teacher, label
from nfflr.validation.suite import BudgetSpentError


class Counting(EMT):
    """EMT that counts its calls."""

    calls = 0

    def calculate(self, *arguments, **keywords):
        self.calls += 1
        super().calculate(*arguments, **keywords)


def frames(count):
    found = [bulk("Cu", cubic=True) for _ in range(count)]
    for k, atoms in enumerate(found):
        atoms.rattle(0.05, seed=k)
    return found


@pytest.fixture
def path(tmp_path):
    return tmp_path / "labels.traj"


def test_no_structure_is_asked_for_twice_in_this_run_or_the_next(path):
    for calls in (3, 0):
        teacher, own = Counting(), Labels(path)
        asking = Teacher(teacher, own, limit=10)
        for atoms in [*frames(3), *frames(3)]:
            expected = atoms.copy()
            atoms.calc, expected.calc = asking, EMT()
            assert atoms.get_potential_energy() == expected.get_potential_energy()
            np.testing.assert_array_equal(atoms.get_forces(), expected.get_forces())  # from the disk too
            np.testing.assert_array_equal(atoms.get_stress(), expected.get_stress())
        own.close()
        assert len(own) == 3 and teacher.calls == calls


def test_the_budget_is_a_hard_bound(path):
    teacher, own = Counting(), Labels(path)
    asking = Teacher(teacher, own, limit=4)
    assert label(asking, frames(3), "train", limit=2) == 2
    assert label(asking, frames(9), "test", limit=99) == 4  # two of them known
    assert teacher.calls == len(own) == 4
    with pytest.raises(BudgetSpentError):
        asking.get_property("energy", frames(9)[8])
    assert teacher.calls == 4
    assert [f.info["use"] for f in own.frames] == ["train", "train", "test", "test"]
    own.close()


def test_a_call_that_failed_counts_and_is_left_out(path):
    class Failing(Calculator):
        implemented_properties = ("energy", "forces")

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            if atoms.positions[0, 0] > 0:
                raise CalculationFailed("no convergence")
            self.results = {"energy": np.float32(1.5), "forces": np.zeros((len(atoms), 3), np.float32)}

    own = Labels(path)
    asking = Teacher(Failing(), own, limit=10)
    good, bad = bulk("Cu"), bulk("Cu")
    bad.positions += 0.1
    assert label(asking, [bad, good], "train", limit=10) == 1
    assert len(own) == 2 and len(own.used_for("train")) == 1
    assert own.used_for("train")[0].get_forces().dtype == np.float64
    with pytest.raises(NumericsError, match="the teacher failed .no convergence"):
        asking.get_property("energy", bad)
    own.close()
    again = Labels(path)
    assert len(again) == 2 and again.find(bad).calc is None
    again.close()


def test_half_a_frame_of_a_killed_writer_is_cut_off(path):
    own = Labels(path)
    label(Teacher(EMT(), own, 10), frames(2), "train", 10)
    two = path.read_bytes()
    label(Teacher(EMT(), own, 10), frames(3), "train", 10)
    own.close()
    more = path.read_bytes()[len(two) :]
    for cut in (1, len(more) // 2, len(more)):  # the header, which counts the frames, is written last
        path.write_bytes(two + more[:cut])
        own = Labels(path)
        assert len(own) == 2 and own.find(frames(2)[1]) is not None
        label(Teacher(EMT(), own, 10), frames(3), "train", 10)
        own.close()
        own = Labels(path)
        assert len(own) == 3
        own.close()


KILLED = """
import os, signal, sys
from pathlib import Path
from ase.calculators.emt import EMT
from nfflr.learn.teacher import Labels, Teacher, label
from test_labels import frames

class Dying(EMT):
    def calculate(self, *arguments, **keywords):
        with open("calls", "a") as file:
            file.write("x")
        if Path("calls").stat().st_size == 3 and len(sys.argv) > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        super().calculate(*arguments, **keywords)

own = Labels(Path("labels.traj"))
label(Teacher(Dying(), own, 99), frames(5), "train", 99)
"""


def test_a_kill_between_labels_loses_none(tmp_path):
    where = {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    for argument in (["die"], []):
        command = [sys.executable, "-c", KILLED, *argument]
        done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **where}, check=False)
        assert done.returncode == (-signal.SIGKILL if argument else 0)
    # Two labels, the call that was killed, and it again with the last two: none that was answered.
    assert (tmp_path / "calls").stat().st_size == 6
    own = Labels(tmp_path / "labels.traj")
    assert own.frames == [f.copy() for f in own.frames] and len(own) == 5
    own.close()
