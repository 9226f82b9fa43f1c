"""Training settings: read from a Python or YAML file, validated into one object."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
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
from ..errors import ConfigError, plain_reason
from ..models.base import Potential
from ..quantities import LABELLED, further
from ..structures.kinds import CHECKPOINT, CONFIG, DATA, SETTINGS, STRUCTURE, kind_of
from ..validation.reading import read_suite
from ..validation.suite import Suite, Task
from .config_files import SEED, is_python, read_yaml, run_config

INSIDE = "config.py"  # what nff init calls a config
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Weight = NotNegative | tuple[NotNegative, NotNegative]


def read_tasks(items: Sequence[Task | Suite | str | Path]) -> tuple[Task, ...]:
    """Tasks of a config: as they are, out of a suite, or out of the folder of a suite."""
    tasks: list[Task] = []
    for item in [items] if isinstance(items, Task | Suite | str | Path) else items:
        suite = read_suite(Path(item)) if isinstance(item, str | Path) else item
        tasks += [suite] if isinstance(suite, Task) else suite.tasks
    return Suite(tuple(tasks), "tasks").tasks if tasks else ()


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
        False, description="compile the step: twice as fast or more, after some preparation"
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
        default_factory=nn.HuberLoss, description="loss of scaled errors, or a dict of them by name"
    )
    learning_rate: float = Field(2e-3, gt=0, description="peak learning rate")
    weight_decay: NotNegative | dict[str, NotNegative] = Field(
        1e-4, description="of matrices (biases and gains have none), or by pattern of parameter names"
    )
    betas: tuple[Fraction, Fraction] | None = Field(
        None, description="averaging of gradients and their squares; None: (0.95, 0.95), of adamw (0.9, 0.99)"
    )
    schedule: Literal["cosine", "plateau", "onecycle", "constant"] = Field(
        "cosine",
        description="of the learning rate; plateau: it falls once the validation error does not, and "
        "epochs is the most there may be",
    )
    stall: int = Field(6, ge=1, description="validations without improvement that are a plateau")
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

    target_weights: dict[str, Weight] = Field(
        default_factory=dict, description="as energy_weight, of other quantities by name; 1 if not given"
    )
    target_scales: dict[str, Positive] = Field(
        default_factory=dict, description="error that counts as one, of other quantities by name"
    )
    adaptive_weights: bool = Field(False, description="learn how much each term of the loss counts")

    validate_every: int = Field(5, ge=1, description="epochs between validations")
    checkpoint_every: int = Field(
        500, ge=0, description="steps between states to resume from, besides those of validations; 0: none"
    )
    patience: int = Field(0, ge=0, description="validations without improvement before stopping; 0: never")
    select_by: str | dict[str, float] | None = Field(
        None,
        description="metric whose best value chooses the checkpoint, or weights of several; None: val/error "
        "of a potential, val/loss of a model of properties",
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
        for loss in criterion.values() if isinstance(criterion, dict) else [criterion]:
            if getattr(loss, "reduction", "mean") != "mean":
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
        if self.compile and further(self.model.outputs):
            raise ValueError("compile is for energies, forces and stress alone; leave it out")
        return self

    @model_validator(mode="after")
    def _averages_start_at_a_step(self) -> Self:
        if self.schedule == "plateau" and self.swa_start < 1:
            raise ValueError(
                "swa_start below 1 needs another schedule than plateau, whose length is not known"
            )
        return self

    @model_validator(mode="after")
    def _swag_has_weights_to_sample(self) -> Self:
        if self.swag_samples and self.swa_start >= 1:
            raise ValueError("swag_samples needs swa_start below 1, from where weights are collected")
        return self

    own_settings: ClassVar[dict[str, str]] = {"total_energy": "energy", "forces": "force", "stress": "stress"}

    def own_setting(self, name: str, kind: str) -> str | None:
        """The setting of a potential's energies, forces or stresses; None for another quantity."""
        own = self.own_settings.get(name) if self.model.is_potential else None
        return own and f"{own}_{kind}"

    def weight(self, name: str, progress: float) -> float:
        """Weight in the loss of a quantity at a fraction of the run; a ramp is half a cosine."""
        own = self.own_setting(name, "weight")
        weight: Weight = getattr(self, own) if own else self.target_weights.get(name, 1.0)
        start, end = weight if isinstance(weight, tuple) else (weight, weight)
        ramp = 0.5 - 0.5 * torch.cos(torch.tensor(torch.pi * min(max(progress, 0.0), 1.0))).item()
        return start + (end - start) * ramp

    def weights(self, progress: float) -> dict[str, float]:
        """Weights of energies, forces and stresses at a fraction of the run."""
        return {q.key: self.weight(q.name, progress) for q in LABELLED}

    def plain(self) -> dict:
        """Settings as JSON, without model, data and where the output goes; a resume compares these."""
        skip = {"dataset", "model", "output_dir", "criterion", "progress", "num_workers", "notes"}
        skip |= {"device", "threads", "tensorboard", "init_from", "checkpoint_every", "tasks", "tasks_budget"}
        tasks = {task.name: task.described() for task in self.tasks}
        settings = self.model_dump(mode="json", exclude=skip)
        if not self.target_scales:  # earlier versions had none
            del settings["target_scales"]
        if self.schedule != "plateau":  # likewise
            del settings["stall"]
        return {**settings, "criterion": repr(self.criterion), "tasks": tasks}

    def described_model(self) -> dict:
        """Architecture, hyper-parameters and dtype as JSON."""
        model = self.model
        return {"key": model.key, "dtype": str(model.dtype), **model.config.model_dump(mode="json")}


def load_config(path: str | Path, overrides: dict[str, Any] | None = None) -> TrainingConfig:
    """The settings of a config file: Python that defines them, or YAML that names them.

    Weights are initialised from the file's ``random_seed``; the caller's random state is left alone.
    ``overrides`` replace settings of the file (as ``--seed`` does). Other names in a Python file are its own
    business.

    Raises:
        ConfigError: the file is missing, an error is inside it (with its own line), or a setting is misspelt,
            missing or wrong.
    """
    path, overrides = Path(path), overrides or {}
    _refuse_other_kinds(path)
    seed = overrides.get(SEED)
    if kind_of(path) == SETTINGS:
        names = read_yaml(path, TrainingConfig, seed)
    else:
        names = run_config(path, seed)
        _report_misspelt(path, names)
    fields = TrainingConfig.model_fields
    values = {name: value for name, value in {**names, **overrides}.items() if name in fields}
    try:
        return TrainingConfig(**values)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise ConfigError(f"{path}: {first['msg'].removeprefix('Value error, ')}") from error
        field = str(first["loc"][0])
        raise ConfigError(f"{path}: {field}: {plain_reason(first)} ({fields[field].description})") from error


def _refuse_other_kinds(path: Path) -> None:
    """Raise ConfigError if a path is no config; the message says what it is, and what to do with it."""
    kind = kind_of(path)
    if kind is None and _is_data(path):  # JSON lines are Python too
        kind = DATA
    if path.is_file() and (kind in (CONFIG, SETTINGS) or (kind is None and is_python(path))):
        return
    if (path / INSIDE).is_file():
        reason = f"is a folder; give the config in it, {path / INSIDE}"
    elif kind == STRUCTURE:
        reason = "is a structure, not a config; give labelled data to nff init, which writes a config"
    elif kind == DATA:
        reason = f"this is data, not a config; run nff init {path}, which writes a config"
    elif path.is_dir():
        reason = f"no such file, but a folder without a {INSIDE}; give a config file"
    elif not path.is_file():
        reason = "no such file; give a Python config file"
    elif kind == CHECKPOINT:
        reason = "is a checkpoint, not a config; give it to --init-from, or in the config"
    else:
        reason = f"is {kind or 'not a Python file'}; give a config, as nff init writes one"
    raise ConfigError(f"{path}: {reason}")


def _is_data(path: Path) -> bool:
    """Whether a source opens it; the one for files of any kind does not count."""
    return any(s.opens(str(path)) for s in source_modules() if not getattr(s, "FALLBACK", False))


SYNONYMS = {"lr": "learning_rate", "num_epochs": "epochs", "n_epochs": "epochs", "seed": "random_seed"}
SYNONYMS |= {"max_epochs": "epochs", "wd": "weight_decay", "ema": "ema_decay", "early_stopping": "patience"}


def _report_misspelt(path: Path, names: dict) -> None:
    fields = list(TrainingConfig.model_fields)
    # Classes and functions are the file's own; a value nearly named like a setting is a slip.
    values = [n for n, value in names.items() if n not in fields and n[:1] != "_" and not callable(value)]
    slips = {name: SYNONYMS[name] for name in SYNONYMS.keys() & names.keys()}
    for name in values:
        for nearest in difflib.get_close_matches(name.lower(), fields, n=1, cutoff=0.85):
            slips.setdefault(name, nearest)
    for name, setting in slips.items():
        raise ConfigError(f"{path}: unknown setting {name!r}; did you mean {setting!r}?")
