"""Python config files: run by py_config_runner, with weights drawn from the seed that the file assigns."""

from __future__ import annotations

import ast
import sys
import traceback
from collections import UserDict
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from py_config_runner import ConfigObject
from pydantic import ValidationError

from ..errors import ConfigError, NFFLrError, plain_reason

SEED = "random_seed"
DEFAULT_SEED = 42


def run_config(path: Path, seed: int | None = None) -> dict[str, Any]:
    """The names that a config defines at its top level; the caller's random state is left alone.

    Weights are drawn from the file's ``random_seed``, wherever the file assigns it: a file that draws random
    numbers first is run once more, from that seed.

    Args:
        path: a Python file.
        seed: replaces the file's.

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
    """The names of a config file, run under a module name that no other module has.

    Args:
        path: the file.
        seed: of random numbers until the file assigns its own.
        fixed: the file's own seed is replaced by ``seed``.
    """

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
        seed: from which all random numbers come; None if some were drawn before the seed was assigned.
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
        frames = traceback.extract_tb(sys.exc_info()[2])
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
