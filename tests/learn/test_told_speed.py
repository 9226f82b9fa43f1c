"""How the summary of a distillation tells what was gained."""

import pytest

from nfflr.cli.distill import _told


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(0.6, "0.6 × as fast"), (0.043, "0.043 × as fast"), (1.26, "1.3 ×"), (9.4, "9.4 ×"), (316.4, "316 ×")],
)
def test_a_loss_is_not_told_as_a_gain(ratio, expected):
    assert _told(ratio) == expected
