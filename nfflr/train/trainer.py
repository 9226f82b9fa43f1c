"""The training core: one ignite engine, a step, and the handlers that validate, select and save."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from ..checkpoint import FILE, save_checkpoint
from ..data.dataset import collate
from ..errors import ConfigError, NumericsError, did_you_mean
from ..files import claim_folder, write_figure
from ..nn.losses import KEYS, label_errors, weighted_loss
from .config import TrainingConfig
from .evaluation import Predictions, predict
from .initialise import initialise, matching
from .report import learning_curve, write_metrics
from .state import clear_states, newest_state, save_state, states

Listener = Callable[[dict], None]
METRICS = ["train/loss", "val/loss"]
METRICS += [f"val/{key}_{kind}" for key in KEYS for kind in ("mae", "rmse")]


class ShuffledBatches:
    """Batches of indices in an order that depends on seed and epoch alone, so that a resume repeats it."""

    def __init__(self, indices: list[int], size: int, seed: int):
        self.indices, self.size, self.seed, self.epoch = np.array(indices), size, seed, 0

    def __len__(self) -> int:
        return math.ceil(len(self.indices) / self.size)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.indices).tolist()
        return iter([order[k : k + self.size] for k in range(0, len(order), self.size)])


@dataclass
class Run:
    """What changes during a run; ``tensors`` and ``metadata`` are the state that a resume restores."""

    config: TrainingConfig
    ema: AveragedModel = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    batches: ShuffledBatches = field(init=False)
    step: int = 0
    epoch: int = 0
    best: float = math.inf
    stale: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self):
        config = self.config
        indices = config.dataset.split["train"]
        if not config.dataset.split["val"]:
            raise ConfigError(
                "dataset: the validation split is empty; the model is selected on it, set n_val"
            )
        labels = {key for record in config.dataset.part("val") for key in record.labels}
        used = {"energy": "total_energy", "forces": "forces", "stress": "stress"}
        if not any(weight and used[key] in labels for key, weight in config.weights(1.0).items()):
            raise ConfigError(
                "dataset: the validation split has no label that the loss uses; set weights or n_val"
            )
        if config.select_by not in METRICS:
            hint = did_you_mean(config.select_by, METRICS)
            raise ConfigError(f"select_by: no metric {config.select_by!r}; expected one of {METRICS}{hint}")
        self.batches = ShuffledBatches(indices, config.batch_size, config.random_seed)
        self.optimizer = build_optimizer(config)
        self.ema = AveragedModel(config.model, multi_avg_fn=_warmed_average(config.ema_decay))

    @property
    def total_steps(self) -> int:
        return self.config.epochs * len(self.batches)

    def train_step(self, engine: Engine, batch) -> float:
        """One update; returns the loss.

        Raises:
            NumericsError: the loss is not finite; names the step and the structures.
        """
        config, model = self.config, self.config.model
        graph, labels = batch
        weights = config.weights(self.step / self.total_steps)
        model.train()
        errors = label_errors(model(graph, stress=weights["stress"] > 0), labels)
        loss = weighted_loss(errors, weights, config.scales(), config.criterion)
        self._require_finite(loss, "the loss", labels)
        rate = config.learning_rate * rate_factor(config, self.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer.zero_grad()
        if loss.requires_grad:  # not if no structure of the batch has a label
            loss.backward(inputs=parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.gradient_clip)
        self._require_finite(norm, "the gradient", labels)
        self.optimizer.step()
        self.ema.update_parameters(model)
        self.step += 1
        return loss.item()

    def _require_finite(self, value: torch.Tensor, what: str, labels: dict[str, torch.Tensor]) -> None:
        if torch.isfinite(value):
            return
        ids = ", ".join(self.config.dataset.records[k].id for k in labels["index"].tolist())
        raise NumericsError(
            f"{ids}: {what} is not finite at step {self.step}; check these structures or lower learning_rate"
        )

    def validate(self, train_loss: float) -> dict[str, float]:
        """Errors of the averaged weights on the validation split, as a row of the history."""
        dataset = self.config.dataset
        predictions = predict(self.ema.module, dataset, dataset.split["val"], self.config.batch_size)
        row = {"epoch": self.epoch, "step": self.step, "train/loss": train_loss}
        row["val/loss"] = self._validation_loss(predictions)
        row |= {f"val/{name}": value for name, value in predictions.errors().items()}
        return row

    def _validation_loss(self, predictions: Predictions) -> float:
        """The loss with the weights of the end of the run, so that epochs can be compared."""
        pairs = {"energy": predictions.energy, "forces": predictions.forces, "stress": predictions.stress}
        known = {key: pair[np.isfinite(pair[..., 1])] for key, pair in pairs.items()}
        errors = {key: torch.from_numpy(pair[:, 0] - pair[:, 1]) for key, pair in known.items()}
        config = self.config
        return float(weighted_loss(errors, config.weights(1.0), config.scales(), config.criterion))

    def tensors(self) -> dict[str, torch.Tensor]:
        named = {f"model.{k}": v for k, v in self.config.model.state_dict().items()}
        named |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            named |= {f"optimizer.{index}.{k}": v for k, v in slots.items()}
        return named

    def metadata(self) -> dict:
        return {
            "settings": self.config.plain(),
            "model": self.config.described_model(),
            "data_digest": self.config.dataset.digest(),
            "step": self.step,
            "epoch": self.epoch,
            "best": self.best,
            "stale": self.stale,
            "history": self.history,
        }

    def restore(self, tensors: dict[str, torch.Tensor], metadata: dict) -> None:
        """Continue from a state.

        Raises:
            ConfigError: settings or data changed since; names the first difference.
        """
        then = {**metadata["settings"], "model": metadata["model"]}
        for name, now in {**self.config.plain(), "model": self.config.described_model()}.items():
            if then.get(name) != now:
                raise ConfigError(
                    f"{name}: was {then.get(name)!r} when this run started, is {now!r}; "
                    "a resume needs both equal"
                )
        if metadata["data_digest"] != self.config.dataset.digest():
            raise ConfigError("dataset: structures, labels or split changed since this run started")
        slots: dict[int, dict] = {}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimizer":
                index, _, key = rest.partition(".")
                slots.setdefault(int(index), {})[key] = value
        self.config.model.load_state_dict(_under("model.", tensors))
        self.ema.load_state_dict(_under("ema.", tensors))
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        for name in ("step", "epoch", "stale"):
            setattr(self, name, metadata[name])
        self.best = math.inf if metadata["best"] is None else metadata["best"]
        rows = metadata["history"]
        self.history = [{k: math.nan if v is None else v for k, v in row.items()} for row in rows]
        self.batches.epoch = self.epoch


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def build_optimizer(config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimiser with weight decay on matrices only."""
    matrices = [p for p in config.model.parameters() if p.dim() >= 2]
    others = [p for p in config.model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}]
    groups += [{"params": others, "weight_decay": 0.0}] if others else []
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.betas[0])
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)


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


def _warmed_average(decay: float):
    """Exponential average whose memory grows from a few steps to 1/(1 − decay)."""

    @torch.no_grad()
    def update(averaged, current, count):
        weight = min(decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(averaged, current, 1 - weight)

    return update


def train(
    config: TrainingConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    on_step: Listener | None = None,
    on_validation: Listener | None = None,
) -> Path:
    """Train ``config.model`` and return the checkpoint that did best on the validation split.

    Written to ``config.output_dir``: ``model.safetensors`` (averaged weights), ``metrics.csv``,
    ``learning-curve.png`` and ``state/`` for a resume.

    Raises:
        ConfigError: the output exists, or a resume does not fit it.
        NumericsError: the loss is not finite.
        ResourceError: the output cannot be written.
    """
    out = Path(config.output_dir)
    for existing in [out / FILE, *states(out / "state")]:
        if existing.exists() and not (resume or overwrite):
            raise ConfigError(f"{existing}: exists; use --resume, --overwrite, or another --out")
    claim_folder(out)
    config = config.model_copy(update={"dataset": matching(config.dataset, config.model)})
    initialise(config.model, config.dataset)
    run = Run(config)
    if resume:
        state = newest_state(out / "state")
        if state is None:
            raise ConfigError(f"{out}: holds no training state to resume; train without --resume")
        run.restore(*state)
    else:
        clear_states(out / "state")  # of a run that is overwritten
    loader = DataLoader(
        config.dataset,
        batch_sampler=run.batches,
        collate_fn=collate,
        num_workers=config.num_workers,
        generator=torch.Generator().manual_seed(config.random_seed),  # not the caller's
    )
    engine = Engine(run.train_step)
    losses: list[float] = []

    @engine.on(Events.ITERATION_COMPLETED)
    def record(engine: Engine) -> None:
        losses.append(engine.state.output)
        if on_step:
            on_step({"step": run.step, "total": run.total_steps, "epoch": run.epoch, "loss": losses[-1]})

    @engine.on(Events.EPOCH_COMPLETED)
    def finish_epoch(engine: Engine) -> None:
        # Not counted by the sampler: a loader with workers iterates over it more than once an epoch.
        run.epoch = run.batches.epoch = engine.state.epoch
        if run.epoch % config.validate_every and run.epoch != config.epochs:
            return
        row = run.validate(float(np.mean(losses)))
        losses.clear()
        select(run, row, out)
        write_metrics(out, run.history)
        save_state(out / "state", run.step, run.tensors(), run.metadata())
        if on_validation:
            on_validation(row)
        if config.patience and run.stale >= config.patience:
            engine.terminate()

    if run.epoch < config.epochs and not (config.patience and run.stale >= config.patience):
        engine.load_state_dict(
            {"epoch": run.epoch, "max_epochs": config.epochs, "epoch_length": len(run.batches)}
        )
        engine.run(loader)
    write_figure(out / "learning-curve.png", learning_curve(run.history))
    return out / FILE


def select(run: Run, row: dict[str, float], out: Path) -> None:
    """Append a validation to the history and keep its weights if it is the best so far."""
    name = run.config.select_by
    if math.isnan(row[name]):
        raise ConfigError(
            f"select_by: {name} is not a number (no labels, or diverged); choose another metric"
        )
    run.history.append(row)
    run.stale += 1
    if row[name] < run.best:
        run.best, run.stale = row[name], 0
        scores = {k: v for k, v in row.items() if k.startswith("val/") and math.isfinite(v)}
        save_checkpoint(
            out / FILE,
            run.ema.module,
            data_digest=run.config.dataset.digest(),
            scores={**scores, "epoch": row["epoch"]},
            notes=run.config.notes,
        )
