"""The grammar of command lines: arguments as click takes them, and usage errors in the words of users."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import click

from ..errors import did_you_mean

NUMBERS = ("n", "x")  # names of types in ``options``
ANSWERS = ("yes", "no", "true", "false", "on", "off")
SLIP = re.compile(r"-[a-zA-Z][a-zA-Z-]+")  # an option with one dash
NUMBER = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?")
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
OTHER_OPTIONS = {  # in other programs, and in earlier versions of this one
    **dict.fromkeys(("--calculator", "--calc", "--potential", "--checkpoint", "--teacher", "-t"), "--model"),
    **dict.fromkeys(("--gpu", "--cuda", "--cpu"), "--device"),
    **dict.fromkeys(("--force", "--clobber"), "--overwrite"),
    **dict.fromkeys(("--dt", "--time-step"), "--timestep"),
    **dict.fromkeys(("--nprocs", "--cores", "--workers"), "--jobs"),
    "--restart": "--resume",
    "--precision": "--dtype",
    "--relax-cell": "--cell",
}
TRAINING = ("train", "lr")  # most of their settings stand in a file


def as_click_takes(parameters: Iterable[click.Parameter], arguments: Sequence[str]) -> list[str]:
    """Split the values of options that take several.

    ``--supercell 2,2,2`` becomes ``--supercell 2 2 2``, and ``--sizes 8,64`` and ``--sizes 8 64`` become
    ``--sizes 8 --sizes 64``. A first word without an option is the potential of a command that takes no
    other argument.

    Raises:
        click.UsageError: an option has one dash, which click would read as letters, or yes or no follows a
            switch.
    """
    parameters = list(parameters)
    options = {name: p for p in parameters if isinstance(p, click.Option) for name in _names(p)}
    remaining, result = list(arguments), list[str]()
    takes_more = any(isinstance(parameter, click.Argument) for parameter in parameters)
    if "--model" in options and not takes_more and remaining and not remaining[0].startswith("-"):
        result += ["--model", remaining.pop(0)]
    while remaining:
        token = remaining.pop(0)
        if token == "--":
            return [*result, token, *remaining]
        name, equals, value = token.partition("=")
        option = options.get(name)
        if option is None:
            if SLIP.fullmatch(name) and f"-{name}" in options:
                raise click.UsageError(f"{name}: the names of options have two dashes; write -{name}")
            result.append(token)
        elif option.is_flag:
            _refuse_answer(option, name, remaining)
            result.append(token)
        elif not (equals or remaining):
            result.append(token)  # click says that there is no value
        else:
            text = value if equals else remaining.pop(0)
            result += _split(option, name, text) or ([token] if equals else [name, text])
            while _takes_numbers(option) and remaining and _is_number(remaining[0]):
                result += [name, remaining.pop(0)]
    return result


def _names(option: click.Option) -> list[str]:
    return [*option.opts, *option.secondary_opts]


def _takes_numbers(option: click.Option) -> bool:
    return option.multiple and option.type.name in NUMBERS


def _is_number(word: str) -> bool:
    return NUMBER.fullmatch(word) is not None and not Path(word).exists()


def _split(option: click.Option, name: str, text: str) -> list[str]:
    """The words for click of ``2,2,2``, ``2x2x2``, ``"2 2 2"`` or ``[2, 2, 2]``; none of any other text."""
    parts = re.split(r"[\s,;]+|(?<=\d)[x×](?=\d)", text.strip("[]() ,"))
    if not all(NUMBER.fullmatch(part) for part in parts):
        return []
    if _takes_numbers(option):
        return [word for part in parts for word in (name, part)]
    return [name, *parts] if len(parts) == option.nargs > 1 else []


def _refuse_answer(option: click.Option, name: str, following: Sequence[str]) -> None:
    """A switch takes no value: in ``--cell yes`` click would read a structure called yes."""
    if following and following[0].lower() in ANSWERS and not Path(following[0]).exists():
        both = f"write {' or '.join(_names(option))}"
        advice = both if option.secondary_opts else f"leave {following[0]!r} out"
        raise click.UsageError(f"{name}: takes no value; {advice}")


def usage_message(error: click.ClickException, arguments: Sequence[str], commands: Collection[str]) -> str:
    """One line for an error of click, which begins with the wrong argument."""
    message = " ".join(error.format_message().split()).rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    if isinstance(error, click.NoSuchOption):
        message = f"{error.option_name}: no such option{_option_meant(error, arguments, commands)}"
    elif isinstance(error, click.BadParameter) and error.param is not None and context is not None:
        is_option = isinstance(error.param, click.Option)
        name = error.param.opts[0] if is_option else error.param.make_metavar(context)
        reason = error.message.rstrip(".")
        if isinstance(error, click.MissingParameter):
            reason = f"missing{_former_line(error.param, arguments)}"
        message = f"{name}: {reason}"
    elif isinstance(error, click.BadOptionUsage):  # the value is missing
        reason = message.rpartition("' ")[2].replace("an argument", "a value").replace("argument", "value")
        message = f"{error.option_name}: {reason}"
    elif "unexpected extra argument" in message and context is not None:
        extra = message.partition("(")[2].rstrip(")")
        takes = [p.make_metavar(context) for p in context.command.params if isinstance(p, click.Argument)]
        advice = f"takes {' '.join(takes)}" if takes else "takes options only"
        message = f"{extra}: too many arguments; {context.command_path} {advice}"
    command = next((name for name in arguments if name in commands), "")  # click does not always know
    return f"{message}; see {context.command_path if context else f'nff {command}'.rstrip()} --help"


def _former_line(parameter: click.Parameter, arguments: Sequence[str]) -> str:
    """The line with ``--model``, where the potential stands first as in earlier versions."""
    words = [word for word in arguments if word != "--debug"]
    if "--model" not in parameter.opts or len(words) < 2 or words[1].startswith("-"):
        return ""
    command, potential, *others = words
    if Path(potential).is_file() and Path(potential).suffix != ".safetensors":
        return "; give the name of a potential or its file"
    return f"; write {' '.join(['nff', command, *others, '--model', potential])}"


def command_meant(arguments: Sequence[str], commands: Collection[str]) -> str:
    """A hint for a line whose first word is no command."""
    name = arguments[0]
    if name == "help":
        topic = [word for word in arguments[1:2] if word in commands]
        return f"; write {' '.join(['nff', *topic, '--help'])}"
    if name == "version":
        return "; write nff --version"
    if Path(name).exists():
        return f"; the command comes first, as nff relax {name}"
    return f"; did you mean {OTHER_NAMES[name]!r}?" if name in OTHER_NAMES else did_you_mean(name, commands)


def _option_meant(error: click.NoSuchOption, arguments: Sequence[str], commands: Collection[str]) -> str:
    """A hint at the nearest option of the command, or at the place of options after the command."""
    name, context = error.option_name, error.ctx
    if context is None:
        return ""
    command = next((word for word in arguments if word in commands), "")
    if context.parent is None and command:
        return f"; options follow the command, as nff {command} {name}"
    parameters = context.command.get_params(context)
    options = [name for p in parameters if isinstance(p, click.Option) for name in _names(p)]
    if (other := OTHER_OPTIONS.get(name)) in options:
        return f"; did you mean {other!r}?"
    if name in ("--data", "--structure") and any(
        p.name.startswith("structure") for p in parameters if p.name
    ):
        return f"; structures stand without an option, as {context.command_path} FILE"
    hint = did_you_mean(name, [option for option in options if option.startswith("--")])
    return hint or ("; other settings stand in the config" if context.info_name in TRAINING else "")
