"""What a transform is, as a digest: the same for the same computation, in any process and on any day."""

from __future__ import annotations

import dis
import hashlib
import inspect
import json
import sysconfig
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch

from ..errors import ConfigError

PACKAGE = Path(__file__).parents[1]
INSTALLED = {Path(sysconfig.get_paths()[name]) for name in ("stdlib", "purelib", "platlib")}
ADVICE = "use functools.partial of a named function, or leave diskcache out"


def identity(transform: Any) -> str:
    """SHA-256 over a function's module, qualified name and source, and the arguments bound to it.

    Functions and constants that it uses from its own module count too. Of a function of an installed package
    (nfflr among them) the file that defines it counts.

    Raises:
        ConfigError: a lambda, a closure, or something whose content cannot be known.
    """
    described = _describe(transform, "transform", set())
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _describe(x: Any, where: str, seen: set[int]) -> Any:
    if isinstance(x, partial):
        bound = {key: _describe(value, f"{where}: {key}", seen) for key, value in x.keywords.items()}
        positional = [_describe(value, where, seen) for value in x.args]
        return ["partial", _describe(x.func, where, seen), positional, bound]
    if isinstance(x, FunctionType):
        return _function(x, where, seen)
    if x is None or isinstance(x, bool | int | str):
        return [type(x).__name__, str(x)]
    if isinstance(x, float | np.generic):
        return [type(x).__name__, float(x).hex() if isinstance(x, float | np.floating) else repr(x)]
    if isinstance(x, list | tuple):
        return [type(x).__name__, [_describe(value, where, seen) for value in x]]
    if isinstance(x, set | frozenset):
        return [type(x).__name__, sorted(json.dumps(_describe(value, where, seen)) for value in x)]
    if isinstance(x, dict):
        pairs = [[_describe(k, where, seen), _describe(v, where, seen)] for k, v in x.items()]
        return ["dict", sorted(pairs, key=json.dumps)]
    if isinstance(x, np.ndarray | torch.Tensor):
        array = np.ascontiguousarray(x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else x)
        if array.dtype.kind != "O":
            digest = hashlib.sha256(array.tobytes()).hexdigest()
            return [type(x).__name__, str(array.dtype), list(array.shape), digest]
    if isinstance(x, Path | torch.dtype | torch.device):
        return [type(x).__name__, str(x)]
    if isinstance(x, ModuleType):
        return ["module", x.__name__, str(getattr(x, "__version__", ""))]
    if isinstance(x, type | BuiltinFunctionType):
        return ["name", str(x.__module__), x.__qualname__, _source(x, where) if _is_local(x) else ""]
    raise ConfigError(f"{where}: a {type(x).__qualname__} cannot be part of a cache's key; {ADVICE}")


def _function(function: FunctionType, where: str, seen: set[int]) -> Any:
    name = f"{function.__module__}.{function.__qualname__}"
    if id(function) in seen:
        return ["again", name]
    seen.add(id(function))
    if function.__name__ == "<lambda>":
        raise ConfigError(f"{where}: a lambda has no name that a cache could be kept under; {ADVICE}")
    if function.__closure__:
        raise ConfigError(f"{where}: {name} is a closure, what it captured is hidden; {ADVICE}")
    if not _is_local(function):
        return ["installed", name, _file_digest(function)]
    defaults = [function.__defaults__, function.__kwdefaults__]
    used = {
        key: _describe(function.__globals__[key], f"{where}: {name} uses {key}", seen)
        for key in sorted(_names(function.__code__))
        if key in function.__globals__
    }
    return ["function", name, _source(function, where), _describe(defaults, where, seen), used]


def _names(code: CodeType) -> set[str]:
    """Names that a function takes from its module, inner functions included."""
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}.union(*inner)


def _is_local(x: Any) -> bool:
    """Whether the user wrote it, as opposed to a package that is installed (or Python itself)."""
    try:
        path = Path(inspect.getfile(x)).resolve()
    except (TypeError, OSError):
        return False
    return PACKAGE not in path.parents and not any(root in path.parents for root in INSTALLED)


def _source(x: Any, where: str) -> str:
    try:
        return hashlib.sha256(inspect.getsource(x).encode()).hexdigest()
    except (OSError, TypeError) as error:
        raise ConfigError(
            f"{where}: the source of {x.__qualname__} is not in a file; put it in one, or leave diskcache out"
        ) from error


def _file_digest(function: FunctionType) -> str:
    try:
        return hashlib.sha256(Path(inspect.getfile(function)).read_bytes()).hexdigest()
    except (OSError, TypeError):
        return ""
