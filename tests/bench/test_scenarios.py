"""Each scenario against a real server, small and short: it measures, and nothing is lost."""

from __future__ import annotations

from typing import Literal

import pytest

from bench import (
    chat,
    connects,
    fanout,
    feed,
    http,
    idle,
    mix,
    notify,
    overload,
    presence,
    reactions,
    slow,
    soak,
    storm,
)
from bench.ground import Ground


@pytest.mark.parametrize("event", ["chat", "cue"])
def test_everyone_hears_everything(ground: Ground, event: Literal["chat", "cue"]) -> None:
    """Two rooms of eight: every line, and every cue of their host, reaches each of them."""
    question = fanout.Question(
        event=event, members=8, rooms=2, rate=50, seconds=0.5, warmup=0.1, authors=2, sample=1
    )
    result = fanout.ask(question, ground)
    assert (result.value("missing"), result.value("duplicates"), result.value("out of order")) == (0, 0, 0)
    assert result.value("said") == result.value("acknowledged") == 60
    assert result.value("CPU per delivery, server") > 0
    assert result.curves[0].count == 6 * 2 * 25


def test_a_search_ends_where_the_rooms_are_full(ground: Ground) -> None:
    """Both steps are measured, nothing is lost, and with a limit that nothing can meet the first one is the last."""
    question = chat.Question(
        members=6, rooms=2, authors=2, rates="5,20", seconds=0.4, warmup=0.1, sample=1, limit=10_000
    )
    result = chat.ask(question, ground)
    assert result.value("missing") == result.value("out of order") == 0
    assert result.value("lines carried") in (10, 40)
    assert len(result.curves) == 2
    question.limit = 0.0001
    assert len(chat.ask(question, ground).curves) == 1


def test_all_reactions_are_acknowledged_and_counted(ground: Ground) -> None:
    """Twelve people react in two rooms, every answer comes, and everybody's totals are right."""
    question = reactions.Question(members=12, rooms=2, rate=200, seconds=0.6, warmup=0.2, clients=2)
    result = reactions.ask(question, ground)
    assert result.value("sent") == result.value("acknowledged") == 160
    assert result.value("people with wrong totals") == 0
    assert 0 < result.value("frames per person at most") <= 25


def test_everybody_knows_how_many_are_there(ground: Ground) -> None:
    """Four of twelve come and go, write and feel; at the end every count of every room is right."""
    question = presence.Question(members=12, rooms=2, movers=4, moves=20, seconds=0.8)
    result = presence.ask(question, ground)
    assert result.value("people with a wrong count") == 0
    assert result.value("changes") > 0
    assert result.value("frames per person") > 0
    assert result.value("leave p50") > 0


@pytest.mark.parametrize(("rate", "whole"), [(10, True), (300, False)], ids=["quiet", "busy"])
def test_everyone_knows_of_every_vybe(ground: Ground, rate: float, whole: bool) -> None:
    """Each change is told or counted to each of ten people once: one by one in a quiet feed, in a few frames in a busy one."""
    question = feed.Question(people=10, rate=rate, pages=20, seconds=1.0, warmup=0.2)
    result = feed.ask(question, ground)
    assert result.value("sent") == result.value("acknowledged") == 1.2 * rate
    assert {result.value(name) for name in ("missed", "twice", "behind at the end")} == {0}
    assert result.value("told as they are") + result.value("counted") == 12 * rate
    assert (result.value("counted") == 0) == whole
    assert result.value("page p50") > 0
    assert result.value("frames per person") < 25


@pytest.mark.parametrize("rate", [100, 0], ids=["at a rate", "as many as go"])
def test_everyone_is_welcomed(ground: Ground, rate: float) -> None:
    """Forty sessions of ten people come in, at a rate or as fast as they can, and none is turned away."""
    question = connects.Question(rate=rate, connections=40, people=10, at_once=4)
    result = connects.ask(question, ground)
    assert (result.value("welcomed"), result.value("turned away")) == (40, 0)
    assert result.value("welcome p50") > 0
    assert result.value("welcomed per second") > 0


def test_who_comes_back_has_missed_nothing(ground: Ground) -> None:
    """Twenty people are cut off twice while others speak: all resume, and none misses or repeats a line."""
    question = storm.Question(members=20, rooms=4, rate=40, away=0.3, rounds=2)
    result = storm.ask(question, ground)
    found = {name: result.value(name) for name in ("missed", "twice", "behind at the end", "rooms lost")}
    assert set(found.values()) == {0}
    assert result.value("rooms resumed") == 40
    assert result.value("lines said") > 0


def test_silence_has_its_price(ground: Ground) -> None:
    """Thirty connections are held and last; their memory and CPU are figures."""
    question = idle.Question(connections=30, people=10, rooms=3, seconds=0.5)
    result = idle.ask(question, ground)
    assert result.value("connections") == result.value("still there at the end") == 30
    assert len(result.plots[0].lines["resident"]) == idle.PORTIONS + 1
    assert result.value("memory of all nodes") > 10


def test_the_slope_is_that_of_one_connection() -> None:
    """What the server needs anyhow is no part of it, nor is the first portion's growth from nothing."""
    portions = [idle.Portion(0, 5_000), *(idle.Portion(n, 90_000 + 8_192 * n) for n in (100, 200, 300))]
    assert idle.slope(portions) == pytest.approx(8_192)
    assert idle.slope(portions[:2]) == 0.0


def test_every_request_is_answered(ground: Ground) -> None:
    """Two paths take turns, with a token where one is needed; a path that is not there is counted as refused."""
    question = http.Question(rate=100, paths="/me,/health/live,/nowhere", people=3, seconds=0.6, warmup=0.3)
    result = http.ask(question, ground)
    assert result.value("sent") == result.value("answered") == 90
    assert result.value("refused") == 30
    assert result.value("/me p50") > 0


def test_what_is_asked_of_http_is_there(ground: Ground) -> None:
    """Of the mix that is asked for by default nothing is refused, and its latency is told of all together."""
    result = http.ask(http.Question(rate=50, people=3, seconds=0.6, warmup=0.2), ground)
    assert result.value("sent") == result.value("answered") == 40
    assert result.value("refused") == 0
    assert 0 < result.value("all p50") <= result.value("all p95")
    assert result.value("statements") >= 40 * 0.5
    assert 0 < result.value("statements p50 at most") <= result.value("statements p95 at most")


def test_whoever_behaves_misses_nothing(ground: Ground) -> None:
    """Lines, bursts, moves and broken networks, forty times as fast as people are: everyone has all of their room, once."""
    result = mix.ask(mix.Question(people=16, rooms=3, seconds=2.5, hurry=40, drop_every=60), ground)
    for name in ("missed", "twice", "behind at the end", "rooms lost", "refused", "failed"):
        assert result.value(name) == 0, name
    assert result.value("lines begun") == result.value("lines acknowledged") > 0
    assert result.value("rooms resumed") > 0


@pytest.mark.parametrize(("to", "rate"), [("one", 30), ("all", 4)])
def test_every_device_is_told_everything_once(ground: Ground, to: Literal["one", "all"], rate: float) -> None:
    """Twelve people with two devices each: what happens to them comes to both, and nothing is lost or comes twice."""
    question = notify.Question(people=12, devices=2, to=to, rate=rate, seconds=1.0, warmup=0.5)
    result = notify.ask(question, ground)
    assert (result.value("lost"), result.value("twice")) == (0, 0)
    assert result.value("caused") == rate * 1.5
    assert result.curves[0].count == (30 * 2 if to == "one" else 4 * 12 * 2)
    assert result.value("CPU per notice, server") > 0


def test_twice_as_much_as_was_carried(ground: Ground) -> None:
    """The most that was carried is asked for twice; everything is answered, and nothing that was acknowledged is missing."""
    question = overload.Question(members=6, authors=2, rates="20,40", seconds=0.5, warmup=0.2, sample=1)
    result = overload.ask(question, ground)
    assert result.value("missing") == result.value("duplicates") == 0
    assert result.value("offered in the overload") == pytest.approx(2 * result.value("peak"), rel=0.01)
    assert result.value("said") == result.value("acknowledged") + result.value("refused in words")
    assert result.value("no answer") == 0
    assert len(result.curves) == 3


def test_people_who_do_not_read(ground: Ground) -> None:
    """Two come in and read nothing, in every other span; whoever reads has every line."""
    question = slow.Question(
        members=6, slow=2, rate=20, rounds=2, seconds=0.5, warmup=0.3, authors=2, sample=1
    )
    result = slow.ask(question, ground)
    assert result.value("missing") == 0
    assert [curve.count for curve in result.curves] == [(6 - 2) * 2 * 10] * 2


def test_a_soak_reads_what_could_grow(ground: Ground) -> None:
    """Every period has its reading, and growth is told by the hour."""
    result = soak.ask(soak.Question(people=16, rooms=3, seconds=1.5, every=0.3, hurry=40), ground)
    assert result.value("missed") == result.value("twice") == 0
    assert len(result.plots[0].lines["resident"]) >= 4
    assert isinstance(result.value("memory grows by"), float)


def test_growth_is_by_the_hour_and_without_the_beginning() -> None:
    """One unit in ten seconds is 360 an hour; a jump in the first fifth of the time is not growth."""
    steady = [(float(second), 100.0 + second / 10) for second in range(101)]
    assert soak.growth(steady) == pytest.approx(360)
    filled = [(float(second), 50.0 if second < 20 else 100.0) for second in range(101)]
    assert soak.growth(filled) == pytest.approx(0)
    assert soak.growth([]) == soak.growth([(1.0, 1.0)]) == 0.0
