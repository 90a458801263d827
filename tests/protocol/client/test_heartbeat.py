"""When the client asks a silent server, and when it gives it up. Time is given, so nothing waits."""

from __future__ import annotations

from protocol.client.heartbeat import Beat, Heartbeat


def test_the_first_beats_of_many_clients_are_spread() -> None:
    """The first ping comes between half an interval and a whole one, by the jitter."""
    dues = [Heartbeat(interval=20, patience=5, now=100, jitter=j).due for j in (0.0, 0.5, 0.999)]
    assert dues[0] == 110
    assert dues[1] == 115
    assert 119 < dues[2] < 120


def test_a_server_that_answers_is_asked_once_an_interval() -> None:
    """Anything heard since the question will do; the next one comes an interval after the last."""
    heartbeat = Heartbeat(interval=20, patience=5, now=0, jitter=0)
    assert heartbeat.tick(9.9, heard=0) is Beat.NOTHING
    assert heartbeat.tick(10, heard=0) is Beat.ASK
    assert heartbeat.tick(15, heard=10.1) is Beat.NOTHING
    assert heartbeat.due == 30
    assert heartbeat.tick(30, heard=10.1) is Beat.ASK


def test_a_server_that_says_nothing_at_all_is_dead() -> None:
    """Silence for the whole of the patience after a question ends the connection."""
    heartbeat = Heartbeat(interval=20, patience=5, now=0, jitter=0)
    assert heartbeat.tick(10, heard=9) is Beat.ASK
    assert heartbeat.tick(14, heard=9) is Beat.NOTHING
    assert heartbeat.tick(15, heard=9) is Beat.DEAD


def test_who_did_not_listen_starts_over() -> None:
    """After a time in which the client itself did not read, the server is not blamed."""
    heartbeat = Heartbeat(interval=20, patience=5, now=0, jitter=0)
    assert heartbeat.tick(10, heard=9) is Beat.ASK
    heartbeat.forgive(15)
    assert heartbeat.tick(15, heard=9) is Beat.NOTHING
    assert heartbeat.tick(35, heard=9) is Beat.ASK
