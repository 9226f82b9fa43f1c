"""Files with a version: older ones are raised to the current one, newer and foreign ones are refused."""

import json
from typing import ClassVar

import pytest

from nfflr.cards import Card
from nfflr.errors import ConfigError
from nfflr.learn.loop import Plan
from nfflr.learn.teacher import LeftOut
from nfflr.reports.run_record import CheckRecord, RunRecord, ValidationRecord
from nfflr.storage.sealed import STEPS, Record
from nfflr.train.state import StateRecord
from nfflr.validation.reading import SuiteRecord
from nfflr.workflows.framework.results import ResultRecord

KINDS = [
    Card,
    CheckRecord,
    LeftOut,
    Plan,
    ResultRecord,
    RunRecord,
    StateRecord,
    SuiteRecord,
    ValidationRecord,
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_earlier_version_has_a_step_to_the_next(kind):
    assert kind.model_fields["version"].default == 1 + len(STEPS.get(kind.kind, ()))


def test_there_is_no_step_for_a_file_that_nobody_reads():
    assert STEPS.keys() <= {kind.kind for kind in KINDS}


def test_a_run_record_without_a_version_is_read_with_what_it_has(tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"command": "nff train a.py", "data": {"digest": "1"}, "of_later": 3}))
    record = RunRecord.read(path)
    assert record.command == "nff train a.py" and record.data.digest == "1" and record.finished is None
    record.write(path)
    assert json.loads(path.read_text())["version"] == 1
    assert RunRecord.read(path).model_dump() == record.model_dump()


def test_a_first_check_said_only_whether_it_passed(tmp_path):
    path = tmp_path / "a-check.json"
    path.write_text(json.dumps({"checks": [{"name": "a", "passed": True}, {"name": "b", "passed": False}]}))
    assert [check.status for check in CheckRecord.read(path).checks] == ["pass", "fail"]


def test_a_state_of_the_first_version_has_no_sums():
    first = {"settings": {}, "model": {}, "data_digest": "1", "step": 4, "epoch": 2, "best": None, "stale": 0}
    state = StateRecord.restored(
        {**first, "history": [{"val/loss": None}], "format": "nfflr-state", "version": 3}
    )
    assert (state.loss_sum, state.loss_count, state.step) == (0.0, 0, 4)
    assert StateRecord.restored(state.stored()) == state and "version" not in state.stored()


class Number(Record):
    kind: ClassVar[str] = "a number"
    value: float


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"value": 1, "version": 2}', "is of version 2; this nfflr reads up to 1; update nfflr"),
        ('{"value": 1, "version": "new"}', "is of version 'new'"),
        ('{"value": 1, "version": true}', "is of version True"),
        ('{"value": "much"}', "value: should be a number, got 'much'"),
        ("{}", "value: is missing, and required"),
        ("[1]", "expected a JSON object"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"value": ' * 100_000, "not JSON"),
        ("", "not JSON"),
    ],
)
def test_what_is_no_record_is_refused_in_a_line(tmp_path, content, words):
    path = tmp_path / "number.json"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        Number.read(path)
    assert str(caught.value).startswith(f"{path}: ") and words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"number\.json: cannot be read .*; give a number"):
        Number.read(tmp_path / "number.json")
