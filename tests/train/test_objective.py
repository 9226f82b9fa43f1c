"""The loss against numbers worked out by hand, and labels that are missing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from nfflr.quantities import LABELLED, QUANTITIES, Quantity
from nfflr.reports.evaluation import Comparison
from nfflr.train.objective import Term

NAN = float("nan")
NAMES = tuple(q.name for q in LABELLED)


def term(name: str, criterion: nn.Module | None = None, scale: float = 1.0) -> Term:
    return Term(QUANTITIES[name], criterion or nn.MSELoss(), scale)


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


class Kept(nn.Module):
    """A criterion that keeps what it sees."""

    def forward(self, value, target):
        self.value, self.target = value, target
        return value.sum()


def seen(name, output, labels) -> list[float]:
    criterion = Kept()
    term(name, criterion).loss(output, labels)
    assert not criterion.target.any()
    return criterion.value.flatten().tolist()


def test_errors_are_prediction_minus_label_and_energies_per_atom():
    assert seen("total_energy", *case()) == [0.5, 1.0]
    assert seen("forces", *case()) == [-float(k) for k in range(12)]
    assert seen("stress", *case()) == [-1.0] * 18


def test_missing_labels_leave_no_trace():
    output, labels = case()
    labels["total_energy"][0] = NAN
    labels["forces"][1:] = NAN
    labels["stress"][1] = NAN
    assert seen("total_energy", output, labels) == [1.0]
    assert seen("forces", output, labels) == [0.0, -1.0, -2.0]
    assert len(seen("stress", output, labels)) == 9
    assert [float(term(name).count(labels)) for name in NAMES] == [1, 3, 9]


def test_a_single_missing_component_is_masked_alone():
    output, labels = case()
    labels["forces"][2, 1] = NAN
    assert len(seen("forces", output, labels)) == 11


def test_a_prediction_that_is_nan_is_not_mistaken_for_a_missing_label():
    output, labels = case()
    output["forces"][2, 1] = NAN
    assert np.isnan(seen("forces", output, labels)).sum() == 1
    assert torch.isnan(term("forces").loss(output, labels))


def test_what_is_not_predicted_has_no_error():
    output, labels = case()
    del output["stress"]
    assert float(term("stress").loss(output, labels)) == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_a_term_without_labels_adds_nothing(name):
    output, labels = case()
    labels[name].fill_(NAN)
    assert float(term(name).loss(output, labels)) == 0.0  # and not NaN, the mean of nothing
    assert float(term(name).count(labels)) == 0.0


def test_scaled_means():
    output, labels = case()
    # per atom 0.5 and 1.0 eV, over 0.1
    assert float(term("total_energy", scale=0.1).loss(output, labels)) == pytest.approx((25 + 100) / 2)
    assert float(term("stress", nn.L1Loss(), 0.5).loss(output, labels)) == pytest.approx(2.0)


def test_huber_is_square_below_one_scale_and_linear_above():
    labels = {"total_energy": torch.zeros(1), "n_atoms": torch.tensor([1])}
    for error, expected in ((0.05, 0.5 * 0.5**2), (0.4, 4 - 0.5)):
        loss = term("total_energy", nn.HuberLoss(), 0.1).loss({"total_energy": torch.tensor([error])}, labels)
        assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_the_gradient_is_that_of_the_formula():
    prediction = torch.tensor([1.0, 4.0, 2.0], requires_grad=True)
    labels = {"total_energy": torch.tensor([0.0, NAN, 5.0]), "n_atoms": torch.tensor([1, 1, 2])}
    term("total_energy", scale=0.5).loss({"total_energy": prediction}, labels).backward()
    # d/dp of ½ Σ ((p − l)/(n·0.5))² over the two labels that exist
    assert np.allclose(prediction.grad, [1.0 * 4, 0.0, -1.5 / 2 * 4])


@pytest.mark.parametrize("q", [QUANTITIES["magmoms"], replace(QUANTITIES["dipole"], extensive=True)])
@pytest.mark.parametrize("of_errors", [True, False])
def test_a_batch_and_predictions_that_are_known_give_the_same_loss(q, of_errors):
    generator = torch.Generator().manual_seed(0)
    shape = (4,) if q.per_atom else (2, 3)
    predicted, label = torch.randn((2, *shape), generator=generator, dtype=torch.float64)
    label[1] = NAN
    n = torch.tensor([1, 3])
    one = Term(q, nn.HuberLoss(), 0.3, of_errors)
    divisor = n[:, None] if q.extensive else 1
    comparison = Comparison(q, (predicted / divisor).numpy(), (label / divisor).numpy())
    loss = one.loss({q.name: predicted}, {q.name: label, "n_atoms": n})
    assert float(loss) == pytest.approx(float(one.compared(comparison)), rel=1e-12)
    known = torch.isfinite(label)
    error = ((predicted - label) / divisor)[known] / 0.3
    assert float(loss) == pytest.approx(float(nn.functional.huber_loss(error, torch.zeros_like(error))))


def test_a_class_has_cross_entropy_over_the_labels_that_are_there():
    scores = torch.tensor([[2.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    one = Term(Quantity("kind", classes=("a", "b")), nn.CrossEntropyLoss(), of_errors=False)
    labels = {"kind": torch.tensor([0, 0, -100]), "n_atoms": torch.ones(3)}
    expected = (np.log(1 + np.exp(-2)) + np.log(1 + np.exp(1))) / 2
    assert float(one.loss({"kind": scores}, labels)) == pytest.approx(expected, rel=1e-6)
    assert float(one.count(labels)) == 2
