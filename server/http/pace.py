"""The pace of a long body: what the operation that takes or gives it tells the connection, so that it is not taken for a drip.

A connection gives a body seconds, whoever sends it. An upload takes minutes, and so may a download; so the operation, once it
knows who asks and that they may, asks for patience: the body may take as long as it likes, if between two looks of the
connection (`HttpConnection.LOOK_SECONDS`) at least so many bytes move. It counts them itself, because only it knows which of
them were taken.

It travels in the scope of the request, as an extension of ASGI. Another server than ours has none, and no such deadlines.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request

EXTENSION: Final = "looprooms.pace"


class Pace:
    """How fast the body of one request or response moves."""

    __slots__ = ("_before", "least", "moved")

    def __init__(self) -> None:
        self.least = 0
        """Bytes that must move between two looks; 0 while nobody has asked for patience."""
        self.moved = 0
        """Bytes that have moved since the request began."""
        self._before = 0

    def kept(self) -> bool:
        """Say whether enough has moved since this was asked last: the connection asks it at each look."""
        moved, self._before = self.moved - self._before, self.moved
        return 0 < self.least <= moved


def pace_of(request: Request) -> Pace:
    """Return the pace of a request, for an operation to ask for patience, and to count in."""
    extension = request.scope.get("extensions", {}).get(EXTENSION)
    return Pace() if extension is None else extension["pace"]
