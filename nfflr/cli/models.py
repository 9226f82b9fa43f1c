"""List the potentials that can be used by name."""

from __future__ import annotations

import json

import click

TOPIC = "Judge a potential"
PLACE = 1
EXAMPLES = (
    "nff models",
    "nff models Nb W",
)


@click.command("models")
@click.argument("elements", nargs=-1, metavar="[SYMBOL]...")
@click.option("--json", "as_json", is_flag=True, help="Print the cards as JSON.")
def command(elements, as_json) -> int:
    """List the potentials that can be used by name: elements, errors, speed, origin.

    Given elements, only those that cover all of them. Errors are those on test structures, MAE. A command
    without --model takes, of the bundled ones that cover a structure, the one with the fewest elements, and
    where none does a universal potential of another package that is installed with its weights.
    """
    from ase.data import chemical_symbols

    from ..adapters import installed_universal, names
    from ..cards import bundled_calculators, read_card
    from ..errors import ConfigError

    for symbol in elements:
        if symbol not in chemical_symbols[1:]:
            raise ConfigError(f"{symbol!r} is no element; expected a symbol such as Si")
    cards = [read_card(folder) for folder in bundled_calculators().values()]
    cards = [card for card in cards if set(elements) <= set(card.elements)]
    if as_json:
        click.echo(json.dumps([card.model_dump(mode="json") for card in cards], indent=2, ensure_ascii=False))
        return 0
    if cards:
        _print(cards)
    else:
        click.echo(f"no bundled potential covers {', '.join(elements)}")
    click.echo("Data, licence and what to cite: nff models --json")
    click.echo(f"Of other packages, with most elements: --model {', '.join(names())}; see the README.")
    for name in installed_universal()[:1]:
        click.echo(f"{name} is installed: without --model it is used where none of these covers a structure.")
    return 0


def _print(cards: list) -> None:
    from .console import Table, show

    view = Table()
    for header in ("name", "elements"):
        view.add_column(header)
    for header in ("E MAE\nmeV/atom", "F MAE\nmeV/Å", "µs/atom"):
        view.add_column(header, justify="right")
    view.add_column("source")
    for card in cards:
        test, speed = card.test, card.speed
        errors = ("–", "–") if test is None else (f"{test.energy_mae:.2f}", f"{test.force_mae:.1f}")
        time = "–" if speed is None else f"{speed.results['us_per_atom']:g}"
        source = card.citation.partition(";")[0].partition(", doi")[0]  # authors, journal and year
        view.add_row(card.name, card.formula or ", ".join(card.elements), *errors, time, source)
    show(view)
