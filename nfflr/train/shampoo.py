"""Adam in the eigenbasis of Shampoo's preconditioner: SOAP, Vyas et al., arXiv:2409.11321 (2024).

For a gradient G of a matrix, Adam's element-wise step is only as good as the coordinates it is taken in. SOAP
keeps running means of G Gᵀ and Gᵀ G, and every few steps improves their eigenvectors by one power
iteration and a QR decomposition; Adam's second moments are those of the gradient in that basis.

Unlike in the paper, the first basis is that of the parameters and not of the first gradient, columns keep
their order, and a small multiple of the identity is added to the products: what the gradients have not told
yet is then no more than rounding's to decide, and runs that differ by rounding alone stay together.
"""

from __future__ import annotations

import torch
from torch.optim.optimizer import ParamsT

RIDGE = 1e-6  # of the mean eigenvalue


class SOAP(torch.optim.Optimizer):
    """SOAP for parameters of any number of axes; vectors and numbers are given plain Adam steps.

    All of its state is tensors, so that a run can be stopped and resumed bit for bit.

    Args:
        params: parameters, or groups with ``weight_decay`` of their own.
        lr: learning rate, the scale of a step in the eigenbasis.
        betas: decay of the means of gradients, and of their squares and products.
        weight_decay: decoupled, as in AdamW.
        every: steps between improvements of the bases.
        largest: axes longer than this keep their own coordinates.
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
        defaults = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
            "every": every,
            "largest": largest,
        }
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
        axes = [k for k, n in enumerate(grad.shape) if grad.dim() > 1 and 1 < n <= group["largest"]]
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
