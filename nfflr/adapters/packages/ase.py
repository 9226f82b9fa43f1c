"""Any ASE calculator that can be imported: ``ase:<module>:<Class>``, then ``:`` and JSON arguments."""

from __future__ import annotations

import importlib
import json

from ...errors import ConfigError
from ..foreign_calculator import Peer

PACKAGE = MODULE = EXTRA = MODELS = None
DTYPES = ("float32", "float64")  # the user says which one it is


def load(argument: str, device: str, dtype: str | None) -> Peer:
    """A class, or a function that returns a calculator; ``dtype`` says in which precision it computes."""
    source = f"ase:{argument}"
    module, name, keywords = (*argument.split(":", 2), "", "")[:3]
    if not (module and name):
        raise ConfigError(f"{source}: expected ase:module:Class, such as ase:ase.calculators.emt:EMT")
    try:
        make = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{source}: {error}; check the name and PYTHONPATH") from error
    try:
        calculator = make(**json.loads(keywords or "{}"))
    except json.JSONDecodeError as error:
        raise ConfigError(f'{source}: not JSON ({error}); expected {{"key": 1}}') from error
    except Exception as error:
        raise ConfigError(f"{source}: {type(error).__name__}: {error}; check the arguments") from error
    if not hasattr(calculator, "get_property"):
        raise ConfigError(f"{source}: gives a {type(calculator).__name__}; expected an ASE calculator")
    return Peer(calculator, dtype=dtype or "float64")
