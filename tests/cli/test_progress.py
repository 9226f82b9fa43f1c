"""The line of progress: what is being done before the number of steps is known, and numbers after."""

import io
import re

import pytest
from rich.console import Console

from nfflr.train.trainer import COMPILING
from nfflr.workflows.framework import progress_bar as progress


@pytest.fixture
def screen(monkeypatch):
    """What is drawn on a terminal of 80 columns."""
    text = io.StringIO()
    monkeypatch.setattr(
        progress,
        "Console",
        lambda file, **options: Console(
            file=text, force_terminal=True, width=80, color_system=None, **options
        ),
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
    assert "3/900 loss 0.1234  val 0.5678 0:00:0" in last and " < " in last and len(last) <= 80


def test_the_first_number_is_there_whatever_the_name(screen):
    name = "relax si-interstitial[1]"  # brackets are no markup
    with progress.step_bar(name) as update:
        update(28, 500, {"fmax (eV/Å)": 0.00983, "E (eV)": -350.278}, None)
    last = [line for line in lines(screen) if line.strip()][-1]
    assert last.startswith(f"{name} ") and "28/500 fmax (eV/Å) 0.009830 0:00:0" in last and len(last) <= 80


@pytest.mark.parametrize(
    ("room", "shown"), [(30, "loss 0.1  val 0.2"), (16, "loss 0.1"), (8, "loss 0.1"), (7, "loss …")]
)
def test_numbers_are_whole_or_left_out(room, shown):
    assert progress.fitting("loss 0.1  val 0.2", room) == shown
