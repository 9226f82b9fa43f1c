"""Training settings: read from a Python file, validated into one object."""

from __future__ import annotations

import ast
import difflib
import reprlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
from py_config_runner import ConfigObject
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    ValidationError,
    field_validator,
    model_validator,
)
from torch import nn

from ..data.dataset import AtomsDataset
from ..data.sources import modules as source_modules
from ..errors import ConfigError, NFFLrError, plain_reason
from ..models.base import Potential
from ..nn.losses import KEYS
from ..structures.kinds import CHECKPOINT, CONFIG, DATA, STRUCTURE, kind_of
from ..validation.suite import Task
from .physics import read_tasks

INSIDE = "config.py"  # what nff init calls a config
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Weight = NotNegative | tuple[NotNegative, NotNegative]


class TrainingConfig(BaseModel):
    """Everything a training run needs; a config file defines these names at its top level."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)

    dataset: AtomsDataset = Field(description="labelled structures with their splits")
    model: Potential = Field(description="the potential, or model of properties, to train")
    output_dir: Path = Field(Path("."), description="where checkpoint, metrics and state are written")
    random_seed: int = Field(42, ge=0, description="of initial weights and shuffling")
    num_workers: int = Field(0, ge=0, description="processes that prepare batches")
    progress: bool = Field(True, description="show a progress bar on a terminal")
    device: str | None = Field(None, description="cpu or cuda; None: a GPU where there is one")
    threads: int | None = Field(None, ge=1, description="processor threads that nff train sets; None: one")
    compile: bool = Field(
        False, description="compile the step: twice as fast, after half a minute of preparation"
    )
    tensorboard: bool = Field(False, description="write event files for TensorBoard too")

    epochs: int = Field(100, ge=1, description="passes over the training split")
    batch_size: int = Field(8, ge=1, description="structures per step, of all processes together")
    batch_atoms: int = Field(
        0, ge=0, description="atoms per step, in batches of unlike numbers of structures; 0: by batch_size"
    )
    accumulate: int = Field(1, ge=1, description="parts a batch is evaluated in, to save memory")
    optimizer: Literal["soap", "adamw", "sgd"] = Field("soap", description="update rule")
    criterion: nn.Module | dict[str, nn.Module] = Field(
        default_factory=nn.HuberLoss, description="loss of scaled errors, or a dict of them by target"
    )
    learning_rate: float = Field(2e-3, gt=0, description="peak learning rate")
    weight_decay: NotNegative | dict[str, NotNegative] = Field(
        1e-4, description="of matrices (biases and gains have none), or by pattern of parameter names"
    )
    betas: tuple[Fraction, Fraction] | None = Field(
        None, description="averaging of gradients and their squares; None: (0.95, 0.95), of adamw (0.9, 0.99)"
    )
    schedule: Literal["cosine", "onecycle", "constant"] = Field("cosine", description="after warm-up")
    warmup_steps: int = Field(50, ge=0, description="steps of linear warm-up")
    gradient_clip: float = Field(10.0, gt=0, description="largest norm of the gradient")
    ema_decay: float = Field(0.998, ge=0, lt=1, description="of the averaged weights that are kept")

    swa_start: float = Field(1.0, ge=0, le=1, description="fraction of the run from which all weights count")
    swag_samples: int = Field(0, ge=0, description="posterior samples to write to swag/; 0: none")
    swag_rank: int = Field(20, ge=2, description="deviations from the mean that SWAG keeps")

    init_from: Path | None = Field(None, description="checkpoint whose weights to start from")
    freeze: tuple[str, ...] = Field((), description="patterns of parameter names that are not trained")

    # Forces count squared (their scale lies above most errors), energies and stresses by Huber: a few hot
    # cells would dominate them otherwise. Forces come first, energies count towards the end.
    energy_weight: Weight = Field(
        (0.02, 1.0), description="weight in the loss, or (start, end) of a smooth ramp"
    )
    force_weight: Weight = Field(40.0, description="as energy_weight")
    stress_weight: Weight = Field(0.25, description="as energy_weight; 0 leaves stress out")
    energy_scale: float = Field(0.01, gt=0, description="error that counts as one (eV/atom)")
    force_scale: float = Field(1.0, gt=0, description="error that counts as one (eV/Å)")
    stress_scale: float = Field(0.0025, gt=0, description="error that counts as one (eV/Å^3)")

    target_weights: dict[str, NotNegative] = Field(
        default_factory=dict, description="weights of properties in the loss; 1 if not given"
    )
    adaptive_weights: bool = Field(False, description="learn how much each term of the loss counts")

    validate_every: int = Field(5, ge=1, description="epochs between validations")
    checkpoint_every: int = Field(
        500, ge=0, description="steps between states to resume from, besides those of validations; 0: none"
    )
    patience: int = Field(0, ge=0, description="validations without improvement before stopping; 0: never")
    select_by: str | dict[str, float] = Field(
        "val/loss", description="metric whose best value chooses the checkpoint, or weights of several"
    )
    tasks: Annotated[tuple[InstanceOf[Task], ...], BeforeValidator(read_tasks)] = Field(
        (), description="validation tasks, suites, or folders of suites"
    )
    tasks_every: int = Field(20, ge=1, description="epochs between rounds of tasks")
    tasks_minutes: float = Field(0.0, ge=0, description="wall time after which a round is due too; 0: never")
    tasks_budget: float = Field(60.0, gt=0, description="seconds that a round of tasks may take")
    notes: dict[str, str] = Field(
        default_factory=dict, description="kept in the checkpoint: citation, licence"
    )

    @field_validator("model")
    @classmethod
    def _registered(cls, model: Potential) -> Potential:
        if not hasattr(model, "key"):
            raise ValueError(
                "its class is not registered, so no checkpoint could name it; use @register('name')"
            )
        return model

    @field_validator("criterion")
    @classmethod
    def _averages(cls, criterion: nn.Module | dict[str, nn.Module]) -> nn.Module | dict[str, nn.Module]:
        for one in criterion.values() if isinstance(criterion, dict) else [criterion]:
            if getattr(one, "reduction", "mean") != "mean":
                raise ValueError("a criterion must average (reduction='mean'), as a batch comes in parts")
        return criterion

    @field_validator("device")
    @classmethod
    def _there(cls, device: str | None) -> str | None:
        if device is None:
            return None
        kind = device.partition(":")[0]
        if kind not in ("cpu", "cuda"):
            raise ValueError("expected cpu or cuda")
        if kind == "cuda" and not torch.cuda.is_available():
            raise ValueError("no CUDA device here; use cpu")
        return device

    @model_validator(mode="after")
    def _compile_is_for_potentials(self) -> Self:
        if self.compile and not (self.model.is_potential and self.model.compute_forces):
            raise ValueError("compile is for potentials with forces; leave it out")
        return self

    @model_validator(mode="after")
    def _swag_has_weights_to_sample(self) -> Self:
        if self.swag_samples and self.swa_start >= 1:
            raise ValueError("swag_samples needs swa_start below 1, from where weights are collected")
        return self

    def weights(self, progress: float) -> dict[str, float]:
        """Loss weights at a fraction of the run, by key; a ramp is half a cosine."""
        ramp = 0.5 - 0.5 * torch.cos(torch.tensor(torch.pi * min(max(progress, 0.0), 1.0))).item()
        pairs = (self.energy_weight, self.force_weight, self.stress_weight)
        ends = [w if isinstance(w, tuple) else (w, w) for w in pairs]
        return {key: a + (b - a) * ramp for key, (a, b) in zip(KEYS, ends, strict=True)}

    def scales(self) -> dict[str, float]:
        return dict(zip(KEYS, (self.energy_scale, self.force_scale, self.stress_scale), strict=True))

    def plain(self) -> dict:
        """Settings as JSON, without model, data and where the output goes; a resume compares these."""
        skip = {"dataset", "model", "output_dir", "criterion", "progress", "num_workers", "notes"}
        skip |= {"device", "threads", "tensorboard", "init_from", "checkpoint_every", "tasks", "tasks_budget"}
        tasks = {task.name: task.described() for task in self.tasks}
        settings = self.model_dump(mode="json", exclude=skip)
        return {**settings, "criterion": repr(self.criterion), "tasks": tasks}

    def described_model(self) -> dict:
        """Architecture, hyper-parameters and dtype as JSON."""
        model = self.model
        return {"key": model.key, "dtype": str(model.dtype), **model.config.model_dump(mode="json")}


def load_config(path: str | Path, overrides: dict | None = None) -> TrainingConfig:
    """Run a config file and validate the settings it defines.

    Weights are initialised from the file's ``random_seed``; the caller's random state is left alone.

    Args:
        path: a Python file; other names in it (``cutoff``, helpers) are its own business.
        overrides: settings that replace the file's (as ``--seed`` does); ``random_seed`` must be a literal
            in the file to be replaced before the model is built.

    Raises:
        ConfigError: missing file, an error inside it (with its own line), or a setting that is misspelt,
            missing or wrong.
    """
    path = Path(path)
    _refuse_other_kinds(path)
    overrides = overrides or {}
    seed = overrides.get("random_seed", _literal(path, "random_seed", 42))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        names = _run(path)
    if names.get("random_seed", seed) != seed and "random_seed" not in overrides:
        raise ConfigError(
            f"{path}: random_seed: must be a plain number, not negative, as weights are drawn while the file "
            f"runs; got {reprlib.repr(names['random_seed'])}"
        )
    names = {**names, "random_seed": seed, **overrides}
    known = TrainingConfig.model_fields
    _report_misspelt(path, names)
    try:
        return TrainingConfig(**{name: value for name, value in names.items() if name in known})
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise ConfigError(f"{path}: {first['msg'].removeprefix('Value error, ')}") from error
        field = str(first["loc"][0])
        raise ConfigError(f"{path}: {field}: {plain_reason(first)} ({known[field].description})") from error


def _refuse_other_kinds(path: Path) -> None:
    """See that a path is a Python file, or say what it is instead, and what to do with that."""
    kind = kind_of(path)
    if kind is None and _is_data(path):  # JSON lines are Python too
        kind = DATA
    if kind == CONFIG or (kind is None and path.is_file() and _is_python(path)):
        return
    if (path / INSIDE).is_file():
        raise ConfigError(f"{path}: is a folder; give the config in it, {path / INSIDE}")
    if kind == STRUCTURE:
        raise ConfigError(
            f"{path}: is a structure, not a config; give labelled data to nff init, which writes a config"
        )
    if kind == DATA:
        raise ConfigError(f"{path}: this is data, not a config; run nff init {path}, which writes a config")
    if path.is_dir():
        raise ConfigError(f"{path}: no such file, but a folder without a {INSIDE}; give a config file")
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give a Python config file")
    if kind == CHECKPOINT:
        raise ConfigError(f"{path}: is a checkpoint, not a config; give it to --init-from, or in the config")
    raise ConfigError(f"{path}: is {kind or 'not a Python file'}; give a config, as nff init writes one")


def _is_data(path: Path) -> bool:
    """Whether a source opens it; the one for files of any kind does not count."""
    return any(s.opens(str(path)) for s in source_modules() if not getattr(s, "FALLBACK", False))


def _is_python(path: Path) -> bool:
    try:
        ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return True


def _literal(path: Path, name: str, default: int) -> int:
    """The value of a top-level ``name = <number>``, read without running the file."""
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError as error:
        where = f"line {error.lineno}: " if error.lineno else ""
        raise ConfigError(f"{path}: {where}{error.msg}; correct the config") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not a Python file ({error}); give a config") from error
    found: object = default
    for node in tree.body:
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        value = getattr(node, "value", None)
        if any(getattr(t, "id", None) == name for t in targets) and isinstance(value, ast.Constant):
            found = value.value
    return found if type(found) is int and found >= 0 else default


def _run(path: Path) -> dict:
    try:
        with _unnoticed(path.stem):
            return {k: v for k, v in dict(ConfigObject(path.resolve())).items() if k != "config_filepath"}
    except (NFFLrError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a config is a program: whatever it raises is the user's to see
        frames = traceback.extract_tb(sys.exc_info()[2])
        lines = [f.lineno for f in frames if Path(f.filename).resolve() == path.resolve()]
        where = f"line {lines[-1]}: " if lines else ""
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if isinstance(error, ValidationError):  # of the hyper-parameters of a model
            first = error.errors()[0]
            names = [error.title, *map(str, first["loc"])]
            reason = f"{'.'.join(names)}: {plain_reason(first)}"
        raise ConfigError(f"{path}: {where}{reason}; correct the config") from error


@contextmanager
def _unnoticed(name: str) -> Iterator[None]:
    """The runner imports the file as a module of its own name: leave no trace of it, nor take one over."""
    before, bytecode = sys.modules.pop(name, None), sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = bytecode
        sys.modules.pop(name, None)
        if before is not None:
            sys.modules[name] = before


SYNONYMS = {"lr": "learning_rate", "num_epochs": "epochs", "n_epochs": "epochs", "seed": "random_seed"}
SYNONYMS |= {"max_epochs": "epochs", "wd": "weight_decay", "ema": "ema_decay", "early_stopping": "patience"}


def _report_misspelt(path: Path, names: dict) -> None:
    known = list(TrainingConfig.model_fields)
    for name in SYNONYMS.keys() & names.keys():
        raise ConfigError(f"{path}: unknown setting {name!r}; did you mean {SYNONYMS[name]!r}?")
    for name, value in names.items():
        # Classes and functions are the file's own; a value nearly named like a setting is a slip.
        if name in known or name.startswith("_") or callable(value):
            continue
        nearest = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.85)
        if nearest:
            raise ConfigError(f"{path}: unknown setting {name!r}; did you mean {nearest[0]!r}?")
