"""The loss against numbers worked out by hand, and labels that are missing."""

import numpy as np
import pytest
import torch
from torch import nn

from nfflr.nn.losses import KEYS, label_errors, weighted_loss

NAN = float("nan")
ONE = dict.fromkeys(KEYS, 1.0)


def case():
    """Two structures of one and three atoms: predictions, and labels that differ by simple numbers."""
    output = {
        "total_energy": torch.tensor([-1.0, -9.0]),
        "forces": torch.zeros(4, 3),
        "stress": torch.zeros(2, 3, 3),
    }
    labels = {
        "total_energy": torch.tensor([-1.5, -12.0]),
        "forces": torch.arange(12.0).view(4, 3),
        "stress": torch.ones(2, 3, 3),
        "n_atoms": torch.tensor([1, 3]),
    }
    return output, labels


def test_errors_are_prediction_minus_label_and_energies_per_atom():
    errors = label_errors(*case())
    assert errors["energy"].tolist() == [0.5, 1.0]
    assert sorted(errors["forces"].flatten().tolist()) == [-float(k) for k in range(11, -1, -1)]
    assert errors["stress"].flatten().tolist() == [-1.0] * 18


def test_missing_labels_leave_no_trace():
    output, labels = case()
    labels["total_energy"][0] = NAN
    labels["forces"][1:] = NAN
    labels["stress"][1] = NAN
    errors = label_errors(output, labels)
    assert errors["energy"].tolist() == [1.0]
    assert errors["forces"].flatten().tolist() == [0.0, -1.0, -2.0]
    assert errors["stress"].numel() == 9


def test_a_single_missing_component_is_masked_alone():
    output, labels = case()
    labels["forces"][2, 1] = NAN
    assert label_errors(output, labels)["forces"].numel() == 11


def test_a_prediction_that_is_nan_is_not_mistaken_for_a_missing_label():
    output, labels = case()
    output["forces"][2, 1] = NAN
    assert torch.isnan(label_errors(output, labels)["forces"]).sum() == 1
    loss = weighted_loss(label_errors(output, labels), ONE, ONE, nn.MSELoss())
    assert torch.isnan(loss)


def test_without_predicted_stress_there_is_no_stress_error():
    output, labels = case()
    del output["stress"]
    assert set(label_errors(output, labels)) == {"energy", "forces"}


def test_the_sum_of_weighted_scaled_means():
    errors = {
        "energy": torch.tensor([0.1, -0.3]),
        "forces": torch.tensor([2.0]),
        "stress": torch.tensor([0.5]),
    }
    weights = {"energy": 2.0, "forces": 3.0, "stress": 0.0}
    scales = {"energy": 0.1, "forces": 4.0, "stress": 1.0}
    loss = weighted_loss(errors, weights, scales, nn.MSELoss())
    assert float(loss) == pytest.approx(2 * (1 + 9) / 2 + 3 * 0.25, rel=1e-6)


@pytest.mark.parametrize("key", KEYS)
def test_each_key_has_its_own_weight_and_scale(key):
    errors = {k: torch.tensor([1.0, -2.0]) for k in KEYS}
    weights = {k: float(k == key) for k in KEYS}
    scales = {k: 0.5 if k == key else 1e-9 for k in KEYS}
    assert float(weighted_loss(errors, weights, scales, nn.L1Loss())) == pytest.approx(3.0)


def test_huber_is_square_below_one_scale_and_linear_above():
    criterion = nn.HuberLoss()
    for error, expected in ((0.05, 0.5 * 0.5**2), (0.4, 4 - 0.5)):
        loss = weighted_loss({"energy": torch.tensor([error])}, ONE, {"energy": 0.1}, criterion)
        assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_a_key_without_labels_adds_nothing():
    empty = {"energy": torch.tensor([0.5]), "forces": torch.zeros(0), "stress": torch.zeros(0)}
    loss = weighted_loss(empty, ONE, ONE, nn.MSELoss())
    assert float(loss) == 0.25  # and not NaN, the mean of nothing


def test_no_labels_at_all_give_zero():
    assert float(weighted_loss({k: torch.zeros(0) for k in KEYS}, ONE, ONE, nn.MSELoss())) == 0.0


def test_the_gradient_is_that_of_the_formula():
    prediction = torch.tensor([1.0, 4.0, 2.0], requires_grad=True)
    label = torch.tensor([0.0, NAN, 5.0])
    output = {"total_energy": prediction, "forces": torch.zeros(3, 3)}
    labels = {"total_energy": label, "forces": torch.full((3, 3), NAN), "stress": torch.full((3, 3, 3), NAN)}
    labels["n_atoms"] = torch.tensor([1, 1, 2])
    loss = weighted_loss(label_errors(output, labels), ONE, {**ONE, "energy": 0.5}, nn.MSELoss())
    loss.backward()
    # d/dp of ½ Σ ((p − l)/(n·0.5))² over the two labels that exist
    assert np.allclose(prediction.grad, [1.0 * 4, 0.0, -1.5 / 2 * 4])
