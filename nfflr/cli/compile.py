"""Compile a checkpoint for this machine, ahead of --compile."""

from __future__ import annotations

import click

from ..errors import ResourceError
from .options import shared

TOPIC = "Faster, and in other programs"
PLACE = 1
EXAMPLES = ("nff compile --model mlearn-si --dtype float32",)


@click.command("compile")
@shared("model", "dtype", "device")
def command(model: str, dtype: str | None, device: str) -> int:
    """Compile a checkpoint for this machine, ahead of its use with --compile.

    What is built stays in the user's cache folder ($XDG_CACHE_HOME or ~/.cache), checked against the model.
    """
    from ..calculator import NFFLrCalculator
    from ..compiled import NotCompiled, build

    calculator = NFFLrCalculator.load(model, device=device, dtype=dtype)
    about = calculator.todict()
    click.echo(f"{model}: {about['architecture']}, {about['dtype']}, {about['device']}; may take a minute")
    try:
        compiled = build(calculator.model)
    except NotCompiled as reason:
        raise ResourceError(f"{model}: {reason}") from reason
    click.echo(f"{compiled.kind} {compiled.origin}")
    return 0
