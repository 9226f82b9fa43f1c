"""What is wrong with a command line, in words of users rather than of programs."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

import click

from ..errors import did_you_mean

OTHER_NAMES = {  # of commands, in other programs
    **dict.fromkeys(("opt", "optimize", "optimise", "minimize", "minimise", "geomopt"), "relax"),
    **dict.fromkeys(("singlepoint", "single-point", "predict"), "energy"),
    **dict.fromkeys(("bands", "dos"), "phonons"),
    **dict.fromkeys(("dynamics", "run"), "md"),
    **dict.fromkeys(("fit", "fine-tune", "finetune"), "train"),
    **dict.fromkeys(("test", "eval"), "evaluate"),
    "list": "models",
    "benchmark": "bench",
}
OTHER_OPTIONS = {  # likewise
    **dict.fromkeys(("--calculator", "--calc", "--potential", "--checkpoint"), "--model"),
    **dict.fromkeys(("--gpu", "--cuda", "--cpu"), "--device"),
    **dict.fromkeys(("--force", "--clobber"), "--overwrite"),
    **dict.fromkeys(("--dt", "--time-step"), "--timestep"),
    **dict.fromkeys(("--nprocs", "--cores", "--workers"), "--jobs"),
    "--restart": "--resume",
    "--precision": "--dtype",
    "--relax-cell": "--cell",
}
TRAINING = ("train", "lr")  # most of their settings stand in a file
PEOPLE = {  # what click says, and what people say
    "a valid float range": "a number",
    "a valid float": "a number",
    "a valid integer range": "a whole number",
    "a valid integer": "a whole number",
}
FEW = 3  # choices, among which no hint is needed


def usage_message(error: click.ClickException, arguments: Sequence[str], commands: Collection[str]) -> str:
    """The line for an error of click's, the offender first."""
    message = " ".join(error.format_message().split()).rstrip(".")
    if isinstance(error, click.NoSuchOption):
        message = f"{error.option_name}: no such option{_option_meant(error, arguments, commands)}"
    elif isinstance(error, click.MissingParameter) and error.param is not None and error.ctx is not None:
        message = f"{error.param.get_error_hint(error.ctx)}: missing".replace("'", "")
    elif isinstance(error, click.BadParameter) and error.param is not None and error.ctx is not None:
        message = f"{error.param.get_error_hint(error.ctx)}: ".replace("'", "") + _wrong_value(error)
    elif isinstance(error, click.BadOptionUsage):  # the value is missing
        wanted = message.rpartition("' ")[2].replace("an argument", "a value").replace("argument", "value")
        message = f"{error.option_name}: {wanted}"
    elif "unexpected extra argument" in message:
        message = _one_too_many(error, message)
    named = [name for name in arguments if name in commands][:1]  # click does not always say
    command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else None
    return f"{message}; see {command or ' '.join(['nff', *named])} --help"


def _wrong_value(error: click.BadParameter) -> str:
    """What is wrong with the value of an option, and what to write where that can be told."""
    reason, kind = error.message.rstrip("."), error.param.type  # type: ignore[union-attr]
    for programs, people in PEOPLE.items():
        reason = reason.replace(programs, people)
    reason = re.sub(r" is not in the range x(>=?|<=?)(\S+)", r" is wrong; expected a value \1 \2", reason)
    value = reason.split("'")[1] if reason.startswith("'") else ""
    if isinstance(kind, click.Choice):
        return reason + (did_you_mean(value, kind.choices) if len(kind.choices) > FEW else "")
    if isinstance(kind, click.Tuple):
        return f"{reason}; expected {error.param.metavar}"  # type: ignore[union-attr]
    if "whole number" in reason and "e" in value and _is_whole(value):
        return f"{reason}; write {float(value):.0f}"
    if quantity := re.fullmatch(r"([-+]?[\d.]+(?:e[-+]?\d+)?) ?([a-zA-ZÅ°%][\w/^³]*)", value):
        return f"{reason}; leave the unit out, as {quantity[1]}"
    return reason


def _is_whole(value: str) -> bool:
    try:
        return float(value).is_integer()
    except ValueError:
        return False


def _one_too_many(error: click.ClickException, message: str) -> str:
    """A number too many belongs to an option; anything else is not what the command takes."""
    extra = message.partition("(")[2].rstrip(")").split()
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None or all(re.fullmatch(r"[-+\d.]+", word) for word in extra):
        return f"{message}; an option that takes several values is given several times"
    takes = [p.make_metavar(context) for p in context.command.params if isinstance(p, click.Argument)]
    return f"{' '.join(extra)}: too many arguments; {context.command_path} takes {' '.join(takes)}"


def command_meant(arguments: Sequence[str], commands: Collection[str]) -> str:
    """What somebody wanted whose first word is no command."""
    name = arguments[0]
    if name == "help":
        named = [word for word in arguments[1:2] if word in commands]
        return f"; write {' '.join(['nff', *named, '--help'])}"
    if name == "version":
        return "; write nff --version"
    if Path(name).exists():
        return f"; the command comes first, as nff relax {name}"
    return f"; did you mean {OTHER_NAMES[name]!r}?" if name in OTHER_NAMES else did_you_mean(name, commands)


def _option_meant(error: click.NoSuchOption, arguments: Sequence[str], commands: Collection[str]) -> str:
    """The option of the command that comes nearest; of ``nff`` itself, that options follow the command."""
    name, context = error.option_name, error.ctx
    if context is None:
        return ""
    named = [word for word in arguments if word in commands][:1]
    if context.parent is None and named:
        return f"; options follow the command, as nff {named[0]} {name}"
    options = [
        option
        for parameter in context.command.get_params(context)
        if isinstance(parameter, click.Option)
        for option in (*parameter.opts, *parameter.secondary_opts)
    ]
    if (other := OTHER_OPTIONS.get(name)) in options:
        return f"; did you mean {other!r}?"
    hint = did_you_mean(name, [option for option in options if option.startswith("--")])
    return hint or ("; other settings stand in the config" if context.info_name in TRAINING else "")
