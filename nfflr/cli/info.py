"""Show what a checkpoint is: architecture, elements, scores, origin."""

from __future__ import annotations

import json

import click


@click.command("info")
@click.argument("checkpoint")
@click.option("--json", "as_json", is_flag=True, help="Print the metadata as JSON.")
def command(checkpoint: str, as_json: bool) -> int:
    """Show what a checkpoint is: architecture, elements, scores, origin.

    Example: nff info mlearn-si
    """
    from ..checkpoint import find_checkpoint, load_checkpoint

    model, metadata = load_checkpoint(checkpoint)
    if as_json:
        click.echo(json.dumps(metadata, indent=2, sort_keys=True, ensure_ascii=False))
        return 0
    lines = {
        "file": find_checkpoint(checkpoint),
        "architecture": f"{metadata['architecture']}, {metadata['dtype']}",
        "parameters": sum(p.numel() for p in model.parameters()),
        "elements": ", ".join(metadata["elements"]),
        "cutoff": f"{metadata['cutoff']} Å",
        **(_predicted(metadata["targets"]) if "targets" in metadata else _energetic(metadata)),
        "hyper-parameters": ", ".join(f"{k}={v}" for k, v in metadata["hyperparameters"].items()),
        "validation scores": ", ".join(f"{k} {v:.4g}" for k, v in metadata["scores"].items()),
        **metadata["notes"],
        "versions": ", ".join(f"{k} {v}" for k, v in metadata["versions"].items()),
        "sha256": metadata["sha256"],
    }
    for name, value in lines.items():
        click.echo(f"{name:20s} {value}")
    return 0


def _energetic(metadata: dict) -> dict[str, str]:
    references = ", ".join(f"{k} {v:.6f} eV" for k, v in metadata["reference_energies"].items())
    return {"reference energies": references, "stress": metadata["stress_convention"]}


def _predicted(targets: dict[str, dict]) -> dict[str, str]:
    told = [f"{name} ({', '.join(map(str, t.get('classes', ['number'])))})" for name, t in targets.items()]
    return {"predicts": "; ".join(told)}
