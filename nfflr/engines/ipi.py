"""Energies and forces for i-PI, or any program that speaks its protocol."""

from __future__ import annotations

import ipaddress
import socket
import time
import warnings
from typing import Any

from ase import Atoms
from ase.calculators.socketio import SocketClient, SocketClosed

from ..errors import ResourceError, StructureError
from ..workflows.framework.interface import has_stress

PAUSE = 0.2  # s between attempts to reach a server that is not there yet


def is_loopback(host: str) -> bool:
    """Whether this is a name of this machine."""
    try:
        return ipaddress.ip_address(socket.gethostbyname(host)).is_loopback
    except (OSError, ValueError):
        return False


def connect(where: str, wait: float, address: dict[str, Any]) -> SocketClient:
    """A connection, tried until the server is there.

    Raises:
        ResourceError: it is not there in time.
    """
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


def serve_until_closed(client: SocketClient, atoms: Atoms, name: str) -> int:
    """Evaluations until the server closes the connection.

    Raises:
        StructureError: the server has another number of atoms, or a structure that cannot be computed.
        NumericsError: an energy is not finite.
    """
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
