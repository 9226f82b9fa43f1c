"""References of the teacher: what leaves a task out, and what must not."""

import errno
import json

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from nfflr.errors import NumericsError
from nfflr.learn import DistillSettings
from nfflr.learn.teacher import LABELS, LEFT_OUT, Labels, LeftOut, Teacher, make_suite

SETTINGS = DistillSettings(budget=60, supercell=(2, 2, 2), md_reference=0)
CELLS = {"cu": bulk("Cu", a=3.6)}


class FailsFrom(EMT):
    """EMT, which raises an error once a call after so many."""

    def __init__(self, error, calls):
        super().__init__()
        self.error, self.calls = error, calls

    def calculate(self, *arguments, **options):
        super().calculate(*arguments, **options)
        self.calls -= 1
        if self.calls == 0:
            raise self.error


def suite_of(folder, calculator):
    labels = Labels(folder / LABELS)
    try:
        suite, left_out = make_suite(folder / "suite", CELLS, Teacher(calculator, labels, 60), SETTINGS)
    finally:
        labels.close()
    return {task.name for task in suite.tasks}, left_out


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), MemoryError()], ids=["disk", "memory"]
)
def test_a_full_disk_or_memory_ends_the_run_and_the_next_has_every_task(tmp_path, error):
    with pytest.raises(type(error)):
        suite_of(tmp_path, FailsFrom(error, 9))
    assert not (tmp_path / "suite" / LEFT_OUT).exists()
    assert suite_of(tmp_path, EMT()) == ({"phonons", "eos", "elastic"}, {})


@pytest.mark.parametrize("error", [NumericsError("structure: no energy"), ValueError("too strange")])
def test_a_teacher_that_objects_leaves_out_the_task_and_says_why(tmp_path, error):
    tasks, left_out = suite_of(tmp_path, FailsFrom(error, 9))
    assert len(tasks) == 2 and len(left_out) == 1
    assert str(error) in next(iter(left_out.values()))
    path = tmp_path / "suite" / LEFT_OUT
    assert LeftOut.read(path).tasks == left_out
    path.write_text(json.dumps(left_out))  # the first version had nothing else
    assert LeftOut.read(path).tasks == left_out
