"""Command-line options made from a settings class, and settings made from options."""

from __future__ import annotations

import importlib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ..errors import ConfigError, did_you_mean
from ..units import unit_of

# Of every command that takes a model.
TRUST: dict[str, Any] = {
    "is_flag": True,
    "help": "Read a model file of another package, which may run code that it holds.",
}


def with_settings(module: str, name: str) -> type[click.Command]:
    """A class of commands with an option for each field of some settings, imported when asked for."""

    class Command(click.Command):
        def get_params(self, ctx: click.Context) -> list[click.Parameter]:
            if not self.added:
                self.params += settings_options(getattr(importlib.import_module(module, __package__), name))
                self.added = True
            return super().get_params(ctx)

        added = False

    return Command


def settings_options(settings: type[BaseModel]) -> list[click.Option]:
    """One option per field: its type, default, help text and unit are the field's."""
    return [_option(name, field) for name, field in settings.model_fields.items()]


def _option(name: str, field: FieldInfo) -> click.Option:
    unit, flag, kind = unit_of(field), name.replace("_", "-"), plain_type(field.annotation)
    text = field.description or name
    help_text = f"{text[:1].upper()}{text[1:]}" + (f" ({unit})." if unit else ".")
    shown = field.default
    if kind is bool:
        shown = {True: flag, False: f"no-{flag}"}.get(shown)
    elif isinstance(shown, tuple):
        shown = " ".join(map(str, shown))
    if shown is not None:
        help_text += f"  [default: {shown}]"
    declaration = f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}"
    # The default is shown but not set, so that a --config file stands where no option is given.
    return click.Option([declaration, name], default=None, help=help_text, **_click_type(kind))


def plain_type(annotation):
    """An annotation without ``None`` and ``Annotated``: ``int`` of ``Annotated[int, ...] | None``."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return plain_type(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        kept = [a for a in typing.get_args(annotation) if a is not type(None)]
        return plain_type(kept[0])
    return annotation


def _click_type(kind) -> dict:
    origin, parts = typing.get_origin(kind), [plain_type(a) for a in typing.get_args(kind)]
    if kind is bool:
        return {}
    if origin is typing.Literal:
        return {"type": click.Choice(parts)}
    if origin is tuple and Ellipsis not in parts:
        return {"type": tuple(parts)}
    if origin in (tuple, list):  # any number: the option is given several times
        return {"type": parts[0], "multiple": True}
    return {"type": kind}


def read_settings(settings: type[BaseModel], config: Path | None, values: dict) -> BaseModel:
    """Defaults, then the YAML file, then the options that were given.

    Raises:
        ConfigError: missing file, unknown key (with the nearest match), or a wrong value.
    """
    merged = _read_yaml(config, settings) if config is not None else {}
    merged |= {key: value for key, value in values.items() if value not in (None, ())}
    try:
        return settings(**merged)
    except ValidationError as error:
        first = error.errors()[0]
        flag = f"--{str(first['loc'][0]).replace('_', '-')}" if first["loc"] else "options"
        reason = first["msg"].replace("Input should be", "should be").removeprefix("Value error, ")
        got = f", got {first['input']!r}" if first["loc"] else ""
        raise ConfigError(f"{flag}: {reason}{got}; see --help") from error


def _read_yaml(config: Path, settings: type[BaseModel]) -> dict:
    if not config.is_file():
        raise ConfigError(f"{config}: no such file; give a YAML file of settings")
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{config}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{config}: expected 'name: value' lines")
    for key in content:
        if key not in settings.model_fields:
            hint = did_you_mean(str(key), settings.model_fields)
            raise ConfigError(f"{config}: unknown setting {key!r}{hint or '; see --help'}")
    return content


def label_names(keys: Sequence[str]) -> dict[str, str]:
    """``--key LABEL=NAME`` as given, name of a label → its name in the data.

    Raises:
        ConfigError: no equals sign.
    """
    for key in keys:
        if "=" not in key:
            raise ConfigError(f"--key: got {key!r}; expected LABEL=NAME, such as total_energy=dft_energy")
    return dict(key.split("=", 1) for key in keys)
