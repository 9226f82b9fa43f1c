"""Which learning rate suits a training, by a short trial.

The rate is raised step by step until the loss diverges (Smith, WACV 2017); ignite's
``FastaiLRFinder`` raises it and records the smoothed loss. The suggestion is fastai's ``minimum``, a tenth
of the rate at which that loss is lowest (Howard and Gugger, Information 11, 108 (2020)). The steepest fall,
which ignite suggests, is mostly that of the first steps, which lower the loss of fresh weights at any rate.
"""

from __future__ import annotations

import ast
import copy
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.figure
from ignite.engine import Engine
from ignite.handlers import FastaiLRFinder

from ..errors import ConfigError, NumericsError
from ..storage.files import write_atomically
from .batches import make_loader
from .config import TrainingConfig
from .initialise import prepared
from .run import Run, quiet_engine
from .trainer import Listener

DIVERGED = 5.0  # times the lowest loss, where the test ends


@dataclass(frozen=True)
class RangeTest:
    """Learning rates tried, the smoothed losses found, and the rate to use."""

    rates: list[float]
    losses: list[float]
    suggestion: float


def find_learning_rate(
    config: TrainingConfig,
    start: float = 1e-5,
    end: float = 1.0,
    steps: int = 200,
    on_step: Listener | None = None,
) -> RangeTest:
    """Train a copy of ``config.model`` with a rate that grows exponentially from ``start`` to ``end``.

    Raises:
        ConfigError: the range is empty.
        NumericsError: the loss is lowest so near ``start`` that nothing can be suggested.
    """
    if not 0 < start < end or steps < 10:
        raise ConfigError(
            f"learning rates: got {start:g} to {end:g} in {steps} steps; expected 0 < start < end, 10 or more"
        )
    run = Run(prepared(config.model_copy(update={"model": copy.deepcopy(config.model)})))
    finder, losses_of_steps = FastaiLRFinder(), []

    def step(engine: Engine, parts: list) -> float:
        try:
            losses_of_steps.append(run.train_step(engine, parts))
        except NumericsError:
            if not losses_of_steps:  # not the rate's doing
                raise
            losses_of_steps.append(math.inf)  # the far end of the range
        if on_step:
            on_step({"step": len(losses_of_steps), "total": steps, "epoch": 0, "loss": losses_of_steps[-1]})
        return losses_of_steps[-1]

    engine = quiet_engine(step)
    saved = {"model": run.config.model, "optimizer": run.optimizer}
    limits: dict[str, Any] = {"num_iter": steps, "start_lr": start, "end_lr": end, "diverge_th": DIVERGED}
    with warnings.catch_warnings(), finder.attach(engine, saved, **limits) as trial:
        warnings.simplefilter("ignore")  # ignite warns of a run that does not diverge; the curve shows it
        trial.run(make_loader(run.config.dataset, run.batches, config.accumulate, config.num_workers))
    history = finder.get_results()
    rates, losses = [], []
    for rate, loss in zip(history["lr"], history["loss"], strict=True):
        if math.isfinite(loss):
            rates.append(float(rate[0] if isinstance(rate, list) else rate))  # equal in all parameter groups
            losses.append(loss)
    return RangeTest(rates, losses, suggest(rates, losses))


def suggest(rates: list[float], losses: list[float]) -> float:
    """A tenth of the rate at which the loss is lowest; NumericsError if that is below all rates."""
    lowest = rates[losses.index(min(losses))]
    if lowest / 10 < rates[0]:
        raise NumericsError(
            f"learning rates: the loss is lowest at {lowest:.2g}, less than ten times the first; "
            f"start below {lowest / 10:.1g}"
        )
    return lowest / 10


def as_csv(test: RangeTest) -> str:
    """``learning_rate,loss`` lines."""
    rows = (f"{rate:.6g},{loss:.6g}\n" for rate, loss in zip(test.rates, test.losses, strict=True))
    return "learning_rate,loss\n" + "".join(rows)


def plot(test: RangeTest) -> matplotlib.figure.Figure:
    """Loss against learning rate, with the suggestion marked."""
    figure = matplotlib.figure.Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(test.rates, test.losses, color="tab:blue")
    axes.axvline(test.suggestion, color="tab:red", lw=1, label=f"suggestion {test.suggestion:.2g}")
    axes.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="smoothed training loss")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return figure


def with_learning_rate(text: str, rate: float, name: str) -> str:
    """The text of the config ``name`` with ``learning_rate`` set where it is assigned, or at its end.

    Raises:
        ConfigError: ``learning_rate`` is assigned in several places or inside a block.
    """
    if Path(name).suffix in (".yaml", ".yml"):
        line = f"learning_rate: {rate:.3g}  # by nff lr"
        starts = [k for k, row in enumerate(text.split("\n")) if row.startswith("learning_rate:")]
        places: list[slice | None] = [slice(k, k + 1) for k in starts]
    else:
        line, places = f"learning_rate = {rate:.3g}  # by nff lr", _places_in_python(text)
    if not places:
        return text.rstrip("\n") + f"\n\n{line}\n"
    if len(places) > 1 or places[0] is None:
        raise ConfigError(f"{name}: learning_rate is not assigned once at top level; set {rate:.3g} by hand")
    lines = text.split("\n")
    lines[places[0]] = [line]
    return "\n".join(lines)


def _places_in_python(text: str) -> list[slice | None]:
    """The lines of each assignment; None for one inside a block."""
    return [
        None if node.col_offset else slice(node.lineno - 1, node.end_lineno)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if getattr(target, "id", None) == "learning_rate"
    ]


def copy_with_rate(config: Path, rate: float, out: Path) -> None:
    """Write a copy of a config that trains with ``rate``."""
    write_atomically(out, with_learning_rate(config.read_text(encoding="utf-8"), rate, str(config)).encode())
