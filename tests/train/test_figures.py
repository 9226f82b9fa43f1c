"""What a training tells: a line a validation, the learning curve, and parity plots."""

import math

import numpy as np
import pytest

from nfflr.cli.train import line
from nfflr.quantities import LABELLED, QUANTITIES
from nfflr.reports.evaluation import Comparison, Predictions
from nfflr.reports.figures import learning_curve, parity
from nfflr.reports.run_record import columns_of

COLUMNS = columns_of(LABELLED)


def history(stress: float) -> list[dict[str, float]]:
    errors = {f"val/{c.key}": 0.01 for c in COLUMNS} | {"val/stress_mae": stress, "val/stress_rmse": stress}
    return [{"epoch": k, "train/loss": 2.0 / k, "val/loss": 3.0 / k, **errors} for k in (1, 2, 3)]


@pytest.mark.parametrize(("stress", "told"), [(0.001, True), (math.nan, False)])
def test_stress_is_told_and_drawn_where_it_is_labelled(stress, told):
    rows = history(stress)
    assert line(rows[0], COLUMNS).split()[:2] == ["epoch", "1"]
    assert "E 10.00 meV/atom  F 10.00 meV/Å" in line(rows[0], COLUMNS)
    assert ("σ 0.1602 GPa" in line(rows[0], COLUMNS)) is told and "nan" not in line(rows[0], COLUMNS)
    figure = learning_curve(rows, COLUMNS)
    drawn = [axes for axes in figure.axes if axes.axison]
    assert any("σ" in axes.get_ylabel() for axes in drawn) is told and len(drawn) == 3 + told
    assert [axes.get_xlabel() for axes in drawn] == [""] * (1 + told) + ["epoch"] * 2


@pytest.mark.parametrize(("labelled", "drawn"), [(("forces", "stress"), 3), (("forces",), 2), ((), 1)])
def test_what_has_no_labels_has_no_parity_plot(labelled, drawn):
    values = {"total_energy": np.full(2, -467.7), "forces": np.ones((6, 3)), "stress": np.ones((2, 3, 3))}
    comparisons = {}
    for name, predicted in values.items():  # a prediction alone is no pair
        is_labelled = name == "total_energy" or name in labelled
        reference = predicted if is_labelled else np.full_like(predicted, np.nan)
        comparisons[name] = Comparison(QUANTITIES[name], predicted, reference)
    figure = parity(Predictions(comparisons, owner=np.repeat([0, 1], 3), groups=np.array(["a", "b"])))
    assert len(figure.axes) == drawn
    assert not any("nan" in axes.get_title() for axes in figure.axes)
