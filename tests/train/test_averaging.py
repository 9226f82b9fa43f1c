"""Averages of weights against arithmetic, and SWAG's samples against the Gaussian they are drawn from."""

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from nfflr.train.optimizer import Swag, averaged


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
