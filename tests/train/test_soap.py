"""SOAP against what it is defined by, and what it is for."""

import copy

import pytest
import torch

from nfflr.train.optimizer import SOAP


def rotation(n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]


def test_on_vectors_it_is_adam():
    start = torch.linspace(-1, 2, 7, dtype=torch.float64)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    soap = SOAP([ours], lr=0.03, betas=(0.9, 0.99), weight_decay=0.1)
    adam = torch.optim.AdamW([theirs], lr=0.03, betas=(0.9, 0.99), weight_decay=0.1, eps=1e-8)
    for _ in range(20):
        for parameter, optimizer in ((ours, soap), (theirs, adam)):
            optimizer.zero_grad()
            (parameter**4 - parameter).sum().backward()
            optimizer.step()
    # AdamW adds its eps after the correction of the bias, SOAP before.
    assert torch.allclose(ours, theirs, atol=1e-6)


def final_error(optimizer_of, left: torch.Tensor, right: torch.Tensor, steps: int = 400) -> float:
    """Weights of a linear layer from noisy batches, whose inputs and outputs differ in scale along axes that
    ``left`` and ``right`` turn; returns the mean squared error left."""
    inputs, outputs = (torch.logspace(0, 1.5, n, dtype=torch.float64) for n in (12, 8))
    generator = torch.Generator().manual_seed(2)
    goal = torch.randn(12, 8, generator=generator, dtype=torch.float64)
    weight = torch.nn.Parameter(torch.zeros(12, 8, dtype=torch.float64))
    optimizer = optimizer_of([weight])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def loss(x):
        return ((x * inputs) @ (left.T @ weight @ right - goal) * outputs).square().mean()

    for _ in range(steps):
        optimizer.zero_grad()
        loss(torch.randn(32, 12, generator=generator, dtype=torch.float64)).backward()
        optimizer.step()
        schedule.step()
    return float(loss(torch.eye(12, dtype=torch.float64)).detach())


def test_the_axes_that_weights_come_in_do_not_matter():
    """Where Adam needs them along the curvature, SOAP finds them."""
    straight = torch.eye(12).double(), torch.eye(8).double()
    turned = rotation(12, 0), rotation(8, 1)
    soap = final_error(lambda p: SOAP(p, lr=0.1), *turned)
    adam = final_error(lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.95, 0.95)), *turned)
    assert soap < 0.1 * adam
    assert soap < 50 * final_error(lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.95, 0.95)), *straight)


def test_bases_stay_orthogonal_and_state_is_tensors():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(4, 6, 5))
    optimizer = SOAP([weight], lr=0.01, every=3)
    for _ in range(30):
        optimizer.zero_grad()
        (weight.tanh() @ torch.ones(5)).square().sum().backward()
        optimizer.step()
    state = optimizer.state[weight]
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    for k, n in enumerate(weight.shape):
        assert torch.allclose(state[f"basis.{k}"].T @ state[f"basis.{k}"], torch.eye(n), atol=1e-5)


@pytest.mark.parametrize("stop", [7, 10])
def test_a_state_that_was_saved_goes_on_bit_for_bit(stop):
    def run(weight, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            (weight.sin() @ weight.T.cos()).sum().backward()
            optimizer.step()

    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(6, 5))
    optimizer = SOAP([weight], lr=0.01)
    run(weight, optimizer, stop)
    twin = torch.nn.Parameter(weight.detach().clone())
    other = SOAP([twin], lr=0.01)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(weight, optimizer, 25)
    run(twin, other, 25)
    assert torch.equal(weight, twin)


def test_long_axes_keep_their_coordinates():
    weight = torch.nn.Parameter(torch.ones(3, 40))
    optimizer = SOAP([weight], lr=0.01, largest=16)
    weight.square().sum().backward()
    optimizer.step()
    assert {k for k in optimizer.state[weight] if k.startswith("basis")} == {"basis.0"}
