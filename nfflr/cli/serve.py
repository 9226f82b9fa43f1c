"""Serve energies and forces to i-PI, or what speaks its protocol."""

from __future__ import annotations

import ipaddress
import socket
import time
import warnings
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..errors import ConfigError, ResourceError, StructureError
from ..jobs.opening import Models
from .options import FILE, Number, Whole, shared

TOPIC = "Faster, and in other programs"
PLACE = 3
EXAMPLES = (
    "nff serve si.xyz --model mlearn-si --unix silicon",
    "nff serve MgO.cif --model chgnet --port 31415",
)

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.socketio import SocketClient

SERVED = "the server decides which atoms move, i-PI by fixatoms in its input"
PAUSE = 0.2  # s between attempts to reach a server that is not there yet


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
    from ..structures.readers import read_structure
    from ..workflows.framework.attributes import without_constraints

    if (unix is None) == (port is None):
        raise ConfigError("nff serve: give one of --unix and --port; see nff serve --help")
    if unix and click.get_current_context().get_parameter_source("host") is ParameterSource.COMMANDLINE:
        raise ConfigError("--host: is for --port; a UNIX socket has none, leave it out")
    if port is not None and not _is_loopback(host):
        raise ConfigError(
            f"--host: {host} is not this machine; expected 127.0.0.1, or tunnel the port (ssh -L)"
        )
    # The server integrates: forces that a constraint has changed would change its dynamics.
    atoms = without_constraints(read_structure(structure), str(structure), SERVED)
    models = Models((model,), device, dtype, compile, trust, threads, click.echo)
    atoms.calc = models.calculator(model, len(atoms))
    where = f"/tmp/ipi_{unix}" if unix else f"{host}:{port}"
    client = _connect(where, wait, {"unixsocket": unix} if unix else {"host": host, "port": port})
    click.echo(f"serving {where}")
    served = _serve(client, atoms, str(structure))
    click.echo(f"{where}: the server has closed the connection after {served} evaluations")
    return 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(socket.gethostbyname(host)).is_loopback
    except (OSError, ValueError):
        return False


def _connect(where: str, wait: float, address: dict[str, Any]) -> SocketClient:
    """A connection, tried until the server is there.

    Raises:
        ResourceError: it is not there in time.
    """
    from ase.calculators.socketio import SocketClient

    deadline = time.monotonic() + wait
    while True:
        reason = "no answer"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # ASE forgets a socket that does not connect
            try:
                return SocketClient(**address)
            except OSError as error:
                reason = error.strerror or str(error)
        if time.monotonic() > deadline:
            raise ResourceError(
                f"{where}: nobody listens ({reason}); start the server, and check the address in its input"
            )
        time.sleep(PAUSE)


def _serve(client: SocketClient, atoms: Atoms, name: str) -> int:
    """Evaluations until the server closes the connection.

    Raises:
        StructureError: the server has another number of atoms, or a structure that cannot be computed.
        NumericsError: an energy is not finite.
    """
    from ase.calculators.socketio import SocketClosed

    from ..workflows.framework.interface import has_stress

    protocol, receive = client.protocol, client.protocol.recvposdata

    def checked():
        cell, inverse, positions = receive()
        if len(positions) != len(atoms):
            raise StructureError(
                f"{name}: has {len(atoms)} atoms, the server's structure {len(positions)}; give the same one"
            )
        return cell, inverse, positions

    protocol.recvposdata = checked  # type: ignore[method-assign]  # of this one connection
    served = 0
    try:
        for _ in client.irun(atoms, use_stress=has_stress(atoms)):
            served += 1
    except (ConnectionError, SocketClosed):  # killed while a message was on its way
        pass
    return served
