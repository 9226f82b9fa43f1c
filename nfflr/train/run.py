"""One training run: the step, the validation by errors and tasks, and the state that a resume restores."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from ignite.engine import Engine

from ..calculator import NFFLrCalculator
from ..data.graph import Graph
from ..errors import ConfigError, NumericsError, did_you_mean
from ..models.base import Potential
from ..validation.suite import Outcome, Report, Suite, Task
from .batches import ShuffledBatches
from .config import TrainingConfig
from .distributed import gathered, share, sum_gradients, total
from .initialise import trained_domain
from .objective import Objective, predict_shared
from .optimizer import Swag, averaged, build_optimizer, rate_factor
from .reference_energies import ENERGY, ReferenceFit, compositions, total_energies
from .state import StateRecord

PROGRESS = ("step", "epoch", "stale", "loss_sum", "loss_count", "fall")
FALL = 0.5  # length of a plateau's fall relative to what came before


class Run:
    """What changes during a run; ``tensors`` and ``metadata`` are the state that a resume restores."""

    def __init__(self, config: TrainingConfig):
        self.config, dataset, model = config, config.dataset, config.model
        self.step = self.epoch = self.stale = self.loss_count = 0
        self.saved = 0  # step of the state saved last
        self.fall: int | None = None  # step from which the rate of a plateau falls
        self.best, self.loss_sum = math.inf, 0.0
        self.history: list[dict[str, float]] = []
        if not dataset.split["val"]:
            raise ConfigError(
                "dataset: the validation split is empty; the model is selected on it, set n_val"
            )
        self.objective = Objective(config)
        self.domain = trained_domain(config)
        self._check_labels()
        self.physics = Physics(config.tasks, config.tasks_every, config.tasks_minutes, config.tasks_budget)
        if config.tasks and not model.is_potential:
            raise ConfigError("tasks: need forces, but the model predicts properties; leave them out")
        for name in selectors(config):
            if name not in self.metrics:
                hint = did_you_mean(name, self.metrics)
                raise ConfigError(f"select_by: no metric {name!r}; expected one of {self.metrics}{hint}")
        sizes = [len(record.atoms) for record in dataset.part("train")] if config.batch_atoms else []
        self.batches = ShuffledBatches(
            dataset.split["train"], config.batch_size, config.random_seed, sizes, config.batch_atoms
        )
        zeros = torch.zeros(len(self.objective.terms), dtype=torch.float64, device=model.device)
        self.log_variances = torch.nn.Parameter(zeros)  # (K,)
        extra = (self.log_variances,) if config.adaptive_weights else ()
        self.optimizer = build_optimizer(config, extra)
        self.ema = averaged(model, config.ema_decay, math.ceil(config.swa_start * self.total_steps))
        fit = ReferenceFit(model, dataset, len(self.batches))
        self.references = fit if fit.is_determined else None
        if config.swag_samples and config.epochs - int(config.swa_start * config.epochs) < 2:
            raise ConfigError("swag_samples: needs two epochs after swa_start; lower it, or raise epochs")
        self.swag = Swag(model, config.swag_rank) if config.swag_samples else None

    def _check_labels(self) -> None:
        labelled = {name for record in self.config.dataset.part("val") for name in record.labels}
        used = zip(self.objective.terms, self.objective.weights(1.0).tolist(), strict=True)
        if not any(weight and term.quantity.name in labelled for term, weight in used):
            raise ConfigError(
                "dataset: the validation split has no label that the loss uses; set weights or n_val"
            )

    @property
    def metrics(self) -> list[str]:
        """Names that ``select_by`` may have."""
        errors = [f"val/{column.key}" for column in self.objective.columns]
        return ["train/loss", "val/loss", "val/error", *errors, *self.physics.metrics]

    @property
    def last_epoch(self) -> int:
        """Epochs of the run, as far as is known: a plateau may end before."""
        if self.fall is None:
            return self.config.epochs
        return min(self.config.epochs, math.ceil((1 + FALL) * self.fall / len(self.batches)))

    @property
    def total_steps(self) -> int:
        return self.last_epoch * len(self.batches)

    @property
    def progress(self) -> float:
        """Fraction of the run; of a plateau's fall, before which it is zero."""
        if self.config.schedule != "plateau":
            return self.step / self.total_steps
        return 0.0 if self.fall is None else (self.step - self.fall) / max(1, self.total_steps - self.fall)

    def watch_plateau(self) -> None:
        """Let the rate fall if the validation error does not, or if there is just time enough for that."""
        if self.config.schedule != "plateau" or self.fall is not None:
            return
        if self.stale >= self.config.stall or (1 + FALL) * self.epoch >= self.config.epochs:
            self.fall, self.stale = self.step, 0

    def set_rate(self) -> None:
        """Give the optimiser the learning rate of the step that comes."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * rate_factor(
                self.config, self.step, self.total_steps, self.fall
            )

    def train_step(self, engine: Engine, parts: list) -> float:
        """One update from this rank's parts of a batch; returns the loss of the whole batch.

        The loss is Σ_k w_k L_k with L_k the mean over all labels of the batch. A part counts by its share of
        the labels, n_part/n_batch, so the update does not depend on how ranks or ``accumulate`` cut the
        batch.

        Raises:
            NumericsError: the loss, the gradient or a weight is not finite; names the step and the
                structures.
        """
        config, model = self.config, self.config.model
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        device = model.device
        parts = [(x, {name: value.to(device) for name, value in labels.items()}) for x, labels in parts]
        counts = [self.objective.counts(labels) for _, labels in parts]  # (K,) each
        whole = total(sum(counts, torch.zeros_like(self.log_variances))).clamp(min=1)
        weights = self.objective.weights(self.progress).to(device)

        model.train()
        self.optimizer.zero_grad()
        losses = []
        outputs = self._outputs(parts)
        for (_, labels), output, count in zip(parts, outputs, counts, strict=True):
            terms = self.objective.losses(output, labels)
            loss = self._weigh(terms, weights, count / whole)
            losses.append(loss.detach())
            if loss.requires_grad:  # not if no structure of the batch has a label
                loss.backward(inputs=[p for p in parameters if p.requires_grad])
        sum_gradients(parameters)
        loss = total(sum(losses, torch.zeros((), dtype=torch.float64, device=device)))
        self._require_finite(loss, "the loss", parts, losses)
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.gradient_clip)
        self._require_finite(norm, "the gradient", parts, losses)
        self.optimizer.step()
        size = torch.nn.utils.get_total_norm([p.detach() for p in parameters])
        self._require_finite(size, "a weight after the update", parts, losses)
        self.ema.update_parameters(model)
        self.step += 1
        self.loss_sum, self.loss_count = self.loss_sum + loss.item(), self.loss_count + 1
        return loss.item()

    def _outputs(self, parts: list) -> Iterator[Mapping[str, torch.Tensor]]:
        """The model's outputs of a batch's parts, after its reference energies were solved for.

        Every rank solves, even one that has no part of the batch.
        """
        model, objective = self.config.model, self.objective
        if self.references is None:
            return (objective.output(model, x) for x, _ in parts)
        graphs = [model.graph(x) for x, _ in parts]
        if self.config.accumulate > 1:  # the outputs of all parts would need the memory of the whole batch
            self._solve(parts, graphs, [total_energies(model, graph) for graph in graphs])
            return (objective.output(model, graph) for graph in graphs)
        outputs = [dict(objective.output(model, graph)) for graph in graphs]
        counts, change = self._solve(parts, graphs, [output[ENERGY].detach() for output in outputs])
        for output, count in zip(outputs, counts, strict=True):
            output[ENERGY] = output[ENERGY] - count @ change
        return iter(outputs)

    def _solve(
        self, parts: list, graphs: Sequence[Graph], energies: Sequence[torch.Tensor]
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Change the reference energies; return each part's compositions and what was subtracted."""
        assert self.references is not None
        residuals = [energy - labels[ENERGY] for energy, (_, labels) in zip(energies, parts, strict=True)]
        counts = [compositions(self.config.model, graph) for graph in graphs]
        return counts, self.references.update(counts, residuals)

    def mean_loss(self) -> float:
        """The mean over the steps since the last call."""
        mean = self.loss_sum / self.loss_count
        self.loss_sum, self.loss_count = 0.0, 0
        return mean

    def end_epoch(self, epoch: int) -> None:
        """Count the epoch, and add its weights to the Gaussian around the average, once that has begun."""
        # Not counted by the sampler: a loader with workers iterates over it more than once an epoch.
        self.epoch = self.batches.epoch = epoch
        self.batches.skip = 0
        if self.swag is not None and self.step > self.config.swa_start * self.total_steps:
            self.swag.collect(self.config.model)

    def _weigh(self, terms: torch.Tensor, weights: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        """Σ_k w_k L_k n_k/N_k; adaptive: w_k (e^{−s_k} L_k + s_k) with s_k learned (Kendall, CVPR 2018)."""
        counting = weights > 0  # a term that does not count may be anything
        terms, weights = terms[counting], (weights * shares)[counting]
        if not self.config.adaptive_weights:
            return weights @ terms
        s = self.log_variances[counting]
        return weights @ (torch.exp(-s) * terms + s)

    def _require_finite(self, value: torch.Tensor, what: str, parts: list, losses: list) -> None:
        if torch.isfinite(value):
            return
        batches = [labels["index"].tolist() for _, labels in parts]
        bad = [k for k, loss in zip(batches, losses, strict=True) if not torch.isfinite(loss)] or batches
        indices = [k for rank in gathered(bad) for part in rank for k in part]
        ids = ", ".join(self.config.dataset.records[k].id for k in indices)
        raise NumericsError(
            f"{ids}: {what} is not finite at step {self.step}; check these structures or lower learning_rate"
        )

    @property
    def average(self) -> Potential:
        """The model with the averaged weights."""
        return cast(Potential, self.ema.module)

    def validate(self, train_loss: float) -> dict[str, float]:
        """Errors of the averaged weights on the validation split, as a row of the history."""
        dataset = self.config.dataset
        if self.references is not None:
            self.references.fit(self.average)
        pairs = predict_shared(self.average, dataset, dataset.split["val"])
        row = {"epoch": self.epoch, "step": self.step, "train/loss": train_loss}
        row["val/loss"] = self.objective.loss(pairs)
        row["val/error"] = self.objective.error(pairs)
        row |= {f"val/{name}": value for name, value in pairs.errors().items()}
        return row

    def tensors(self) -> dict[str, torch.Tensor]:
        named = {f"model.{k}": v for k, v in self.config.model.state_dict().items()}
        named |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            named |= {f"optimizer.{index}.{k}": v for k, v in slots.items()}
        if self.swag is not None:
            named |= {f"swag.{k}": v for k, v in self.swag.state().items()}
        if self.references is not None:
            named["reference_weights"] = self.references.weights
        return named | {"log_variances": self.log_variances.detach()}

    def metadata(self) -> dict:
        return StateRecord(
            settings=self.config.plain(),
            model=self.config.described_model(),
            data_digest=self.config.dataset.digest(),
            best=self.best,
            history=self.history,
            **{name: getattr(self, name) for name in PROGRESS},
        ).stored()

    def restore(self, tensors: dict[str, torch.Tensor], metadata: dict) -> None:
        """Continue from a state; ConfigError names the first setting, or the data, that changed since."""
        state = StateRecord.restored(metadata)
        before = {**state.settings, "model": state.model}
        for name, now in {**self.config.plain(), "model": self.config.described_model()}.items():
            if before.get(name) != now:
                raise ConfigError(
                    f"{name}: was {before.get(name)!r} when this run started, is {now!r}; "
                    "a resume needs both equal"
                )
        if state.data_digest != self.config.dataset.digest():
            raise ConfigError("dataset: structures, labels or split changed since this run started")
        slots: dict[int, dict] = {}
        for name, value in _under("optimizer.", tensors).items():
            index, _, key = name.partition(".")
            slots.setdefault(int(index), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        self.config.model.load_state_dict(_under("model.", tensors))
        self.ema.load_state_dict(_under("ema.", tensors))
        self.log_variances.data.copy_(tensors["log_variances"])
        if self.references is not None and "reference_weights" in tensors:  # earlier states have none
            self.references.weights.copy_(tensors["reference_weights"])
        if self.swag is not None:
            self.swag.load_state(_under("swag.", tensors))
        for name in PROGRESS:
            setattr(self, name, getattr(state, name))
        self.saved = self.step
        self.best = math.inf if state.best is None else state.best
        self.history = [{k: math.nan if v is None else v for k, v in row.items()} for row in state.history]
        self.batches.epoch = self.epoch
        self.batches.skip = self.step - self.epoch * len(self.batches)


def quiet_engine(step: Callable[[Engine, list], float]) -> Engine:
    """An engine that logs nothing: what catches its errors reports them."""
    engine = Engine(step)
    engine.logger = logging.getLogger(f"{__name__}.engine")
    engine.logger.propagate = False  # else the command line would print the error as a note too
    engine.logger.addHandler(logging.NullHandler())
    return engine


def selectors(config: TrainingConfig) -> dict[str, float]:
    """Weights of the metrics that choose the checkpoint."""
    if config.select_by is None:
        return {"val/error" if config.model.is_potential else "val/loss": 1.0}
    return config.select_by if isinstance(config.select_by, dict) else {config.select_by: 1.0}


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


class Physics:
    """The tasks of a run, and when they are due.

    Args:
        tasks: with different names; without any, no round is ever due.
        every, minutes: epochs between rounds, and wall time after which one is due as well (0: never).
        budget: seconds that a round may take; what does not fit is skipped.
    """

    def __init__(self, tasks: Sequence[Task], every: int, minutes: float, budget: float):
        self.tasks, self.every, self.minutes, self.budget = list(tasks), every, minutes, budget
        self._last = time.monotonic()

    @property
    def metrics(self) -> list[str]:
        """Names ``val/<task>/<score>``, known before anything runs."""
        return [f"val/{task.name}/{score}" for task in self.tasks for score in task.scores]

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether the end of an epoch is the time for a round; every rank says the same."""
        if not self.tasks:
            return False
        late = self.minutes > 0 and time.monotonic() - self._last > 60 * self.minutes
        return epoch == epochs or epoch % self.every == 0 or any(gathered(late))

    def measure(self, model: Potential, begin: Callable[[str], None] = lambda name: None) -> Report:
        """Run the tasks by the calculator that a user would get of the model, a copy of it.

        The ranks share the tasks, and every rank gets every outcome (without the result itself). ``begin`` is
        called with the name of each task that this rank runs, before it does. Random states stay.
        """
        own, parts = share(self.tasks), []
        if own:
            with _random_states_kept():
                report = Suite(tuple(own)).run(
                    NFFLrCalculator(model), budget_s=self.budget, begin=lambda task: begin(task.name)
                )
            parts = [(o.task.name, (o.status, o.scores, o.message)) for o in report.outcomes]
        self._last = time.monotonic()
        results = {name: result for part in gathered(parts) for name, result in part}
        outcomes = tuple(Outcome(task, *results[task.name]) for task in self.tasks)
        return Report(Suite(tuple(self.tasks)), outcomes)


def metrics_of(report: Report) -> dict[str, float]:
    """``val/<task>/<score>`` of a round, and ``val/tasks/coverage``, the fraction that was scored.

    A task that failed has NaN, and 1 as ``val/<task>/failed``. A task that was skipped has no entry.
    """
    scores = report.scores()
    row = {"val/tasks/coverage": scores["coverage"], "val/tasks/skipped": scores["skipped"]}
    for outcome in report.outcomes:
        if outcome.status != "skipped":
            for name in (*outcome.scores, "failed"):
                value = scores[f"{outcome.task.name}/{name}"]
                row[f"val/{outcome.task.name}/{name}"] = value if math.isfinite(value) else math.nan
    return row


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """Workflows have generators of their own, but what a user's task draws from may be global."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        yield
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
