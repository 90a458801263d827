"""Somebody who connects as fast as a process can, from an address of loopback that nobody else uses.

python -m tests.nodes.flood PORT --rate 2000 --seconds 3 --say upgrade
"""

from __future__ import annotations

import argparse
import contextlib
import selectors
import socket
import time

SOURCE = "127.0.0.2"

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: looprooms.v1+json\r\n\r\n"
)
WORDS = {"nothing": b"", "upgrade": UPGRADE, "half": UPGRADE[:40]}


def flood(port: int, rate: float, seconds: float, said: bytes, held: int) -> tuple[int, int, int]:
    """Connect `rate` times a second, and keep the newest `held`; return how many were made, answered, and cut off."""
    selector = selectors.DefaultSelector()
    open_: list[socket.socket] = []
    made = answered = cut = 0
    began = time.monotonic()
    while (now := time.monotonic()) - began < seconds:
        while made < (now - began) * rate:
            sock = socket.socket()
            sock.setblocking(False)
            sock.bind((SOURCE, 0))
            with contextlib.suppress(BlockingIOError):
                sock.connect(("127.0.0.1", port))
            selector.register(sock, selectors.EVENT_WRITE)
            open_.append(sock)
            made += 1
        for key, events in selector.select(0.001):
            sock = key.fileobj  # type: ignore[assignment] # it is what was registered
            try:
                if events & selectors.EVENT_WRITE:
                    sock.send(said)
                    selector.modify(sock, selectors.EVENT_READ)
                elif sock.recv(4096):
                    answered += 1
                else:
                    raise ConnectionResetError
            except OSError:
                cut += 1
                selector.unregister(sock)
                open_.remove(sock)
                sock.close()
        while len(open_) > held:
            sock = open_.pop(0)
            selector.unregister(sock)
            sock.close()
    return made, answered, cut


def main() -> None:
    """Flood, and say what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--rate", type=float, default=2000)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--say", choices=WORDS, default="upgrade")
    parser.add_argument("--held", type=int, default=1000)
    given = parser.parse_args()
    made, answered, cut = flood(given.port, given.rate, given.seconds, WORDS[given.say], given.held)
    print(f"{made} connections, {answered} answers, {cut} cut off")


if __name__ == "__main__":
    main()
