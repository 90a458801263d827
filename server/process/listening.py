"""The port: taken before anything else is started, so that whoever has it is told of at once."""

from __future__ import annotations

import os
import resource
import socket
from typing import Final

BACKLOG: Final = 4096
UNSENT_BYTES: Final = 65536
"""What the system takes for a client beyond what is on its way to it; from there on the connection is a slow one."""


class PortError(Exception):
    """The port can't be had; the message is one sentence for the operator."""


def listen(host: str, port: int, sockets: int = 1) -> list[socket.socket]:
    """Listen on one port with so many sockets. Raises `PortError`.

    Of several, each belongs to a process, and the kernel spreads new connections evenly over them (SO_REUSEPORT). It would
    let any other server of the same account in, too, so the port is tried without that first.
    """
    family, kind, protocol, address = _resolved(host, port)
    try:
        first = _bound(family, kind, protocol, address, shared=False)
        if sockets == 1:
            first.listen(BACKLOG)
            return [first]
        first.close()
        shared = [_bound(family, kind, protocol, address, shared=True) for _ in range(sockets)]
        for one in shared:
            one.listen(BACKLOG)
    except OSError as error:
        raise PortError(f"Port {port} of {host} can't be used: {os.strerror(error.errno or 0)}.") from None
    return shared


def allow_files() -> None:
    """Let this process have as many open files as it may: each connection is one, and the usual limit is for people's shells."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _resolved(
    host: str, port: int
) -> tuple[socket.AddressFamily, socket.SocketKind, int, tuple[object, ...]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise PortError(f"{host} is no address of this machine: {error.strerror}.") from None
    family, kind, protocol, _, address = found[0]
    return family, kind, protocol, address


def _bound(
    family: socket.AddressFamily,
    kind: socket.SocketKind,
    protocol: int,
    address: tuple[object, ...],
    *,
    shared: bool,
) -> socket.socket:
    # With the protocol named, asyncio sets TCP_NODELAY on what it accepts.
    one = socket.socket(family, kind, protocol)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Connections have it from here. The system would keep megabytes for a client that does not read, and nobody would know.
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        if family is socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        if not shared:
            one.listen(BACKLOG)  # two may bind a port that nobody listens on yet
        one.setblocking(False)
    except BaseException:
        one.close()
        raise
    return one
