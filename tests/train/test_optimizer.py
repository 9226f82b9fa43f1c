"""SOAP, averages of weights and SWAG against what they are defined by."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from nfflr.train.optimizer import SOAP, Swag, averaged


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


def walk(count: int, size: int = 6, seed: int = 0) -> list[torch.Tensor]:
    """Weights of a line through a few directions with noise on top."""
    rng = np.random.default_rng(seed)
    basis = rng.normal(size=(2, size))
    steps = rng.normal(size=(count, 2)) @ basis + 0.1 * rng.normal(size=(count, size))
    return [torch.from_numpy(row) for row in steps + 1.0]


def model_of(weights: torch.Tensor) -> nn.Module:
    model = nn.Linear(len(weights) - 1, 1).double()
    vector_to_parameters(weights, model.parameters())
    return model


def test_weights_count_evenly_from_the_start_of_swa():
    path = walk(20)
    model = model_of(path[0])
    average = averaged(model, decay=0.9, even_from=12)
    for weights in path:
        vector_to_parameters(weights, model.parameters())
        average.update_parameters(model)
    expected = torch.stack(path[12:]).mean(0)
    torch.testing.assert_close(parameters_to_vector(average.module.parameters()), expected)


def test_without_swa_the_average_forgets_exponentially():
    path = walk(400)
    model = model_of(path[0])
    average = averaged(model, decay=0.9)
    for weights in path:
        vector_to_parameters(weights, model.parameters())
        average.update_parameters(model)
    powers = 0.9 ** torch.arange(299, -1, -1, dtype=torch.float64)
    expected = (torch.stack(path[-300:]) * powers[:, None]).sum(0) * 0.1
    torch.testing.assert_close(parameters_to_vector(average.module.parameters()), expected, atol=1e-8, rtol=0)


def collected(path: list[torch.Tensor], rank: int) -> Swag:
    swag = Swag(model_of(path[0]), rank)
    for weights in path:
        swag.collect(model_of(weights))
    return swag


def test_moments_are_those_of_all_weights_and_deviations_of_the_last():
    path = walk(30)
    swag = collected(path, rank=5)
    stacked = torch.stack(path)
    torch.testing.assert_close(swag.mean, stacked.mean(0))
    torch.testing.assert_close(swag.square, stacked.square().mean(0))
    running = stacked.cumsum(0) / torch.arange(1, 31)[:, None]
    torch.testing.assert_close(swag.deviations, (stacked - running)[-5:])


def test_samples_have_the_covariance_of_the_paper():
    """½ Σ_diag + ½ D Dᵀ / (K − 1), Maddox et al. 2019, eq. 1."""
    swag = collected(walk(30), rank=8)
    model, generator = model_of(torch.zeros(6, dtype=torch.float64)), torch.Generator().manual_seed(1)
    draws = []
    for _ in range(20_000):
        swag.sample(model, generator)
        draws.append(parameters_to_vector(model.parameters()).detach().clone())
    draws = torch.stack(draws)
    diagonal = torch.diag(swag.square - swag.mean.square())
    expected = (diagonal + swag.deviations.T @ swag.deviations / 7) / 2
    spread = expected.diagonal().max().item()
    torch.testing.assert_close(draws.mean(0), swag.mean, atol=0.03 * spread**0.5, rtol=0)
    torch.testing.assert_close(torch.cov(draws.T), expected, atol=0.04 * spread, rtol=0)


def test_a_state_brings_everything_back():
    path = walk(12)
    whole, half = collected(path, rank=4), collected(path[:7], rank=4)
    again = Swag(model_of(path[0]), 4)
    again.load_state(half.state())
    for weights in path[7:]:
        again.collect(model_of(weights))
    for name, value in whole.state().items():
        assert torch.equal(value, again.state()[name])
