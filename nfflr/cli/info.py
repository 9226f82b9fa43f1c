"""Show what a checkpoint is: architecture, elements, scores, origin."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap

import click

from .options import shared

TOPIC = "Judge a potential"
PLACE = 2
EXAMPLES = ("nff info --model mlearn-si",)


@click.command("info")
@shared("model")
@click.option("--json", "as_json", is_flag=True, help="Print the metadata as JSON.")
def command(model: str, as_json: bool) -> int:
    """Show what a checkpoint is: architecture, elements, scores, origin.

    The model is built too, so that a file that does not fit its architecture is refused. Of a bundled
    potential it is known to fit.
    """
    from ..cards import is_bundled
    from ..checkpoint_files import read_description

    path, metadata, numbers = read_description(model)
    size = {"parameters": metadata["parameters"]} if "parameters" in metadata else {}
    if not is_bundled(metadata["sha256"]):
        from ..checkpoint import load_checkpoint  # imports torch, which takes long

        network, metadata = load_checkpoint(path)
        size = {"parameters": sum(p.numel() for p in network.parameters())}
    if as_json:
        click.echo(json.dumps(metadata, indent=2, sort_keys=True, ensure_ascii=False))
        return 0
    lines = {
        "file": path,
        "architecture": f"{metadata['architecture']}, {metadata['dtype']}",
        **(size or {"numbers": f"{numbers} of weights and constants"}),
        "elements": ", ".join(metadata["elements"]),
        "cutoff": f"{metadata['cutoff']} Å",
        **_outputs(metadata),
        "hyper-parameters": ", ".join(f"{k}={v}" for k, v in metadata["hyperparameters"].items()),
        "validation scores": _scores(metadata),
        **metadata["notes"],
        "versions": ", ".join(f"{k} {v}" for k, v in metadata["versions"].items()),
        "sha256": metadata["sha256"],
    }
    for name, value in lines.items():
        click.echo(_folded(f"{name:20s} ", str(value)))
    return 0


def _folded(name: str, value: str) -> str:
    """The value in indented lines on a terminal, in one line on a pipe."""
    if not sys.stdout.isatty() or " " not in value:
        return name + value
    width = max(40, shutil.get_terminal_size().columns)
    return textwrap.fill(name + value, width, subsequent_indent=" " * len(name), break_on_hyphens=False)


def _scores(metadata: dict) -> str:
    """Scores in the units of published tables."""
    from ..quantities import LABELLED, from_description
    from ..reports.run_record import columns_of

    outputs = [from_description(output) for output in metadata.get("outputs") or ()]
    columns = {f"val/{column.key}": column for column in columns_of([*LABELLED, *outputs])}
    return ", ".join(
        f"{columns[name].title} {value * columns[name].factor:.4g} {columns[name].unit}"
        if name in columns
        else f"{name} {value:.4g}"
        for name, value in metadata["scores"].items()
    )


def _outputs(metadata: dict) -> dict[str, str]:
    """Lines about the properties that a checkpoint predicts, or about its energies."""
    if "targets" in metadata:
        kinds = {n: map(str, target.get("classes", ["number"])) for n, target in metadata["targets"].items()}
        return {"predicts": "; ".join(f"{name} ({', '.join(kind)})" for name, kind in kinds.items())}
    references = ", ".join(f"{k} {v:.6f} eV" for k, v in metadata["reference_energies"].items())
    lines = {"reference energies": references, "stress": metadata["stress_convention"]}
    if outputs := metadata.get("outputs"):
        lines["predicts too"] = ", ".join(output["name"] for output in outputs)
    return lines
