"""How fast a training goes: atoms per second of its own steps on its own batches."""

from __future__ import annotations

import copy
import statistics
import time
from itertools import chain, islice, repeat

import torch
from ignite.engine import Engine

from ..errors import ConfigError
from .batches import make_loader
from .config import TrainingConfig
from .initialise import prepared
from .run import Run

WARM_UP = 2  # steps that do not count: the first allocates, and compiles if the config says so


def training_pace(config: TrainingConfig, steps: int = 10) -> dict[str, float]:
    """Train a copy of ``config.model`` for some steps; the graphs have been built before.

    Returns:
        ``atoms_per_s`` and ``step_ms``, medians over the steps, and the mean ``atoms_per_step``.

    Raises:
        ConfigError: fewer than one step, or what training with the config would raise.
    """
    if steps < 1:
        raise ConfigError(f"steps: got {steps}; expected at least 1")
    run = Run(prepared(config.model_copy(update={"model": copy.deepcopy(config.model)})))
    loader = make_loader(run.config.dataset, run.batches, config.accumulate, config.num_workers)
    # No more batches than are needed, then the same again: to build the graphs of others would take longer.
    batches = list(islice(loader, WARM_UP + steps))
    atoms, seconds = [], []
    for parts in islice(chain.from_iterable(repeat(batches)), WARM_UP + steps):
        start = time.perf_counter()
        run.train_step(Engine(run.train_step), parts)
        if run.config.model.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        atoms.append(sum(int(labels["n_atoms"].sum()) for _, labels in parts))
    counted = list(zip(atoms, seconds, strict=True))[WARM_UP:]
    return {
        "atoms_per_s": statistics.median(n / t for n, t in counted),
        "step_ms": 1e3 * statistics.median(t for _, t in counted),
        "atoms_per_step": statistics.mean(n for n, _ in counted),
    }
