"""How help looks and what the shell completes, the same for every command."""

from __future__ import annotations

import re

import click
from click.shell_completion import CompletionItem

# Stand for a space and a hyphen at which no line may end, since click breaks lines at both.
HELD = {" ": "\N{NO-BREAK SPACE}", "-": "\N{NON-BREAKING HYPHEN}"}
MODELS = ("model", "checkpoint", "others", "teacher", "init_from")
LETTERS = {
    "integer": "N",
    "integer range": "N",
    "float": "X",
    "float range": "X",
    "path": "FILE",
    "Path": "FILE",
}  # by name of the type
VALUES = dict.fromkeys(MODELS, "NAME|FILE") | {
    "out": "DIR",
    "device": "DEVICE",
    "energy_units": "UNIT",
    "stress_units": "UNIT",
}  # by name of the option, of those that are texts or paths


class Formatter(click.HelpFormatter):
    """Breaks lines neither at a hyphen, which is part of a name here, nor within a short default."""

    def write_text(self, text: str) -> None:
        super().write_text(_hold(text))

    def write_dl(self, rows, *args, **options) -> None:
        super().write_dl([(first, _hold(second)) for first, second in rows], *args, **options)

    def getvalue(self) -> str:
        text = super().getvalue()
        for plain, held in HELD.items():
            text = text.replace(held, plain)
        return text


class Context(click.Context):
    """A context whose help is written by ``Formatter``."""

    formatter_class = Formatter


def _hold(text: str) -> str:
    text = re.sub(r"\[default: [^\]]{,30}\]", lambda found: found[0].replace(" ", HELD[" "]), text)
    return text.replace("-", HELD["-"])


def dress(command: click.Command) -> click.Command:
    """Give a command the common form of help, and its parameters letters for values and completion."""
    command.context_class = Context
    for parameter in command.params:
        dress_parameter(parameter)
    return command


def dress_parameter(parameter: click.Parameter) -> None:
    """Name the value after what it is, not its type; let the shell offer potentials and files."""
    if isinstance(parameter, click.Option) and not parameter.is_flag and parameter.metavar is None:
        kind = parameter.type.name
        named = VALUES.get(parameter.name or "") if kind in ("text", "path", "Path") else None
        parameter.metavar = named or LETTERS.get(kind)
    files = isinstance(parameter, click.Argument) and parameter.metavar is None
    if parameter._custom_shell_complete is None and parameter.type is click.STRING:
        if parameter.name in MODELS:
            parameter._custom_shell_complete = complete_model
        elif files:
            parameter._custom_shell_complete = _complete_file


def _complete_file(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="file")]


def complete_model(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of bundled potentials, or else files."""
    from ..cards import bundled_calculators

    known = [CompletionItem(name) for name in bundled_calculators() if name.startswith(incomplete)]
    return known or _complete_file(ctx, parameter, incomplete)
