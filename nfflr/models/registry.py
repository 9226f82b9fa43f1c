"""Architectures by key, found without importing any but the one that is asked for."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError, did_you_mean

if TYPE_CHECKING:
    from .base import Potential

REGISTRY: dict[str, type[Potential]] = {}
GROUP = "nfflr.models"  # of entry points of other distributions: key = module, or module:class
DECORATOR = re.compile(r"^@register\(\"([^\"]+)\"\)", re.MULTILINE)


def register(key: str) -> Callable[[type[Potential]], type[Potential]]:
    """Class decorator: make an architecture known to checkpoints and tests under ``key``."""

    def add(cls: type[Potential]) -> type[Potential]:
        existing = REGISTRY.get(key, cls)
        if (existing.__module__, existing.__qualname__) != (cls.__module__, cls.__qualname__):
            raise CheckpointError(f"architecture {key!r} is already registered by {existing.__name__}")
        cls.key = key
        REGISTRY[key] = cls
        return cls

    return add


@cache
def _own_modules() -> Mapping[str, str]:
    """Key → module of this package that registers it; the files are searched, and not imported."""
    folder = Path(__file__).parent
    return {
        key: ".".join([__package__, *path.relative_to(folder).with_suffix("").parts])
        for path in sorted(folder.rglob("*.py"))
        for key in DECORATOR.findall(path.read_text(encoding="utf-8"))
    }


def keys() -> list[str]:
    """All architectures that can be asked for, without importing any."""
    entries = importlib.metadata.entry_points(group=GROUP).names
    return sorted({*REGISTRY, *_own_modules(), *entries})


def architectures() -> dict[str, type[Potential]]:
    """All architectures that can be imported here, by key; others need packages that are not installed."""
    for key in keys():
        try:
            architecture(key)
        except CheckpointError:
            continue
    return dict(REGISTRY)


def architecture(key: str) -> type[Potential]:
    """The class registered under ``key``, from this package or another's entry points; imports no other.

    Raises:
        CheckpointError: unknown key, with the nearest match; or its module cannot be imported.
    """
    if key not in REGISTRY:
        own = _own_modules().get(key)
        entries = [] if own else list(importlib.metadata.entry_points(group=GROUP, name=key))
        if not own and not entries:
            expected = keys()
            raise CheckpointError(
                f"unknown architecture {key!r}; expected one of {expected}{did_you_mean(key, expected)}"
            )
        try:
            if own:
                importlib.import_module(own)
            else:
                entries[0].load()
        except Exception as error:  # of another package's code, anything
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            raise CheckpointError(
                f"architecture {key!r}: cannot be imported ({reason}); install what it needs"
            ) from error
        if key not in REGISTRY:
            raise CheckpointError(f"architecture {key!r}: its entry point registers no class under this key")
    return REGISTRY[key]
