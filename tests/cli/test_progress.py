"""The line of progress: what is being done before the number of steps is known, and numbers after."""

import io
import re

import pytest
from rich.console import Console

from nfflr.cli import progress
from nfflr.train.trainer import COMPILING


@pytest.fixture
def screen(monkeypatch):
    """What is drawn on a terminal of 80 columns."""
    text = io.StringIO()
    monkeypatch.setattr(
        progress, "Console", lambda file: Console(file=text, force_terminal=True, width=80, color_system=None)
    )
    return text


def lines(text: io.StringIO) -> list[str]:
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text.getvalue()))


def test_a_stage_has_its_whole_text_and_a_time_and_no_empty_count(screen):
    with progress.training_bar("train") as update:
        update(0, None, COMPILING)
    assert any(line.startswith(f"train {COMPILING} 0:00:0") for line in lines(screen))
    assert "0/?" not in screen.getvalue() and max(map(len, lines(screen))) <= 80


def test_steps_have_a_count_and_the_time_that_remains(screen):
    with progress.training_bar("train") as update:
        update(0, None, COMPILING)
        update(3, 900, "loss 0.1234  val 0.5678")
    last = [line for line in lines(screen) if line.strip()][-1]
    assert "3/900 loss 0.1234 val 0.5678 0:00:0" in last and " < " in last and len(last) <= 80
