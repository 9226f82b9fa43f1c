"""Optimisers, the learning rate along a run, and averages of weights."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim.optimizer import ParamsT
from torch.optim.swa_utils import AveragedModel

from ..errors import ConfigError, did_you_mean
from .config import TrainingConfig

RIDGE = 1e-6  # of the mean eigenvalue
LOPSIDED = 16


class SOAP(torch.optim.Optimizer):
    """SOAP (Vyas et al., arXiv:2409.11321) for any number of axes; vectors get plain Adam steps.

    All of its state is tensors, so that a run can be stopped and resumed bit for bit.

    Args:
        params, lr, betas, weight_decay: as of AdamW; ``lr`` scales a step in the eigenbasis.
        every: steps between improvements of the bases.
        largest: axes longer than this keep their own coordinates, and so do those that are much longer than
            all others together, of which single gradients tell little.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        weight_decay: float = 0.0,
        every: int = 10,
        largest: int = 2048,
    ):
        shared = {"lr": lr, "betas": betas, "weight_decay": weight_decay}
        defaults = {**shared, "every": every, "largest": largest}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure=None):
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: torch.Tensor, group: dict) -> None:
        grad, state = parameter.grad, self.state[parameter]
        assert grad is not None
        beta1, beta2 = group["betas"]
        longest = [min(group["largest"], LOPSIDED * grad.numel() // max(1, n)) for n in grad.shape]
        axes = [k for k, n in enumerate(grad.shape) if grad.dim() > 1 and 1 < n <= longest[k]]
        if not state:
            self._start(state, grad, axes)
        step = int(state["step"].add_(1))
        mean = state["exp_avg"].lerp_(grad, 1 - beta1)
        square = state["exp_avg_sq"].lerp_(_turn(grad, state, axes).square(), 1 - beta2)
        debias = (1 - beta2**step) ** 0.5 / (1 - beta1**step)
        change = debias * _turn(mean, state, axes) / (square.sqrt() + 1e-8)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(_turn(change, state, axes, back=True), alpha=-group["lr"])
        for k in axes:
            state[f"product.{k}"].lerp_(_product(grad, k), 1 - beta2)
        if step % group["every"] == 0:
            for k in axes:
                _improve(state, k)

    @staticmethod
    def _start(state: dict, grad: torch.Tensor, axes: list[int]) -> None:
        state["step"] = torch.zeros(())
        state["exp_avg"] = torch.zeros_like(grad)
        state["exp_avg_sq"] = torch.zeros_like(grad)
        for k in axes:
            state[f"product.{k}"] = _product(grad, k)
            state[f"basis.{k}"] = torch.eye(grad.shape[k], dtype=grad.dtype, device=grad.device)


def _product(grad: torch.Tensor, axis: int) -> torch.Tensor:
    """Sum over all other axes of the gradient's outer product with itself, (n, n)."""
    rows = grad.movedim(axis, 0).flatten(1)  # (n, rest)
    return rows @ rows.T


def _turn(x: torch.Tensor, state: dict, axes: list[int], back: bool = False) -> torch.Tensor:
    """To the eigenbasis of each axis, or back."""
    for k in axes:
        basis = state[f"basis.{k}"]
        x = torch.movedim(torch.movedim(x, k, -1) @ (basis.T if back else basis), -1, k)
    return x


def _improve(state: dict, axis: int) -> None:
    """One power iteration towards the eigenvectors."""
    product, basis = state[f"product.{axis}"], state[f"basis.{axis}"]
    floor = RIDGE * product.diagonal().mean()
    basis.copy_(torch.linalg.qr(product @ basis + floor * basis)[0])


def build_optimizer(
    config: TrainingConfig, extra: tuple[torch.nn.Parameter, ...] = ()
) -> torch.optim.Optimizer:
    """The optimiser of the trained parameters, grouped by weight decay; ``extra`` ones never decay.

    A plain ``weight_decay`` acts on matrices only. In a dict, the first pattern that matches a name decides.

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


def rate_factor(config: TrainingConfig, step: int, total: int, fall: int | None = None) -> float:
    """Learning rate at a step, as a fraction of the peak.

    Args:
        config: with the schedule. ``plateau`` is constant and then falls, as of Hägele et al., NeurIPS 2024.
        step, total: the step, and how many there are.
        fall: step from which a plateau's rate falls; None: it does not yet.
    """
    if config.schedule == "onecycle":
        rise = 0.3 * total
        if step < rise:
            return 0.04 + 0.96 * (0.5 - 0.5 * math.cos(math.pi * step / rise))
        return 0.5 + 0.5 * math.cos(math.pi * (step - rise) / (total - rise))
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "constant" or (config.schedule == "plateau" and fall is None):
        return warm
    begin = (fall or 0) if config.schedule == "plateau" else 0
    course = min(1.0, (step - begin) / max(1, total - begin))
    return warm * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * course)))


def averaged(model: nn.Module, decay: float, even_from: float = math.inf) -> AveragedModel:
    """A copy of ``model`` that follows it as an exponential average with ``decay``.

    Its memory grows from a few steps to 1/(1 − decay). From the step ``even_from`` on all weights count the
    same: stochastic weight averaging (Izmailov et al., UAI 2018).
    """

    @torch.no_grad()
    def update(averages, current, count):
        n = int(count)
        even = n >= even_from
        keep = 1 - 1 / (n - even_from + 1) if even else min(decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(averages, current, 1 - keep)

    return AveragedModel(model, multi_avg_fn=update)


class Swag:
    """Gaussian over weights from the last part of a run (Maddox et al., NeurIPS 2019).

    Keeps mean and second moment of all collected weights (P,), float64, and the last ``rank`` deviations D
    from the running mean. A sample is mean + (Σ_diag^½ z₁ + D z₂ / √(K − 1)) / √2, with normal z₁ (P,) and z₂
    (K,).
    """

    def __init__(self, model: nn.Module, rank: int):
        size = sum(p.numel() for p in model.parameters())
        self.rank, self.count = rank, 0
        self.mean, self.square = torch.zeros(2, size, dtype=torch.float64)  # (P,)
        self.deviations = torch.zeros(0, size, dtype=torch.float64)  # (K, P), newest last

    @torch.no_grad()
    def collect(self, model: nn.Module) -> None:
        """Add the weights that ``model`` has now."""
        weights = parameters_to_vector(model.parameters()).cpu().double()
        self.count += 1
        self.mean = torch.lerp(self.mean, weights, 1 / self.count)
        self.square = torch.lerp(self.square, weights.square(), 1 / self.count)
        self.deviations = torch.cat([self.deviations, (weights - self.mean)[None]])[-self.rank :]

    @torch.no_grad()
    def sample(self, model: nn.Module, generator: torch.Generator) -> None:
        """Overwrite the weights of ``model`` by a draw."""
        first = torch.randn(self.mean.shape, generator=generator, dtype=torch.float64)
        second = torch.randn(len(self.deviations), generator=generator, dtype=torch.float64)
        diagonal = (self.square - self.mean.square()).clamp(min=0).sqrt() * first
        low_rank = self.deviations.T @ second / math.sqrt(max(1, len(self.deviations) - 1))
        draw = self.mean + (diagonal + low_rank) / math.sqrt(2)
        example = next(model.parameters())
        vector_to_parameters(draw.to(example), model.parameters())

    def state(self) -> dict[str, torch.Tensor]:
        count = torch.tensor(self.count)
        return {"mean": self.mean, "square": self.square, "deviations": self.deviations, "count": count}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        self.mean, self.square, self.deviations = state["mean"], state["square"], state["deviations"]
        self.count = int(state["count"])
