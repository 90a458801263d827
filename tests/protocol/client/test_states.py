"""What a client tells of itself."""

from __future__ import annotations

from protocol.client import Disconnected, Unanswered


def test_disconnected() -> None:
    """The end has the server's reason and its code; without a reason it still says what it is."""
    closed = Disconnected(4502, "This account may not connect.")
    assert str(closed) == "This account may not connect. (close code 4502)"
    assert (closed.code, closed.reason) == (4502, "This account may not connect.")
    assert str(Disconnected(1006, "")) == "The connection is closed. (close code 1006)"


def test_both_are_errors_of_a_connection() -> None:
    """Who handles lost connections handles these, too."""
    unanswered = Unanswered("chat.edit")
    assert isinstance(unanswered, ConnectionError)
    assert isinstance(Disconnected(1000, ""), ConnectionError)
    assert unanswered.command == "chat.edit"
    assert "chat.edit" in str(unanswered)
