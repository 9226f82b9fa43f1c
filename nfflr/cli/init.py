"""Look at labelled data and write a training config for them."""

from __future__ import annotations

import click

from ..storage.files import claim_folder, write_atomically, write_figure, write_json
from .dataoptions import data_options, dataset_arguments
from .options import OUT
from .output import refuse_existing
from .structure_files import data_stem, find_data

TOPIC = "Make a potential"
PLACE = 1
EXAMPLES = (
    "nff init calculators/mlearn-si/train.xyz.xz --out si",
    "nff init 'runs/*/OUTCAR' --out mine --yaml",
)


@click.command("init")
@click.argument("data", nargs=-1, required=True)
@click.option("--out", "-o", **OUT)
@data_options
@click.option("--yaml", "declared", is_flag=True, help="Write config.yaml, and its schema for editors.")
@click.option("--overwrite", is_flag=True, help="Replace results that exist.")
def command(data, out, declared, overwrite, **given) -> int:
    """Look at labelled data and write a training config for them.

    DATA are files, folders of files, patterns like 'runs/*/OUTCAR', or the name of a JARVIS data set; several
    are taken together. Prints what the data hold and what is suspicious about it, draws it as
    <data>-init.png, and writes a commented config.py that trains as it is; with --yaml config.yaml, and
    config.schema.json, by which editors complete it. Data that cannot be trained on are refused with the
    option that would mend them, and nothing is written.
    """
    from ..data.quality.diagnosis import diagnose
    from ..data.sources import ase_files, display_name, find
    from ..reports.data_figure import draw
    from ..train.config import TrainingConfig
    from ..train.declarative import json_schema
    from ..train.starter import advised, config_text
    from .survey_table import report

    found = find_data(data)
    source = found[0] if len(found) == 1 else found
    form = "yaml" if declared else "py"
    paths = {"config": out / f"config.{form}", "figure": out / f"{data_stem(found)}-init.png"}
    paths |= {"schema": out / "config.schema.json"} if declared else {}
    refuse_existing(paths.values(), overwrite)
    diagnosis = advised(diagnose(source, **dataset_arguments(given)))
    name = display_name(source)
    report(diagnosis, name)
    diagnosis.raise_if_unusable()
    assert diagnosis.survey is not None  # else unusable
    claim_folder(out)
    filtered = all(find(part) is ase_files for part in found)
    text = config_text(source, out, diagnosis, filtered, form)
    write_figure(paths["figure"], draw(diagnosis.survey, name))
    write_atomically(paths["config"], text.encode())
    if declared:
        write_json(paths["schema"], json_schema(TrainingConfig))
    for written in paths.values():
        click.echo(f"  wrote {written}")
    click.echo(f"next: nff train {paths['config']}")
    return 0
