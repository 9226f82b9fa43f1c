"""Serve energies and forces to i-PI, or what speaks its protocol."""

from __future__ import annotations

import click
from click.core import ParameterSource

from ..errors import ConfigError
from ..jobs.opening import Models
from .options import FILE, Number, Whole, shared

TOPIC = "Faster, and in other programs"
PLACE = 3
EXAMPLES = (
    "nff serve si.xyz --model mlearn-si --unix silicon",
    "nff serve MgO.cif --model chgnet --port 31415",
)

SERVED = "the server decides which atoms move, i-PI by fixatoms in its input"


@click.command("serve")
@click.argument("structure", type=FILE)
@shared("model")
@click.option(
    "--unix",
    metavar="NAME",
    help="The <address> in i-PI's input: UNIX socket /tmp/ipi_NAME (default: none).",
)
@click.option("--port", type=Whole(1, 65535), help="Port on this machine, without --unix (default: none).")
@click.option("--host", default="127.0.0.1", show_default=True, help="Name of this machine, for --port.")
@click.option(
    "--wait", type=Number(), default=60.0, show_default=True, help="Longest wait for the server (s)."
)
@shared("device", "dtype", "compile", "trust", "threads")
def command(structure, model, unix, port, host, wait, device, dtype, compile, trust, threads) -> int:
    """Serve energies and forces to i-PI, or any program that speaks its protocol.

    STRUCTURE says which elements the atoms are, in the server's order, and which axes are periodic; positions
    and cell come from the server. Forces are raw: constraints of STRUCTURE do not act. Several may serve one
    server, which shares beads or replicas between them. Ends when the server closes the connection. Messages
    are not encrypted, so only this machine is spoken to.
    """
    from ..engines.ipi import connect, is_loopback, serve_until_closed
    from ..structures.readers import read_structure
    from ..workflows.framework.attributes import without_constraints

    if (unix is None) == (port is None):
        raise ConfigError("nff serve: give one of --unix and --port; see nff serve --help")
    if unix and click.get_current_context().get_parameter_source("host") is ParameterSource.COMMANDLINE:
        raise ConfigError("--host: is for --port; a UNIX socket has none, leave it out")
    if port is not None and not is_loopback(host):
        raise ConfigError(
            f"--host: {host} is not this machine; expected 127.0.0.1, or tunnel the port (ssh -L)"
        )
    # The server integrates: forces that a constraint has changed would change its dynamics.
    atoms = without_constraints(read_structure(structure), str(structure), SERVED)
    models = Models((model,), device, dtype, compile, trust, threads, click.echo)
    atoms.calc = models.calculator(model, len(atoms))
    where = f"/tmp/ipi_{unix}" if unix else f"{host}:{port}"
    client = connect(where, wait, {"unixsocket": unix} if unix else {"host": host, "port": port})
    click.echo(f"serving {where}")
    served = serve_until_closed(client, atoms, str(structure))
    click.echo(f"{where}: the server has closed the connection after {served} evaluations")
    return 0
