"""Options of several commands: types of values, shared options, and options made from settings."""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml
from click.shell_completion import CompletionItem
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ..errors import ConfigError, did_you_mean, plain_reason
from ..quantities import LABELLED, names_of
from ..units import plain_type, unit_of

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", bound=BaseModel)
FEW = 3  # choices that need no hint


class Number(click.ParamType):
    """A number, with an inclusive least and largest value; in help the name of a type stands for it."""

    name, words = "x", "a number"
    kind: type = float

    def __init__(self, least: float | None = None, largest: float | None = None):
        self.least, self.largest = least, largest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            number = self.kind(value)
        except ValueError:
            self.fail(f"{value!r} is not {self.words}{self._advice(str(value), param)}", param, ctx)
        if self.least is not None and number < self.least:
            self.fail(f"{number} is wrong; expected a value >= {self.least}", param, ctx)
        if self.largest is not None and number > self.largest:
            self.fail(f"{number} is wrong; expected a value <= {self.largest}", param, ctx)
        return number

    def _advice(self, text: str, param: click.Parameter | None) -> str:
        if param is not None and param.nargs > 1:
            return f"; expected {param.metavar}"
        digits = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZÅ°%/^³ ")
        try:
            number = float(text if self.kind is int else digits)
        except ValueError:
            return ""
        if self.kind is int:
            return f"; write {number:.0f}" if number.is_integer() and "e" in text else ""
        return f"; leave the unit out, as {digits}"


class Whole(Number):
    """A whole number."""

    name, words = "n", "a whole number"
    kind = int


class Choice(click.Choice):
    """One of some words, in any case; of many the nearest is proposed for a wrong one."""

    def __init__(self, choices: Sequence[str]):
        super().__init__(choices, case_sensitive=False)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        return "NAME" if is_long(self.choices) else super().get_metavar(param, ctx)

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        hint = did_you_mean(str(value), self.choices) if len(self.choices) > FEW else ""
        return super().get_invalid_choice_message(value, ctx).rstrip(".") + hint


class File(click.Path):
    """A path, of a file unless the name says something else."""

    def __init__(self, name: str = "file", path_type: type = Path):
        super().__init__(path_type=path_type)
        self.name = name


class Potential(click.ParamType):
    """A potential, as ``open_calculator`` takes it."""

    name = "name|file"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Names of bundled potentials, or else files."""
        from ..cards import bundled_calculators

        names = [CompletionItem(name) for name in bundled_calculators() if name.startswith(incomplete)]
        return names or [CompletionItem(incomplete, type="file")]


FILE, FOLDER, POTENTIAL = File(), File("dir"), Potential()
SOURCE = File("data", str)  # of labelled data, some of which have names


def _declared(*names: str, **attributes: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    return names, attributes


SHARED = {
    "model": _declared(
        "--model",
        "-m",
        type=POTENTIAL,
        required=True,
        help="Bundled name, run folder, checkpoint, or another package's, as chgnet, mace:FILE or "
        "ase:MODULE:CLASS; 'a + b' adds potentials, 'a,b' is a committee.",
    ),
    "device": _declared(
        "--device",
        default="cpu",
        show_default=True,
        metavar="DEVICE",
        help="Where to compute: cpu, cuda or cuda:N.",
    ),
    "dtype": _declared(
        "--dtype", type=Choice(["float32", "float64"]), help="Precision; default: the model's."
    ),
    "compile": _declared(
        "--compile/--no-compile",
        default=None,
        help="Evaluate a compiled form of the model; default: if its kernel is built already, or an MD is so "
        "long that to build it (some seconds) pays.",
    ),
    "threads": _declared(
        "--threads",
        type=Whole(1),
        help="Processor threads; default: the environment's number, else no more than help.",
    ),
    "trust": _declared(
        "--trust",
        is_flag=True,
        help="Read a model file of another package, which may run code that it holds.",
    ),
    "out": _declared(
        "--out", "-o", type=FOLDER, default=Path("."), show_default=True, help="Folder for the results."
    ),
    "config": _declared(
        "--config", type=FILE, help="YAML file of settings (default: none); options given here win."
    ),
    "overwrite": _declared("--overwrite", is_flag=True, help="Replace results that exist."),
    "resume": _declared(
        "--resume",
        is_flag=True,
        help="Continue the run that was interrupted, or a finished md to more --steps.",
    ),
}
DATA = {  # units, signs and names of labelled data
    "energy_units": _declared(
        "--energy-units",
        metavar="UNIT",
        help="Energy unit of the data: eV, eV/atom, Ha, Ha/atom, Ry, kcal/mol or kJ/mol; default: what its "
        "format says.",
    ),
    "force_units": _declared(
        "--force-units",
        metavar="UNIT",
        help="Force unit of the data: eV/Å, Ha/Bohr, kcal/mol/Å …; default: that of the energy per Å.",
    ),
    "force_sign": _declared(
        "--force-sign",
        type=Choice(["1", "-1"]),
        help="-1: the data hold gradients of the energy instead of forces; default: 1.",
    ),
    "stress_units": _declared(
        "--stress-units",
        metavar="UNIT",
        help="Stress unit of the data: eV/Å^3, GPa, kbar, or eV for virials (stress × volume); default: what "
        "its format says.",
    ),
    "stress_sign": _declared(
        "--stress-sign",
        type=Choice(["1", "-1"]),
        help="1: tension is positive; -1: pressure is (VASP, and virials of QUIP, GAP and MACE); default: "
        "what the format says.",
    ),
    "stress_order": _declared(
        "--stress-order",
        help="Order of six stress components: voigt (ASE) or vasp; default: what the format says.",
    ),
    "keys": _declared(
        "--key",
        "keys",
        multiple=True,
        metavar="LABEL=NAME",
        help="Name of a label in the data, as total_energy=dft_energy; repeated.",
    ),
}


def shared_option(name: str, **changes: Any) -> click.Option:
    """The option of this name, the same for every command but for ``changes``."""
    names, attributes = SHARED[name]
    return click.Option(list(names), **(attributes | changes))


def shared(*names: str, **changes: Any) -> Callable[[F], F]:
    """Adds the options of these names to a command; ``changes`` are attributes of all of them."""
    options = {**SHARED, **DATA}

    def add(function: F) -> F:
        for name in reversed(names):
            words, attributes = options[name]
            function = click.option(*words, **(attributes | changes))(function)
        return function

    return add


def dataset_arguments(options: dict[str, Any], labels: Sequence[str] = names_of(LABELLED)) -> dict[str, Any]:
    """Arguments of ``AtomsDataset`` for ``DATA`` as given; ``labels`` may be named by ``--key``.

    Raises:
        ConfigError: a label is unknown, or there is no equals sign.
    """
    keys: dict[str, str] = {}
    for text in options["keys"]:
        label, equals, name = text.partition("=")
        if not equals:
            raise ConfigError(f"--key: got {text!r}; expected LABEL=NAME, such as total_energy=dft_energy")
        if label not in labels:
            raise ConfigError(
                f"--key: got {label!r}; expected one of {', '.join(labels)}{did_you_mean(label, labels)}"
            )
        keys[label] = name
    arguments = {name: options[name] for name in DATA if name != "keys"}
    for name in ("force_sign", "stress_sign"):
        arguments[name] = arguments[name] and int(arguments[name])
    return {**arguments, "keys": keys}


class Setting(click.Option):
    """An option that is a field of some settings."""


class SettingsCommand(click.Command):
    """A command whose help has settings of the calculation and other options in two sections."""

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


def settings_options(settings: type[BaseModel]) -> list[click.Parameter]:
    """One option per field: its type, default, help text and unit are the field's."""
    return [_option(name, field) for name, field in settings.model_fields.items()]


def _option(name: str, field: FieldInfo) -> Setting:
    flag, kind, default = name.replace("_", "-"), plain_type(field.annotation), field.default
    text = with_unit(field.description or name, unit_of(field))
    if kind is bool:
        default = {True: flag, False: f"no-{flag}"}.get(default)
    elif isinstance(default, tuple):
        default = " ".join(map(str, default))
    choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
    if is_long(choices):
        text += f" One of {', '.join(choices)}."
    if default is not None or "default:" not in text:
        text += f"  [default: {'none' if default is None else default}]"
    declaration = f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}"
    # The default is shown but not set, so that a --config file stands where no option is given.
    return Setting([declaration, name], default=None, help=text, **_click_type(kind))


def with_unit(text: str, unit: str | None) -> str:
    """A description as a sentence, with the unit of the value before its default."""
    text, semicolon, default = text.partition("; default:")
    return f"{text[:1].upper()}{text[1:]}" + (f" ({unit})" if unit else "") + f"{semicolon}{default}."


def is_long(choices: Sequence[str]) -> bool:
    """Whether there are too many choices to list them beside the name of their option."""
    return len("|".join(choices)) > 40


def _click_type(kind: Any) -> dict[str, Any]:
    origin, parts = typing.get_origin(kind), [plain_type(part) for part in typing.get_args(kind)]
    if kind is bool:
        return {}
    if origin is typing.Literal:
        return {"type": Choice(parts)}
    if origin is tuple and Ellipsis not in parts:
        types = tuple(_value_type(part) for part in parts)
        return {"type": types, "metavar": " ".join(getattr(t, "name", "x").upper() for t in types)}
    if origin in (tuple, list):  # any number: the option is given several times
        return {"type": _value_type(parts[0]), "multiple": True}
    return {"type": _value_type(kind)}


def _value_type(kind: type) -> Any:
    return {int: Whole(), float: Number(), Path: FILE}.get(kind, kind)


def read_settings(settings: type[S], config: Path | None, values: dict[str, Any]) -> S:
    """Defaults, then the YAML file, then the options that were given.

    Raises:
        ConfigError: missing file, unknown key (with the nearest match), or a wrong value.
    """
    options = {key: value for key, value in values.items() if value not in (None, ())}
    try:
        return settings(**(_read_yaml(config, settings) if config is not None else {}) | options)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # the settings' own message about a combination of values
            reason = first["msg"].removeprefix("Value error, ")
            raise ConfigError(f"options: {reason}; see --help") from error
        name = str(first["loc"][0])
        in_file = config is not None and name not in options
        item = f"{config}: {name}" if in_file else f"--{name.replace('_', '-')}"
        raise ConfigError(f"{item}: {plain_reason(first)}; see --help") from error


def _read_yaml(config: Path, settings: type[BaseModel]) -> dict[str, Any]:
    if not config.is_file():
        raise ConfigError(f"{config}: no such file; give a YAML file of settings")
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{config}: not valid YAML ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{config}: expected 'name: value' lines")
    for key in content:
        if key not in settings.model_fields:
            hint = did_you_mean(str(key), settings.model_fields)
            raise ConfigError(f"{config}: unknown setting {key!r}{hint or '; see --help'}")
    return content
