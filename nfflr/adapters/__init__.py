"""Potentials of other packages by name: ``chgnet``, ``mace:<file>``, ``ase:<module>:<Class>``, ..."""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from importlib import metadata, util
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ase.calculators.calculator import get_calculator_class
from ase.calculators.names import names as calculators

from ..errors import CheckpointError, ConfigError, NFFLrError, did_you_mean
from ..models.registry import keys
from .packages import adapter, names

if TYPE_CHECKING:  # imported when such a potential is opened
    from .foreign_calculator import ForeignCalculator

ALIASES = {"7net": "sevennet", "m3gnet": "matgl", "tensornet": "matgl", "allegro": "nequip"}

__all__ = [
    "hint",
    "installed_universal",
    "is_foreign",
    "names",
    "open_foreign",
    "precisions",
]


def is_foreign(source: object) -> bool:
    """Whether it is the name of an adapter, or reads ``prefix:…`` and is no file."""
    if not isinstance(source, str) or re.search(r"\s\+\s", source):
        return False
    prefix = source.partition(":")[0]
    if prefix in names():
        return True
    looks_so = re.match(r"[\w.-]+:", source) is not None and not Path(source).exists()
    return looks_so and prefix.replace("_", "-") not in keys()


def installed_universal() -> list[str]:
    """Sources of potentials of most elements that are installed with their weights; nothing is imported."""
    kinds = {name: adapter(name) for name in names()}
    return [
        name
        for name, kind in kinds.items()
        if getattr(kind, "UNIVERSAL", False) and util.find_spec(kind.MODULE) is not None
    ]


def precisions(source: str) -> tuple[str, ...]:
    """Precisions that a source offers, the finest first; none if that is not known."""
    prefix = source.partition(":")[0]
    if not is_foreign(source) or prefix not in names():
        return ()
    kind = adapter(prefix)
    return tuple(sorted(kind.DTYPES, reverse=True)) if kind.PACKAGE else ("float64",)


def open_foreign(
    source: str, device: str = "cpu", dtype: str | None = None, trust: bool = False
) -> ForeignCalculator:
    """A calculator of another package.

    Args:
        source: ``chgnet``, ``mace:<file>``, ``matgl:<folder>``, ``sevennet:<file>``, ``nequip:<file>``,
            ``orb:<file>``, or ``ase:<module>:<Class>[:json arguments]``.
        device: ``"cpu"``, ``"cuda"``, …
        dtype: ``"float32"`` or ``"float64"``; default: the model's.
        trust: agree that reading the model's file may run code that it holds.

    Raises:
        ConfigError: unknown prefix, package not installed, no file given, or a precision it does not have.
        CheckpointError: the file is not there, damaged, or not trusted.
    """
    from .foreign_calculator import ForeignCalculator, undisturbed

    prefix, _, argument = source.partition(":")
    if prefix not in names():
        hint = did_you_mean(prefix, [*names(), *keys()])
        hint = hint or (f"; did you mean 'ase:{source}'?" if "." in prefix else "")
        raise ConfigError(f"{source}: no kind of potential {prefix!r}; expected {', '.join(names())}{hint}")
    kind = adapter(prefix)
    _check(source, kind, argument, dtype, trust)
    try:
        with undisturbed():
            peer = kind.load(argument, device, dtype)
            # Its own list: MACE extends that of ASE's base class, which is put back.
            peer.calculator.implemented_properties = list(peer.calculator.implemented_properties)
    except (NFFLrError, MemoryError):
        raise
    except ImportError as error:
        raise ConfigError(f"{source}: {kind.PACKAGE} cannot be imported ({error}); reinstall it") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise CheckpointError(f"{source}: {kind.PACKAGE} cannot read it ({reason})") from error
    description = {
        "name": prefix,
        "source": source,
        "package": kind.PACKAGE,
        "version": metadata.version(kind.PACKAGE) if kind.PACKAGE else None,
        "digest": _digest(peer.weights),
        "dtype": peer.dtype,
        "device": device,
    }
    return ForeignCalculator(peer, description, (open_foreign, (source, device, dtype, True)))


def _check(source: str, kind: ModuleType, argument: str, dtype: str | None, trust: bool) -> None:
    """Refuse a source without its package, precision or file, or with a file that needs to be trusted."""
    prefix = source.partition(":")[0]
    from_file = kind.MODELS is not None and argument not in getattr(kind, "HELD", ())
    if from_file and not argument:
        raise ConfigError(
            f"{source}: expected {prefix}:<file>; download a model from {kind.MODELS}, put it here, give "
            f"its path, such as {prefix}:{kind.EXAMPLE}"
        )
    if kind.PACKAGE and util.find_spec(kind.MODULE) is None:
        raise ConfigError(
            f'{source}: the package {kind.PACKAGE} is not installed; pip install "nfflr[{kind.EXTRA}]"'
        )
    if dtype is not None and dtype not in kind.DTYPES:
        raise ConfigError(f"--dtype: {prefix} computes in {' or '.join(kind.DTYPES)} only; got {dtype}")
    if from_file and not Path(argument).exists():
        raise CheckpointError(
            f"{source}: no such file; download a model from {kind.MODELS} and put it at {argument}"
        )
    if from_file and not trust:
        raise CheckpointError(
            f"{source}: reading a file of {kind.PACKAGE} can run code that it holds; "
            "if you trust where it is from, add --trust (in Python trust=True)"
        )


def _digest(files: tuple[Path, ...]) -> str | None:
    """SHA-256 of a file, or of several one after another."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest() if files else None


def hint(source: str) -> str:
    """The end of a message: how to give the potential that a name resembles; else an empty string."""
    word = source.lower()
    for start, name in {**{name: name for name in names()}, **ALIASES}.items():
        if re.match(rf"{start}([^a-z]|$)", word):
            kind = adapter(name)
            if kind.MODELS is None:
                return f"; did you mean {name!r}?"
            return f"; potentials of {name} are files from {kind.MODELS}, given as {name}:FILE"
    if word in calculators:
        with suppress(ImportError):  # some calculators of ASE need another package
            calculator = get_calculator_class(word)
            return f"; did you mean 'ase:{calculator.__module__}:{calculator.__name__}'?"
    return did_you_mean(source, names())
