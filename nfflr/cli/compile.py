"""Compile a checkpoint for this machine, ahead of --compile."""

from __future__ import annotations

import click

from ..errors import ResourceError
from .options import DEVICE

TOPIC = "Faster, and in other programs"
PLACE = 1
EXAMPLES = ("nff compile mlearn-si --dtype float32",)


@click.command("compile")
@click.argument("checkpoint")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), help="Precision; default: the model's.")
@click.option("--device", **DEVICE)
def command(checkpoint: str, dtype: str | None, device: str) -> int:
    """Compile a checkpoint for this machine, ahead of its use with --compile.

    What is built stays in the user's cache folder ($XDG_CACHE_HOME or ~/.cache), checked against the model.
    """
    from ..calculator import NFFLrCalculator
    from ..compiled import NotCompiled, build

    loaded = NFFLrCalculator.load(checkpoint, device=device, dtype=dtype)
    told = loaded.todict()
    click.echo(f"{checkpoint}: {told['architecture']}, {told['dtype']}, {told['device']}; may take a minute")
    try:
        found = build(loaded.model)
    except NotCompiled as reason:
        raise ResourceError(f"{checkpoint}: {reason}") from reason
    click.echo(f"{found.kind} {found.origin}")
    return 0
