"""What people type, as click takes it: values with commas, and slips that click would read otherwise."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import click

NUMBERS = (click.INT.name, click.FLOAT.name, "integer range", "float range")
ANSWERS = ("yes", "no", "true", "false", "on", "off")
SLIP = re.compile(r"-[a-zA-Z][a-zA-Z-]+")  # an option with one dash


def as_click_takes(parameters: Iterable[click.Parameter], arguments: Sequence[str]) -> list[str]:
    """Arguments with the several values of an option apart.

    ``--supercell 2,2,2`` becomes ``--supercell 2 2 2``, and ``--sizes 8,64`` ``--sizes 8 --sizes 64``.

    Raises:
        click.UsageError: an option with one dash, which click would take for letters; yes or no after a
            switch.
    """
    options = {name: p for p in parameters if isinstance(p, click.Option) for name in _names(p)}
    remaining, result = list(arguments), list[str]()
    while remaining:
        token = remaining.pop(0)
        if token == "--":
            return [*result, token, *remaining]
        name, equals, value = token.partition("=")
        option = options.get(name)
        if option is None:
            _refuse_one_dash(token, options)
            result.append(token)
        elif option.is_flag:
            _refuse_answer(option, name, remaining)
            result.append(token)
        elif (separate := _separate(option)) is None or not (equals or remaining):
            result.append(token)
            if not equals:
                result += remaining[:1]
                del remaining[:1]
        else:
            first = value if equals else remaining.pop(0)
            result += separate(name, first) or ([token] if equals else [name, first])
    return result


def _names(option: click.Option) -> list[str]:
    return [*option.opts, *option.secondary_opts]


def _separate(option: click.Option) -> Callable[[str, str], list[str]] | None:
    """What takes the values of an option apart, if it has several."""
    if option.nargs > 1:

        def tuple_of(name: str, text: str) -> list[str]:
            parts = _parts(text)
            return [name, *parts] if len(parts) == option.nargs else []

        return tuple_of
    if option.multiple and option.type.name in NUMBERS:
        return lambda name, text: [word for part in _parts(text) for word in (name, part)]
    return None


def _parts(text: str) -> list[str]:
    """``2,2,2``, ``2x2x2``, ``"2 2 2"`` or ``[2, 2, 2]`` as numbers; none if there are others."""
    parts = re.split(r"[\s,;]+|(?<=\d)[x×](?=\d)", text.strip("[]() ,"))
    return parts if all(re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", part) for part in parts) else []


def _refuse_one_dash(token: str, options: dict[str, click.Option]) -> None:
    name = token.partition("=")[0]
    if SLIP.fullmatch(name) and f"-{name}" in options:
        raise click.UsageError(f"{name}: the names of options have two dashes; write -{name}")


def _refuse_answer(option: click.Option, name: str, following: Sequence[str]) -> None:
    """A switch takes no value: ``--cell yes`` would be taken for a structure called yes."""
    if following and following[0].lower() in ANSWERS and not Path(following[0]).exists():
        both = f"write {' or '.join(_names(option))}"
        advice = both if option.secondary_opts else f"leave {following[0]!r} out"
        raise click.UsageError(f"{name}: takes no value; {advice}")
