"""Command-line options made from a settings class, and settings made from options."""

from __future__ import annotations

import importlib
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ..errors import ConfigError, did_you_mean, plain_reason
from ..units import plain_type, unit_of
from .dress import dress_parameter
from .threads import keep

# What several commands have in common.
TRUST: dict[str, Any] = {
    "is_flag": True,
    "help": "Read a model file of another package, which may run code that it holds.",
}

OUT: dict[str, Any] = {
    "type": click.Path(path_type=Path),
    "default": Path("."),
    "show_default": True,
    "help": "Folder for the results.",
}
THREADS: dict[str, Any] = {
    "type": click.IntRange(min=1),
    "expose_value": False,  # what computes asks nfflr.cli.threads
    "callback": keep,
    "help": "Processor threads; default: the environment's number, else no more than help.",
}
COMPILE: dict[str, Any] = {
    "default": None,
    "help": "Evaluate a compiled form of the model; default: if its kernel is built already, or an MD is so "
    "long that to build it (some seconds) pays.",
}
DEVICE: dict[str, Any] = {
    "default": "cpu",
    "show_default": True,
    "help": "Where to compute: cpu, cuda or cuda:N.",
}


class Setting(click.Option):
    """An option that is a field of some settings."""


class SettingsCommand(click.Command):
    """A command whose help tells what is computed apart from where files are and what computes."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        parts: dict[str, list[tuple[str, str]]] = {"Settings": [], "Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                parts["Settings" if isinstance(parameter, Setting) else "Options"].append(record)
        for title, records in parts.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def with_settings(module: str, name: str) -> type[click.Command]:
    """A class of commands with an option for each field of some settings, imported when asked for."""

    class Command(SettingsCommand):
        def get_params(self, ctx: click.Context) -> list[click.Parameter]:
            if not self.added:
                self.params += settings_options(getattr(importlib.import_module(module, __package__), name))
                self.added = True
            return super().get_params(ctx)

        added = False

    return Command


def settings_options(settings: type[BaseModel]) -> list[click.Parameter]:
    """One option per field: its type, default, help text and unit are the field's."""
    return [_option(name, field) for name, field in settings.model_fields.items()]


def _option(name: str, field: FieldInfo) -> Setting:
    unit, flag, kind = unit_of(field), name.replace("_", "-"), plain_type(field.annotation)
    help_text = with_unit(field.description or name, unit)
    shown = field.default
    if kind is bool:
        shown = {True: flag, False: f"no-{flag}"}.get(shown)
    elif isinstance(shown, tuple):
        shown = " ".join(map(str, shown))
    choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
    if is_long(choices):
        help_text += f" One of {', '.join(choices)}."
    if shown is not None or "default:" not in help_text:
        help_text += f"  [default: {'none' if shown is None else shown}]"
    declaration = f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}"
    # The default is shown but not set, so that a --config file stands where no option is given.
    option = Setting([declaration, name], default=None, help=help_text, **_click_type(kind))
    dress_parameter(option)
    return option


def with_unit(text: str, unit: str | None) -> str:
    """A description as a sentence, with the unit of the value before what its default is."""
    text, semicolon, default = text.partition("; default:")
    return f"{text[:1].upper()}{text[1:]}" + (f" ({unit})" if unit else "") + f"{semicolon}{default}."


def is_long(choices: Sequence[str]) -> bool:
    """Whether choices are too many to stand beside the name of their option."""
    return len("|".join(choices)) > 40


def _click_type(kind) -> dict:
    origin, parts = typing.get_origin(kind), [plain_type(a) for a in typing.get_args(kind)]
    if kind is bool:
        return {}
    if origin is typing.Literal:
        return {
            "type": click.Choice(parts, case_sensitive=False),
            **({"metavar": "NAME"} if is_long(parts) else {}),
        }
    if origin is tuple and Ellipsis not in parts:
        return {"type": tuple(parts), "metavar": " ".join("N" if part is int else "X" for part in parts)}
    if origin in (tuple, list):  # any number: the option is given several times
        return {"type": parts[0], "multiple": True}
    return {"type": kind}


def read_settings(settings: type[BaseModel], config: Path | None, values: dict) -> BaseModel:
    """Defaults, then the YAML file, then the options that were given.

    Raises:
        ConfigError: missing file, unknown key (with the nearest match), or a wrong value.
    """
    given = {key: value for key, value in values.items() if value not in (None, ())}
    try:
        return settings(**(_read_yaml(config, settings) if config is not None else {}) | given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "options"
        flag = f"--{name.replace('_', '-')}" if first["loc"] else name
        if config is not None and first["loc"] and name not in given:
            flag = f"{config}: {name}"
        if not first["loc"]:  # settings that do not go together, which say it themselves
            raise ConfigError(f"{flag}: {first['msg'].removeprefix('Value error, ')}; see --help") from error
        raise ConfigError(f"{flag}: {plain_reason(first)}; see --help") from error


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
