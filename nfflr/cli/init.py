"""Look at labelled data and write a training config for them."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import ConfigError, did_you_mean
from ..files import claim_folder, stem, write_atomically, write_figure
from .options import OUT, label_names
from .output import refuse_existing

TOPIC = "Make a potential"
PLACE = 1
EXAMPLES = ("nff init calculators/mlearn-si/train.xyz.xz --out si",)


@click.command("init")
@click.argument("data")
@click.option("--out", "-o", **OUT)
@click.option(
    "--energy-units",
    help="Energy unit of the data: eV, eV/atom, Ha or kcal/mol; default: what its format says.",
)
@click.option(
    "--stress-units", help="Stress unit of the data: eV/Å^3, GPa or kbar; default: what its format says."
)
@click.option(
    "--stress-sign",
    type=click.Choice(["1", "-1"]),
    help="1: tension is positive; -1: pressure is (VASP); default: what the format says.",
)
@click.option(
    "--stress-order",
    help="Order of six stress components: voigt (ASE) or vasp; default: what the format says.",
)
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="LABEL=NAME",
    help="Name of a label in the data, as total_energy=dft_energy; repeated.",
)
@click.option("--overwrite", is_flag=True, help="Replace results that exist.")
def command(data, out, energy_units, stress_units, stress_sign, stress_order, keys, overwrite) -> int:
    """Look at labelled data and write a training config for them.

    Prints what the data hold and what is suspicious about it, draws it as <data>-init.png, and writes a
    commented config.py that trains as it is. Data that cannot be trained on are refused with the option that
    would mend them, and nothing is written.
    """
    from ..data.diagnosis import diagnose
    from ..data.sources import ase_files, find
    from ..train.datafigure import draw
    from ..train.starter import config_text
    from .survey import report

    path = Path(data)
    paths = {"config": out / "config.py", "figure": out / f"{stem(path)}-init.png"}
    refuse_existing(paths.values(), overwrite)
    options = {
        "energy_units": energy_units,
        "stress_units": stress_units,
        "stress_sign": stress_sign and int(stress_sign),
        "stress_order": stress_order,
        "keys": _known(label_names(keys)),
    }
    found = diagnose(data, **options)
    report(found, path.name)
    found.raise_if_unusable()
    assert found.survey is not None  # else unusable
    claim_folder(out)
    text = config_text(data, out, found, filtered=find(data) is ase_files)
    write_figure(paths["figure"], draw(found.survey, path.name))
    write_atomically(paths["config"], text.encode())
    for written in paths.values():
        click.echo(f"  wrote {written}")
    click.echo(f"next: nff train {paths['config']}")
    return 0


def _known(keys: dict[str, str]) -> dict[str, str]:
    labels = ("total_energy", "forces", "stress")
    for label in keys:
        if label not in labels:
            raise ConfigError(
                f"--key: got {label!r}; expected one of {', '.join(labels)}{did_you_mean(label, labels)}"
            )
    return keys
