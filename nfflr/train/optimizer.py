"""How weights move: which parameters decay, and the learning rate along the run."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase

import torch

from ..errors import ConfigError, did_you_mean
from .config import TrainingConfig
from .shampoo import SOAP


def build_optimizer(
    config: TrainingConfig, extra: tuple[torch.nn.Parameter, ...] = ()
) -> torch.optim.Optimizer:
    """The optimiser of the parameters that are trained, grouped by weight decay.

    A plain ``weight_decay`` acts on matrices only. In a dict, the first pattern that matches a parameter's
    name decides, and what none matches does not decay. ``extra`` parameters never decay.

    Raises:
        ConfigError: a pattern matches no parameter.
    """
    named = {name: p for name, p in config.model.named_parameters() if p.requires_grad}
    groups: dict[float, list] = {}
    for name, parameter in named.items():
        groups.setdefault(_decay(config.weight_decay, name, parameter), []).append(parameter)
    every = [name for name, _ in config.model.named_parameters()]  # frozen ones too
    for pattern in config.weight_decay if isinstance(config.weight_decay, dict) else ():
        if not any(fnmatchcase(name, pattern) for name in every):
            raise ConfigError(f"weight_decay: {pattern!r} matches no parameter{did_you_mean(pattern, every)}")
    if extra:
        groups.setdefault(0.0, []).extend(extra)
    options = [{"params": parameters, "weight_decay": decay} for decay, parameters in groups.items()]
    betas = config.betas or ((0.9, 0.99) if config.optimizer == "adamw" else (0.95, 0.95))
    if config.optimizer == "sgd":
        return torch.optim.SGD(options, lr=config.learning_rate, momentum=betas[0])
    if config.optimizer == "adamw":
        return torch.optim.AdamW(options, lr=config.learning_rate, betas=betas)
    return SOAP(options, lr=config.learning_rate, betas=betas)


def _decay(setting: float | dict[str, float], name: str, parameter: torch.nn.Parameter) -> float:
    if isinstance(setting, dict):
        return next((value for pattern, value in setting.items() if fnmatchcase(name, pattern)), 0.0)
    return setting if parameter.dim() >= 2 else 0.0


def rate_factor(config: TrainingConfig, step: int, total: int) -> float:
    """Learning rate at a step, as a fraction of the peak."""
    if config.schedule == "onecycle":
        rise = 0.3 * total
        if step < rise:
            return 0.04 + 0.96 * (0.5 - 0.5 * math.cos(math.pi * step / rise))
        return 0.5 + 0.5 * math.cos(math.pi * (step - rise) / (total - rise))
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "constant":
        return warm
    return warm * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / total))))
