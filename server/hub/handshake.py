"""The handshake: who gets a websocket here, and which bytes they will be sent."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from websockets.exceptions import InvalidHandshake
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from protocol.codec import CODECS, JSON, Codec
from protocol.contract import JSON_SUBPROTOCOL, MSGPACK_SUBPROTOCOL
from protocol.frames import WINDOW_BITS
from server.hub.members import Dialect

if TYPE_CHECKING:
    from server.hub.hub import Hub, Limits

_QUIET = logging.getLogger("looprooms.websockets")
_QUIET.setLevel(logging.WARNING)
_DEFLATE = [ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)]


def new_protocol(limits: Limits) -> ServerProtocol:
    """Return the library's side of a connection: its first event is the request that `answer` answers."""
    return ServerProtocol(
        origins=limits.origins,
        extensions=_DEFLATE,
        subprotocols=[JSON_SUBPROTOCOL, MSGPACK_SUBPROTOCOL],  # type: ignore[list-item] # NewType of str
        max_size=limits.message_bytes,
        logger=_QUIET,
    )


def answer(hub: Hub, protocol: ServerProtocol, request: Request, peer: str) -> Response:
    """Decide about a request that came from the address `peer`. The caller sends the response."""
    if request.path.partition("?")[0] != "/ws":
        return protocol.reject(HTTPStatus.NOT_FOUND, "There is no websocket here; connect to /ws.\n")
    if not hub.limits.answers_to(request.headers.get_all("Host")):
        return protocol.reject(HTTPStatus.BAD_REQUEST, "This server does not answer to this host name.\n")
    if hub.draining:
        return _later(protocol, HTTPStatus.SERVICE_UNAVAILABLE, "This node is stopping; try again.\n", 1)
    if len(hub.members.connections) > hub.limits.connections:
        return _later(protocol, HTTPStatus.SERVICE_UNAVAILABLE, "This node is full; try again.\n", 5)
    if not hub.admits(peer, request.headers.get_all("X-Forwarded-For")):
        return _later(protocol, HTTPStatus.TOO_MANY_REQUESTS, "Too many connections from your address.\n", 1)
    response = protocol.accept(request)
    problem = protocol.handshake_exc
    if isinstance(problem, InvalidHandshake) and "Sec-WebSocket-Version" in str(problem):
        response = protocol.reject(HTTPStatus.UPGRADE_REQUIRED, "Use version 13 of the protocol.\n")
        response.headers["Sec-WebSocket-Version"] = "13"
    return response


def begun(protocol: ServerProtocol) -> None:
    """Let the library read frames from now on: its request was read by somebody else, and has been answered."""
    if protocol.state is State.OPEN:
        protocol.parser = protocol.parse()
        next(protocol.parser)


def agreed(protocol: ServerProtocol) -> tuple[Codec, Dialect]:
    """Return what a handshake that succeeded has agreed on."""
    codec = CODECS[cast("str", protocol.subprotocol)]
    deflated = any(getattr(one, "local_max_window_bits", 0) >= WINDOW_BITS for one in protocol.extensions)
    if codec is JSON:
        return codec, Dialect.JSON_DEFLATED if deflated else Dialect.JSON
    return codec, Dialect.MSGPACK_DEFLATED if deflated else Dialect.MSGPACK


def _later(protocol: ServerProtocol, status: HTTPStatus, text: str, seconds: int) -> Response:
    response = protocol.reject(status, text)
    response.headers["Retry-After"] = str(seconds)
    return response
