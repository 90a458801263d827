"""Close codes. A close code answers one question for the client: come back, or not."""

from __future__ import annotations

from enum import IntEnum
from typing import Self


class CloseCode(IntEnum):
    """Why a connection was closed by this server.

    4000-4499 mean: come back, after a random wait (0.5 to 20 s, doubling), with your positions. 4500-4999 mean: don't,
    until a person has done something about it. Codes below 4000 are the websocket standard's (RFC 6455, section 7.4).
    """

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Self:
        """Make a member that carries its sentence for people."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    DRAINING = 4000, "This node is stopping. Reconnect when its hint says; nothing is lost."
    TOKEN_EXPIRED = 4001, "The access token ran out and was not refreshed. Get a new one, then reconnect."
    SLOW = 4002, "You read more slowly than your rooms speak. Reconnect and resume by offset."
    SILENT = 4003, "Nothing was heard from you, not even an answer to a ping. Reconnect."
    HELLO_TIMEOUT = 4004, "No hello came in time. Reconnect and send it first."
    FLOODING = 4005, "You sent far more than is allowed, after warnings. Wait, then reconnect and send less."
    BUSY = 4006, "This node takes no more sessions right now. Reconnect later."
    INTERNAL = 4007, "Something went wrong here. Reconnect and resume."
    CROWDED = 4008, "You have too many connections open here. Close some, then reconnect."

    TOKEN_REFUSED = 4500, "The access token is not valid here. Sign in again."
    SESSION_ENDED = 4501, "The session was ended: signed out, or its refresh token was reused. Sign in again."
    BANNED = 4502, "This account may not connect."
    BAD_HELLO = 4503, "The first message was not a valid hello. Fix the client."


def reconnects(code: int) -> bool:
    """Say whether a client should come back after a close with `code`.

    Codes of the standard are taken as accidents of the way (1001, 1006, 1011, 1012, ...) and mean yes, except 1000
    (done), and those that say that the client's bytes were wrong and would be wrong again (1002, 1003, 1007, 1009, 1010).
    """
    if code >= 4000:
        return code < 4500
    return code not in (1000, 1002, 1003, 1007, 1009, 1010)


def fitting(reason: str) -> str:
    """Cut a reason to the 123 bytes that a close frame holds, at a character (RFC 6455, section 5.5.1)."""
    return reason.encode()[:123].decode(errors="ignore")
