"""The port is had alone, or shared among our own processes only."""

from __future__ import annotations

import resource
import socket

import pytest

from server.process.listening import PortError, allow_files, listen
from tests.nodes.cluster import free_port


def closed(sockets: list[socket.socket]) -> int:
    """Close what was opened; return how many."""
    for one in sockets:
        one.close()
    return len(sockets)


@pytest.mark.parametrize("wanted", [1, 3])
@pytest.mark.parametrize("there", [1, 2])
def test_a_port_in_use_is_refused(wanted: int, there: int) -> None:
    """Whether we want it alone or shared, and whether whoever has it shares it."""
    port = free_port()
    taken = listen("127.0.0.1", port, there)
    with pytest.raises(
        PortError, match=rf"^Port {port} of 127\.0\.0\.1 can't be used: Address already in use\.$"
    ):
        listen("127.0.0.1", port, wanted)
    assert closed(taken) == there
    assert closed(listen("127.0.0.1", port, wanted)) == wanted


def test_shared_sockets_share_the_connections() -> None:
    """Each of two sockets on one port gets some of two hundred connections."""
    port = free_port()
    sockets = listen("127.0.0.1", port, 2)
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
    counts = []
    for one in sockets:
        count = 0
        while True:
            try:
                accepted, _ = one.accept()
            except BlockingIOError:
                break
            accepted.close()
            count += 1
        counts.append(count)
    assert sum(counts) == 200
    assert min(counts) > 0
    closed(clients)
    closed(sockets)


@pytest.mark.parametrize("host", ["::1", "localhost"])
def test_names_and_ipv6(host: str) -> None:
    """A name and an IPv6 address are listened on."""
    port = free_port()
    sockets = listen(host, port)
    socket.create_connection((host, port)).close()
    assert closed(sockets) == 1


def test_a_name_that_is_none() -> None:
    """What no address belongs to is said."""
    with pytest.raises(PortError, match=r"^no\.invalid is no address of this machine: "):
        listen("no.invalid", 80)


def test_as_many_files_as_may_be() -> None:
    """The usual limit of open files, a thousand, is no limit of connections."""
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, most), most))
        allow_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, most)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))
