"""Config files: Python that is run from its own seed, and YAML with a JSON schema for editors."""

from __future__ import annotations

import ast
import sys
import traceback
from collections import UserDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, Union

import torch
import yaml
from py_config_runner import ConfigObject
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from torch import nn

from ..data import sources
from ..data.dataset import AtomsDataset, DatasetConfig
from ..errors import ConfigError, NFFLrError, did_you_mean, plain_reason
from ..models.base import Potential
from ..models.registry import architecture, architectures
from ..structures.readers import read_structures

SEED = "random_seed"
DEFAULT_SEED = 42


def run_config(path: Path, seed: int | None = None) -> dict[str, Any]:
    """The names that a Python config defines at its top level; the caller's random state is left alone.

    Weights are drawn from the file's ``random_seed``, or ``seed`` in its place, wherever the file assigns it:
    a file that draws random numbers first is run once more, from that seed.

    Raises:
        ConfigError: an error inside the file, with its own line.
    """
    with torch.random.fork_rng():
        config = SeededConfig(path.resolve(), DEFAULT_SEED if seed is None else seed, seed is not None)
        names = _names(path, config)
        own = names.get(SEED, DEFAULT_SEED)
        if seed is None and is_seed(own) and own != config.seeded.seed:
            names = _names(path, SeededConfig(path.resolve(), own))
    return names


def is_seed(value: object) -> bool:
    return type(value) is int and value >= 0


class SeededConfig(ConfigObject):
    """The names of a config file; ``seed`` holds until the file assigns its own, or always if ``fixed``."""

    def __init__(self, path: Path, seed: int, fixed: bool = False):
        super().__init__(path, mutations={SEED: seed})
        self.__dict__["seeded"] = Seeded(seed, fixed)  # ConfigObject would take an attribute for a setting

    def _apply_mutations_and_load(self, filepath: Path, mutations: Mapping) -> dict[str, Any]:
        """Run the file; py_config_runner would enter it as a module, and run one with mutations unnamed."""
        module = ModuleType(f"nfflr config {filepath.stem}")
        module.__file__ = str(filepath)
        self.seeded.data = module.__dict__
        sys.modules[module.__name__] = module  # dataclasses look there for the names of annotations
        try:
            torch.manual_seed(self.seeded.seed)
            self.seeded.state = torch.get_rng_state()
            exec(compile(filepath.read_bytes(), filepath, "exec"), module.__dict__, self.seeded)
        finally:
            sys.modules.pop(module.__name__, None)
        return module.__dict__


class Seeded(UserDict):
    """The names of a module that runs: where it assigns its seed, random numbers begin from there.

    Attributes:
        seed: the seed of all random numbers; None if some were drawn before the seed was assigned.
        state: torch's random state right after seeding.
    """

    state: torch.Tensor

    def __init__(self, seed: int, fixed: bool):
        super().__init__()
        self.seed: int | None = seed
        self.fixed = fixed

    def __setitem__(self, name: str, value: Any) -> None:
        if name == SEED and self.fixed:
            value = self.seed
        if name == SEED and is_seed(value) and value != self.seed:
            unused = torch.equal(self.state, torch.get_rng_state())
            self.seed = value if unused else None
            torch.manual_seed(value)
            self.state = torch.get_rng_state()
        self.data[name] = value


def _names(path: Path, config: ConfigObject) -> dict[str, Any]:
    try:
        return {name: value for name, value in dict(config).items() if name != "config_filepath"}
    except (NFFLrError, KeyboardInterrupt):
        raise
    except SyntaxError as error:
        where = f"line {error.lineno}: " if error.lineno else ""
        raise ConfigError(f"{path}: {where}{error.msg}; correct the config") from error
    except BaseException as error:  # a config is a program: whatever it raises is the user's to see
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if Path(f.filename).resolve() == path.resolve()]
        where = f"line {lines[-1]}: " if lines else ""
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if isinstance(error, ValidationError):  # of the hyper-parameters of a model
            first = error.errors()[0]
            reason = f"{'.'.join([error.title, *map(str, first['loc'])])}: {plain_reason(first)}"
        raise ConfigError(f"{path}: {where}{reason}; correct the config") from error


def is_python(path: Path) -> bool:
    """Whether a file can be read as Python."""
    try:
        ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return True


LOSSES: dict[str, type[nn.Module]] = {"huber": nn.HuberLoss, "mse": nn.MSELoss, "mae": nn.L1Loss}
DTYPES = {"float32": torch.float32, "float64": torch.float64}
Loss = Literal["huber", "mse", "mae"]
Paths = Path | tuple[Path, ...]


class DataEntry(DatasetConfig):
    """``dataset:`` of a YAML file; paths are relative to the file."""

    source: Paths = Field(description="file, folder, name of a JARVIS data set, or a list of these")
    test_source: Paths | None = Field(None, description="a separate test set")
    left_out: tuple[int, ...] = Field((), description="structures not to use, by their place in the data")

    def build(self, folder: Path) -> AtomsDataset:
        """The data set, read from paths relative to a folder."""
        fields = self.model_dump(exclude={"source", "test_source", "left_out"})
        source: Any = _beside(folder, self.source)
        test = None if self.test_source is None else _beside(folder, self.test_source)
        if self.left_out:
            frames = chain.from_iterable(map(read_structures, sources.parts(source)))
            source = [atoms for k, atoms in enumerate(frames) if k not in set(self.left_out)]
        return AtomsDataset(source, test_source=test, **fields)


class ModelConfig(BaseModel):
    """``model:`` of a YAML file: the key of a registered architecture and its hyper-parameters."""

    model_config = ConfigDict(frozen=True, extra="allow")

    architecture: str = Field(description="key of the architecture, as moment or alignn")
    dtype: Literal["float32", "float64"] = Field("float32", description="precision of the weights")

    def build(self) -> Potential:
        """The model with fresh weights; ConfigError if there is no such architecture or hyper-parameter."""
        try:
            cls = architecture(self.architecture)
        except NFFLrError as error:
            raise ConfigError(f"architecture: {error}") from error
        parameters = self.model_extra or {}
        refuse_unknown(parameters, cls.Config.model_fields)
        return cls(cls.Config(**parameters)).to(DTYPES[self.dtype])


def read_yaml(path: Path, settings: type[BaseModel], seed: int | None = None) -> dict[str, Any]:
    """Settings of a YAML file, with data set, model and losses built; paths are relative to the file.

    Args:
        path: the file.
        settings: the class whose fields the file names.
        seed: replaces the file's ``random_seed``.

    Raises:
        ConfigError: the file is no YAML, or names something unknown, or a value is wrong.
    """
    content, folder = _parsed(path), path.resolve().parent
    with _about(str(path)):
        refuse_unknown(content, settings.model_fields)
        values = {**content, SEED: content.get(SEED, DEFAULT_SEED) if seed is None else seed}
        values["output_dir"] = folder / str(content.get("output_dir", ""))
        if content.get("init_from") is not None:
            values["init_from"] = _beside(folder, Path(content["init_from"]))
        if "tasks" in content:
            tasks = content["tasks"]
            values["tasks"] = [folder / str(t) for t in (tasks if isinstance(tasks, list) else [tasks])]
        if "criterion" in content:
            values["criterion"] = _losses(content["criterion"])
        with torch.random.fork_rng():
            torch.manual_seed(values[SEED] if is_seed(values[SEED]) else DEFAULT_SEED)
            if "dataset" in content:
                with _about("dataset"):
                    entry = _block(content["dataset"])
                    refuse_unknown(entry, DataEntry.model_fields)
                    values["dataset"] = DataEntry.model_validate(entry).build(folder)
            if "model" in content:
                with _about("model"):
                    values["model"] = ModelConfig.model_validate(_block(content["model"])).build()
    return values


@contextmanager
def _about(item: str) -> Iterator[None]:
    """Errors inside are about this item."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{item}: {where}{': ' * bool(where)}{plain_reason(first)}") from error
    except ConfigError as error:
        raise ConfigError(f"{item}: {error}") from error


def _block(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ConfigError(f"expected a block of settings, got {content!r}")
    return content


def _parsed(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())}); correct it") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected settings as 'name: value'; run nff init --yaml for an example")
    if not content.keys() & {"dataset", "model"}:
        raise ConfigError(f"{path}: is a YAML file; give a config, which has dataset and model")
    return content


def refuse_unknown(content: dict[str, Any], names: Iterable[str]) -> None:
    """Raise ConfigError for a name that is not known; the message says the nearest."""
    for name in content:
        if name not in names:
            hint = did_you_mean(str(name), names) or f"; expected one of {', '.join(names)}"
            raise ConfigError(f"unknown setting {name!r}{hint}")


def _losses(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _losses(name) for key, name in value.items()}
    if value not in LOSSES:
        raise ConfigError(f"criterion: got {value!r}; expected one of {', '.join(LOSSES)}")
    return LOSSES[value]()


def _beside(folder: Path, paths: Paths) -> Any:
    """Paths relative to a folder; what is no file there is a name and stays as it is."""
    if isinstance(paths, tuple):
        return [_beside(folder, path) for path in paths]
    return folder / paths if (folder / paths).exists() else str(paths)


def json_schema(settings: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a YAML file of these settings."""
    return file_model(settings).model_json_schema()


def file_model(settings: type[BaseModel]) -> type[BaseModel]:
    """A YAML file of these settings as a model, with every registered architecture."""
    models: list[type[BaseModel]] = []
    for key, cls in sorted(architectures().items()):
        named: dict[str, Any] = {"architecture": (Literal[key], ...), "dtype": _field(ModelConfig, "dtype")}
        models.append(create_model(key, __base__=cls.Config, **named))
    fields: dict[str, Any] = {name: _field(settings, name) for name in settings.model_fields}
    fields |= {
        "dataset": (DataEntry, Field(description=settings.model_fields["dataset"].description)),
        "model": (
            Annotated[Union[tuple(models)], Field(discriminator="architecture")],  # noqa: UP007
            Field(description=settings.model_fields["model"].description),
        ),
        "criterion": (Loss | dict[str, Loss], Field("huber", description="loss of scaled errors")),
        "tasks": (Path | tuple[Path, ...], Field((), description="folders of suites of validation tasks")),
    }
    config = ConfigDict(extra="forbid", title="Training with nff")
    return create_model("Training", __config__=config, **fields)


def _field(settings: type[BaseModel], name: str) -> tuple[Any, Any]:
    field = settings.model_fields[name]
    return field.rebuild_annotation(), field
