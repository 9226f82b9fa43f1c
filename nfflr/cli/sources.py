"""What may stand for a calculator on the command line, and what its files are called."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

from ..errors import ConfigError
from ..files import stem

IMPORTED = r"(ase:)?[\w.]+:\w+(:.*)?"


def is_imported(source: str) -> bool:
    """Whether it reads ``module:name``, and not as a checkpoint."""
    return re.fullmatch(IMPORTED, source, flags=re.DOTALL) is not None


def construct_calculator(text: str, option: str = "--calculator"):
    """An ASE calculator from ``module:name`` or ``module:name:{"key": value}``; ``ase:`` may come before.

    Raises:
        ConfigError: no such module or name, or the arguments do not suit.
    """
    module, name, keywords = (*text.removeprefix("ase:").split(":", 2), "", "")[:3]
    if not (module and name):
        raise ConfigError(f"{option}: got {text!r}; expected module:Class, ase.calculators.emt:EMT")
    try:
        make = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{option}: {text}: {error}; check the name and PYTHONPATH") from error
    try:
        arguments = json.loads(keywords or "{}")
        calculator = make(**arguments)
    except json.JSONDecodeError as error:
        raise ConfigError(f'{option}: {keywords}: not JSON ({error}); expected {{"key": 1}}') from error
    except TypeError as error:
        raise ConfigError(f"{option}: {text}: {error}; check the arguments") from error
    if not hasattr(calculator, "get_property"):
        raise ConfigError(
            f"{option}: {text}: gives a {type(calculator).__name__}; expected an ASE calculator"
        )
    return calculator


def source_name(source: str) -> str:
    """``mlearn-si``, the name of a run folder, of a checkpoint file, or of a class in small letters."""
    if is_imported(source):
        return source.removeprefix("ase:").split(":")[1].lower()
    path = Path(source)
    name = stem(path.absolute()) if path.suffix == ".safetensors" else path.absolute().name
    return path.absolute().parent.name if name == "model" else name
