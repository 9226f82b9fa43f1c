"""Options by which every command that reads labelled data is told what its numbers are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from ..errors import ConfigError, did_you_mean
from .options import label_names

F = TypeVar("F", bound=Callable[..., Any])
NAMES = ("energy_units", "force_units", "force_sign", "stress_units", "stress_sign", "stress_order")
LABELS = ("total_energy", "forces", "stress")

OPTIONS = (
    click.option(
        "--energy-units",
        help="Energy unit of the data: eV, eV/atom, Ha, Ha/atom, Ry, kcal/mol or kJ/mol; "
        "default: what its format says.",
    ),
    click.option(
        "--force-units",
        help="Force unit of the data: eV/Å, Ha/Bohr, kcal/mol/Å …; default: that of the energy per Å.",
    ),
    click.option(
        "--force-sign",
        type=click.Choice(["1", "-1"]),
        help="-1: the data hold gradients of the energy instead of forces; default: 1.",
    ),
    click.option(
        "--stress-units",
        help="Stress unit of the data: eV/Å^3, GPa, kbar, or eV for virials (stress × volume); "
        "default: what its format says.",
    ),
    click.option(
        "--stress-sign",
        type=click.Choice(["1", "-1"]),
        help="1: tension is positive; -1: pressure is (VASP, and virials of QUIP, GAP and MACE); "
        "default: what the format says.",
    ),
    click.option(
        "--stress-order",
        help="Order of six stress components: voigt (ASE) or vasp; default: what the format says.",
    ),
    click.option(
        "--key",
        "keys",
        multiple=True,
        metavar="LABEL=NAME",
        help="Name of a label in the data, as total_energy=dft_energy; repeated.",
    ),
)


def data_options(command: F) -> F:
    """Add the options to a command, which takes them as keyword arguments."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def dataset_arguments(given: dict[str, Any], labels: Sequence[str] = LABELS) -> dict[str, Any]:
    """Arguments of ``AtomsDataset`` for options as given; ``labels`` may be named by ``--key``.

    Raises:
        ConfigError: a label is not known.
    """
    keys = label_names(given["keys"])
    for label in keys:
        if label not in labels:
            raise ConfigError(
                f"--key: got {label!r}; expected one of {', '.join(labels)}{did_you_mean(label, labels)}"
            )
    arguments = {name: given[name] for name in NAMES}
    for name in ("force_sign", "stress_sign"):
        arguments[name] = arguments[name] and int(arguments[name])
    return {**arguments, "keys": keys}
