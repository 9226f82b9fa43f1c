"""The training core: one ignite engine, and the handlers that validate, select and save."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice, repeat
from pathlib import Path

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events

from ..checkpoint import FILE, find_members, library_versions, save_checkpoint
from ..errors import ConfigError, NumericsError, StoppedError
from ..models.base import Potential
from ..quantities import Quantity
from ..reports.evaluation import higher_is_better
from ..reports.figures import learning_curve
from ..reports.run_data import described_data
from ..reports.run_record import Log, RunRecord, event_log, write_metrics
from ..storage.files import claim_folder, locked, sweep, write_figure
from ..validation.suite import Report
from .batches import make_loader, watched_workers
from .config import TrainingConfig
from .distributed import is_first
from .initialise import prepared
from .run import Run, metrics_of, quiet_engine, selectors
from .state import clear_states, newest_state, postponed_signals, save_state, states, sweep_states

Listener = Callable[[dict], None]
ROUNDING = 1e-9  # relative: smaller differences are no improvement
SWAG = "swag"  # folder of the posterior samples
EVENTS = "tensorboard"  # folder of the event files
WARM_UP = 2  # steps that do not count: the first allocates, and compiles if the config says so
PREPARING = "preparing data and model"
COMPILING = "compiling the training step (kept for next time)"


def nobody(_: object) -> None:
    """A listener that does nothing."""


@dataclass(frozen=True)
class Listeners:
    """The functions that ``train`` calls: ``on_stage`` and the others."""

    stage: Callable[[str], None] = nobody
    step: Listener = nobody
    validation: Listener = nobody
    task: Callable[[str], None] = nobody
    report: Callable[[Report], None] = nobody


def train(
    config: TrainingConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    command: str | None = None,
    on_stage: Callable[[str], None] = nobody,
    on_step: Listener = nobody,
    on_validation: Listener = nobody,
    on_task: Callable[[str], None] = nobody,
    on_report: Callable[[Report], None] = nobody,
) -> Path:
    """Train ``config.model`` and return the checkpoint that did best on the validation split.

    Written to ``config.output_dir``: ``model.safetensors`` (averaged weights), ``metrics.csv``,
    ``learning-curve.png``, ``run.json`` (settings, data, ``command``, versions), ``state/`` for a resume and,
    if asked for, posterior samples in ``swag/`` and event files in ``tensorboard/``. In a data-parallel run
    every rank calls this; the first one writes. ``config.model`` is left with the weights of the last step.

    Args:
        config, resume, overwrite, command: the settings; whether to continue from the newest state, or to
            replace what is there; what ``run.json`` records as the command.
        on_stage, on_step, on_validation, on_task, on_report: called with what is done before the first step,
            with each step, each row of the metrics, the name of each validation task before it runs, and the
            outcomes of each round of tasks.

    Raises:
        ConfigError: the output exists, or a resume does not fit it.
        CheckpointError: no state in the output verifies.
        NumericsError: the loss is not finite, or no round of tasks had the scores to select by.
        ResourceError: the output cannot be written, or another run writes to it.
        StoppedError: SIGINT or SIGTERM came; the state of the step that was going on is saved.
    """
    out = Path(config.output_dir)
    with watched_workers(), claimed(out, resume, overwrite):
        state = newest_state(out / "state") if resume else None
        if resume and state is None:
            raise ConfigError(f"{out}: holds no training state to resume; train without --resume")
        on_stage(PREPARING)
        run = Run(prepared(config, resume))
        if state is not None:
            run.restore(*state)
            if is_first():
                sweep_states(out / "state", run.step)
        elif is_first():
            clear_overwritten(out)
        record = start_record(run.config, out, command, resume) if is_first() else None
        advance(run, out, Listeners(on_stage, on_step, on_validation, on_task, on_report))
        if record is not None:
            write_figure(out / "learning-curve.png", learning_curve(run.history, run.objective.columns))
            record.finish(out)
            write_swag(run, out / SWAG)
        idist.barrier()
    if math.isinf(run.best):
        raise NumericsError(
            f"{out / FILE}: holds the last weights, as {', '.join(selectors(config))} was never "
            "measured: every round of tasks failed or was skipped; see metrics.csv, or raise tasks_budget"
        )
    return out / FILE


def start_record(config: TrainingConfig, out: Path, command: str | None, resume: bool) -> RunRecord:
    """Write the record of a run that begins, or goes on, in a folder."""
    return RunRecord.begin(
        out,
        command,
        resume,
        settings=config.plain(),
        model=config.described_model(),
        parameters=sum(p.numel() for p in config.model.parameters()),
        data=described_data(config.dataset),
        versions=library_versions(),
    )


def advance(run: Run, out: Path, listeners: Listeners) -> None:
    """Step to the end of the run, or to a signal."""
    config = run.config
    unfinished = run.epoch < run.last_epoch and not (config.patience and run.stale >= config.patience)
    with event_log(out / EVENTS, config.tensorboard and is_first(), run.step) as log:
        if not unfinished:
            return
        loader = make_loader(config.dataset, run.batches, config.accumulate, config.num_workers)
        with postponed_signals() as signalled:
            engine = make_engine(run, out, log, listeners)
            save_between(engine, run, out, signalled)
            length = {"max_epochs": config.epochs, "epoch_length": len(run.batches)}
            if config.compile:  # in the first step
                listeners.stage(COMPILING)
            engine.load_state_dict({"iteration": run.step, **length})
            engine.run(loader)


def clear_overwritten(out: Path) -> None:
    """Remove the states, samples and event files of the run that is overwritten."""
    clear_states(out / "state")
    for leftover in [*find_members(out / SWAG), *(out / EVENTS).glob("events.out.tfevents.*")]:
        leftover.unlink()


def make_engine(run: Run, out: Path, log: Log, listeners: Listeners) -> Engine:
    """The engine that steps, and after epochs validates, selects, saves and calls the listeners."""
    config, engine = run.config, quiet_engine(run.train_step)

    @engine.on(Events.ITERATION_STARTED)
    def set_rate(engine: Engine) -> None:
        run.set_rate()

    @engine.on(Events.ITERATION_COMPLETED)
    def record(engine: Engine) -> None:
        loss: float = engine.state.output  # type: ignore[assignment]  # ignite says int; train_step's float
        rate = run.optimizer.param_groups[0]["lr"]
        log({"train/step_loss": loss, "learning_rate": rate}, run.step)
        listeners.step({"step": run.step, "total": run.total_steps, "epoch": run.epoch, "loss": loss})

    @engine.on(Events.EPOCH_COMPLETED)
    def finish_epoch(engine: Engine) -> None:
        run.end_epoch(engine.state.epoch)
        tasks = run.physics.due(run.epoch, run.last_epoch)
        if run.epoch % config.validate_every and run.epoch != run.last_epoch and not tasks:
            return
        row = run.validate(run.mean_loss())
        if tasks:
            report = run.physics.measure(run.average, listeners.task)
            row |= metrics_of(report)
        improved = select(run, row)
        run.watch_plateau()
        if is_first():
            keep(run, row, out, improved)
        log(row, run.step)
        listeners.validation(row)
        if tasks:
            listeners.report(report)
        if run.epoch == run.last_epoch or (config.patience and run.stale >= config.patience):
            engine.terminate()

    return engine


def save_between(engine: Engine, run: Run, out: Path, signalled: Callable[[], int | None]) -> None:
    """Save states between validations too, and where a signal ends the run.

    Only the first rank heeds a signal, as it alone has something to save; the others lose it and end.
    """
    every = run.config.checkpoint_every

    @engine.on(Events.ITERATION_COMPLETED)
    def inside(engine: Engine) -> None:
        if run.step % len(run.batches):  # the last step of an epoch counts when the epoch is over
            between()

    @engine.on(Events.EPOCH_COMPLETED)
    def between(engine: Engine | None = None) -> None:
        signum = signalled() if is_first() else None
        if is_first() and (signum or (every and run.step % every == 0 and run.step != run.saved)):
            save(run, out)
        if signum:
            reason = f"stopped at step {run.step}, its state is saved; continue with --resume"
            raise StoppedError(f"{out}: {reason}", signum)


@contextmanager
def claimed(out: Path, resume: bool, overwrite: bool) -> Iterator[None]:
    """Hold the output folder, and see that it may be written, before anything is computed."""
    with ExitStack() as stack:
        if is_first():
            claim_folder(out)
            stack.enter_context(locked(out))
        for existing in [out / FILE, *states(out / "state")]:
            if existing.exists() and not (resume or overwrite):
                raise ConfigError(f"{existing}: exists; use --resume, --overwrite, or another --out")
        if is_first():
            sweep([out / name for name in (FILE, "metrics.csv", "learning-curve.png", "run.json", "probe")])
        idist.barrier()  # no rank writes before all have looked
        yield


def select(run: Run, row: dict[str, float]) -> bool:
    """Append a validation to the history; return whether its weights are those to keep.

    A validation without a metric of ``select_by`` does not count, as tasks may be skipped. A task that failed
    is the worst there is. The latest weights are kept until a validation has a finite value.
    """
    run.history.append(row)
    weights = selectors(run.config)
    if weights.keys() <= row.keys():
        value = sum(weight * _cost(run, row, name) for name, weight in weights.items())
        run.stale += 1
        rounding = 0.0 if math.isinf(run.best) else ROUNDING * abs(run.best)
        if value < run.best - rounding:
            run.best, run.stale = value, 0
            return True
    return math.isinf(run.best)


def _cost(run: Run, row: dict[str, float], name: str) -> float:
    """A metric such that less is better."""
    if math.isnan(row[name]):
        if name in run.physics.metrics:
            return math.inf
        raise ConfigError(
            f"select_by: {name} is not a number (no labels, or diverged); choose another metric"
        )
    return -row[name] if higher_is_better(name) else row[name]


def keep(run: Run, row: dict[str, float], out: Path, improved: bool) -> None:
    """Write the weights if they are the best so far, then the metrics and the state."""
    if improved:
        scores = {k: v for k, v in row.items() if k.startswith("val/") and math.isfinite(v)}
        _save(run, run.average, out / FILE, {**scores, "epoch": row["epoch"]})
    write_metrics(out, run.history)
    save(run, out)


def save(run: Run, out: Path) -> None:
    """Write the state from which a resume goes on."""
    save_state(out / "state", run.step, run.tensors(), run.metadata())
    run.saved = run.step


def write_swag(run: Run, folder: Path) -> None:
    """Write samples of the Gaussian over weights, each a checkpoint; together they are a committee."""
    if run.swag is None:
        return
    if run.swag.count < 2:
        raise ConfigError(
            f"swag_samples: weights were collected after {run.swag.count} epochs, a spread needs two; "
            "lower swa_start, or raise epochs or patience"
        )
    claim_folder(folder)
    for leftover in folder.glob("member-*.safetensors"):
        leftover.unlink()
    generator = torch.Generator().manual_seed(run.config.random_seed)
    for k in range(run.config.swag_samples):
        run.swag.sample(run.ema.module, generator)
        _save(run, run.average, folder / f"member-{k}.safetensors", {})


def _save(run: Run, model: Potential, path: Path, scores: dict[str, float]) -> None:
    quantities = [term.quantity for term in run.objective.terms]
    classes = {q.name: q.classes for q in quantities}
    save_checkpoint(
        path,
        model,
        data_digest=run.config.dataset.digest(),
        scores=scores,
        notes=run.config.notes,
        targets=None if model.is_potential else {q.name: described_target(q) for q in quantities},
        outputs=[replace(output, classes=classes.get(output.name)) for output in model.outputs],
        domain=run.domain,
    )


def described_target(q: Quantity) -> dict:
    """Kind and classes of what a property model predicts, as its checkpoint carries them."""
    return {"kind": "regression"} if q.classes is None else {"kind": "class", "classes": list(q.classes)}


def training_pace(config: TrainingConfig, steps: int = 10) -> dict[str, float]:
    """Train a copy of ``config.model`` for some steps; the graphs have been built before.

    Returns:
        ``atoms_per_s`` and ``step_ms``, medians over the steps, and the mean ``atoms_per_step``.
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
