"""A model from hyper-parameters that a file names, built within bounds that the file's tensors set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from ..errors import CheckpointError
from .base import Potential, PotentialConfig

# What makes new tensors of sizes that are numbers in the call.
SIZED = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.eye}
SIZED |= {torch.Tensor.repeat, torch.Tensor.repeat_interleave, torch.Tensor.new_zeros, torch.Tensor.new_ones}
COUNTING = {torch.arange, torch.linspace}
ROOM = 2**22  # numbers that any model may need beside its tensors


class Bounded(TorchFunctionMode):
    """Permits so many calls of torch functions in its block, and new tensors of so many numbers in all.

    It acts on this thread alone, like every such mode. The meta device would bound memory too, but torch
    imports its compiler for it, which takes longer than all other parts of loading together.

    Raises:
        ValueError: at the first call that goes beyond.
    """

    def __init__(self, calls: int, numbers: int):
        super().__init__()
        self.calls, self.numbers = calls, numbers

    def __torch_function__(
        self, function: Callable, types: Sequence[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        self.calls -= 1
        if self.calls < 0:
            raise ValueError("many more layers than there are tensors")
        asked = _asked(function, args, kwargs or {})
        if function in SIZED | COUNTING:
            self.numbers -= asked
        if min(self.numbers, self.numbers - asked) < 0:
            raise ValueError("many more numbers than there are in its tensors")
        return function(*args, **(kwargs or {}))


def build_model(
    cls: type[Potential],
    config: PotentialConfig,
    dtype: torch.dtype,
    tensors: Mapping[str, torch.Tensor],
    path: Path,
) -> Potential:
    """A model on the CPU with initial weights, for which ``tensors`` fit; torch's generator is left alone.

    Raises:
        CheckpointError: sizes are beyond reason, or the tensors are not those of the architecture.
    """
    calls = 100 * (10 + len(tensors))
    numbers = ROOM + 16 * sum(tensor.numel() for tensor in tensors.values())
    # The limit may strike just where torch would turn gradients on again, so that has to be seen to. The
    # caller's default device has no say.
    with (
        torch.set_grad_enabled(torch.is_grad_enabled()),
        torch.random.fork_rng(devices=[]),
        Bounded(calls, numbers),
        torch.device("cpu"),
    ):
        try:
            model = cls(config).to(dtype)
        except (RuntimeError, OverflowError, TypeError, ValueError, MemoryError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise CheckpointError(
                f"{path}: hyper-parameters describe no model that fits ({reason})"
            ) from error
        expected = model.state_dict()
    _compare(expected, tensors, path)
    return model


def _compare(expected: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    for name in sorted(expected.keys() ^ tensors.keys()):
        what = "is missing" if name in expected else "is not part of the architecture"
        raise CheckpointError(f"{path}: tensor {name!r} {what}; the file and the code do not fit")
    for name, value in tensors.items():
        if value.shape != expected[name].shape:
            raise CheckpointError(
                f"{path}: tensor {name!r} has shape {tuple(value.shape)}, "
                f"expected {tuple(expected[name].shape)}"
            )
        if value.dtype != expected[name].dtype:
            raise CheckpointError(
                f"{path}: tensor {name!r} is {value.dtype}, expected {expected[name].dtype}"
            )
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{path}: tensor {name!r} holds values that are not finite; retrain")


def _asked(function: Callable, args: tuple, kwargs: dict) -> int:
    """Of how many numbers the result is at most, as far as the arguments say."""
    positional = args[:1] if function is torch.full else args
    if function in COUNTING:
        return max(abs(math.ceil(x)) for x in [*positional, *kwargs.values()] if type(x) in (int, float))
    shapes = [x.shape for x in args if isinstance(x, torch.Tensor)]
    if function in SIZED:
        sizes = [abs(size) for size in _integers([*positional, kwargs.get("size", ())])]
        sizes *= 1 + (function is torch.eye and len(sizes) == 1)
        return math.prod([*sizes, *(math.prod(shape) for shape in shapes)])
    try:
        return math.prod(np.broadcast_shapes(*shapes)) if len(shapes) > 1 else 0
    except ValueError:  # not to be broadcast
        return 0


def _integers(values: Sequence) -> Iterator[int]:
    for value in values:
        if isinstance(value, Sequence) and not isinstance(value, str):
            yield from _integers(value)
        elif isinstance(value, int):
            yield value
