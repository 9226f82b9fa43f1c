"""Starting from a trained model: its weights in a new one, and weights that stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from ..checkpoint import load_checkpoint
from ..errors import CheckpointError, ConfigError, did_you_mean
from ..models.base import Potential

MAY_DIFFER = {"elements", "compute_forces"}  # the former is seen to below, the latter has no weights


@torch.no_grad()
def load_weights(model: Potential, source: str | Path) -> dict:
    """Give ``model`` the weights and constants of a checkpoint; return the checkpoint's metadata.

    The checkpoint may know more elements than the model: what is indexed by element is then picked from it,
    and on structures of the model's elements both agree.

    Args:
        model: of the checkpoint's architecture and hyper-parameters; its dtype and device stay.
        source: a file, a run folder, or the name of a bundled calculator.

    Raises:
        ConfigError: there is no such checkpoint.
        CheckpointError: it is damaged or does not fit the model; the message names the first difference.
    """
    trained, metadata = load_checkpoint(source)
    key = getattr(model, "key", type(model).__name__)
    if metadata["architecture"] != key:
        raise CheckpointError(
            f"{source}: its architecture is {metadata['architecture']!r}, the model's {key!r}"
        )
    theirs = trained.config.model_dump(exclude=MAY_DIFFER)
    for name, value in model.config.model_dump(exclude=MAY_DIFFER).items():
        if theirs[name] != value:
            raise CheckpointError(f"{source}: its {name} is {theirs[name]!r}, the model's {value!r}")
    missing = [element for element in model.elements if element not in trained.elements]
    if missing:
        raise CheckpointError(
            f"{source}: it does not know {', '.join(missing)}; it knows {', '.join(trained.elements)}"
        )
    indices = torch.tensor([trained.elements.index(element) for element in model.elements])
    theirs, own = trained.state_dict(), model.state_dict()
    for name in sorted(theirs.keys() ^ own.keys()):
        raise CheckpointError(f"{source}: tensor {name!r} is not on both sides; give the model its elements")
    picked = {}
    for name, value in own.items():
        in_blocks = any(fnmatchcase(name, pattern) for pattern in model.element_blocks)
        picked[name] = _by_element(theirs[name], value.shape, len(trained.elements), indices, in_blocks)
        if picked[name].shape != value.shape:
            raise CheckpointError(
                f"{source}: tensor {name!r} cannot be divided by element; give the model its elements"
            )
    model.load_state_dict(picked, strict=True)
    return metadata


def _by_element(
    tensor: torch.Tensor, shape: torch.Size, n: int, indices: torch.Tensor, in_blocks: bool
) -> torch.Tensor:
    """What belongs to the elements ``indices`` of n, along every axis whose length is not that in ``shape``.

    All hyper-parameters but the elements are equal, so an axis that differs is one of elements, or of a block
    for each where the model says so, or its length is some other function of their number; then the shape
    that comes out is not ``shape``.
    """
    if tensor.dim() == len(shape):
        for axis, (theirs, own) in enumerate(zip(tensor.shape, shape, strict=True)):
            if theirs != own and (theirs == n or (in_blocks and theirs % n == 0)):
                blocks = tensor.unflatten(axis, (n, theirs // n)).index_select(axis, indices)
                tensor = blocks.flatten(axis, axis + 1)
    return tensor


def freeze(model: torch.nn.Module, patterns: Sequence[str]) -> list[str]:
    """Keep the parameters whose names match a pattern from being trained; return their names.

    Args:
        patterns: as of file names (``*``, ``?``, ``[…]``), such as ``"atom_layers.0.*"``.

    Raises:
        ConfigError: a pattern matches no parameter, or none is left to train; nothing is frozen then.
    """
    parameters = dict(model.named_parameters())
    frozen = set()
    for pattern in patterns:
        matches = {name for name in parameters if fnmatchcase(name, pattern)}
        if not matches:
            raise ConfigError(f"freeze: {pattern!r} matches no parameter{did_you_mean(pattern, parameters)}")
        frozen |= matches
    if frozen and not any(p.requires_grad for name, p in parameters.items() if name not in frozen):
        raise ConfigError(f"freeze: {', '.join(patterns)} leave no parameter to train")
    for name in frozen:
        parameters[name].requires_grad_(False)
    return [name for name in parameters if name in frozen]
