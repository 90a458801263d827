"""Becoming a creator, which a moderator decides; and roles, which change at once on every connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from protocol.envelope import UserId
from storage.moderation import decide
from tests.commands import looprooms
from tests.http.conftest import Servers, servers
from tests.leaving import Member, Town, town
from tests.test_sealing import new_key
from tests.visitors import Visitor
from tests.waiting import until

__all__ = ["servers"]  # fixtures

ABOUT = "I would host a breathing circle on Tuesdays"


@pytest.fixture
async def place(servers: Servers) -> AsyncIterator[Town]:
    """Give two nodes with a database of their own."""
    async with town(await servers.settings()) as running:
        yield running


async def moderator(place: Town, name: str = "Mo", role: str = "MODERATOR") -> tuple[Member, Visitor]:
    """Make somebody with a role, connected to the second node."""
    member = await place.member(name)
    await place.pool.execute("update users set role = $2::user_role where id = $1", member.id, role)
    return member, await member.come(place.sites[1])


async def applied(visitor: Visitor, about: str = ABOUT) -> dict[str, Any]:
    """Apply; return the application."""
    answer = await visitor.call("creator.apply", about=about)
    assert answer["type"] == "creator.applied", answer
    return dict(answer["application"])


def told(visitor: Visitor, kind: str) -> list[dict[str, Any]]:
    """Return the events of a kind that somebody was told."""
    return [message for message in visitor.heard if message["type"] == kind]


def roles(place: Town, user: UserId) -> set[str]:
    """Return the roles of a person's connections, over all nodes."""
    found = [one for site in place.sites for one in site.node.hub.members.of_user(user)]
    return {one.session.role for one in found if one.session is not None}


async def test_applying(place: Town) -> None:
    """It waits, is answered with the same again while it does, also for many at once, and one can look at it."""
    visitor = await (await place.member("Ada")).come()
    assert "application" not in await visitor.call("creator.get")
    answers = await asyncio.gather(*(applied(visitor, f"  {ABOUT} ") for _ in range(4)))
    assert len({answer["id"] for answer in answers}) == 1
    assert (answers[0]["about"], answers[0]["person"]["name"]) == (ABOUT, "Ada")
    assert (await visitor.call("creator.get"))["application"] == answers[0]


async def test_an_address_that_is_only_claimed(place: Town) -> None:
    """Whoever may be anybody is not read, and asks nobody to be a friend: first one proves one's address. A room is theirs, too."""
    ada = await place.member("Ada")
    await place.pool.execute("update identities set issuer = user_id::text where user_id = $1", ada.id)
    room = await place.room()
    visitor = await ada.come(None, room)
    assert (await visitor.call("creator.apply", about=ABOUT))["code"] == "email_unverified"
    assert (await visitor.say(room, "hello"))["type"] == "chat.sent"
    bo = await place.member("Bo")
    for person in (bo.id, uuid4()):
        assert (await visitor.call("friend.request", person=str(person)))["code"] == "email_unverified"
    await place.pool.execute("update identities set issuer = '' where user_id = $1", ada.id)
    await applied(visitor)
    assert (await visitor.call("friend.request", person=str(bo.id)))["type"] == "friend.requested"


async def test_nothing_to_read(place: Town) -> None:
    """An application in which nothing can be seen is refused."""
    visitor = await (await place.member("Ada")).come()
    assert (await visitor.call("creator.apply", about="\u200b \u2066"))["code"] == "text_empty"


async def test_what_was_written_is_sealed(place: Town) -> None:
    """Neither the application nor the reason of its decision can be read in the database, but for the event of the person."""
    visitor = await (await place.member("Ada")).come()
    _, judge = await moderator(place)
    application = await applied(visitor)
    await judge.call("creator.decide", application=application["id"], approve=False, reason="not yet")
    dump = await place.dump()
    assert "breathing circle" not in "\n".join(dump.values())
    assert "not yet" not in dump["creator_applications"] + dump["decisions"]


async def test_only_moderators_look_and_decide(place: Town) -> None:
    """To everyone else it is forbidden, creators included, whatever they name."""
    application = await applied(await (await place.member("Ada")).come())
    creator = await place.member("Cleo")
    await place.pool.execute("update users set role = 'CREATOR' where id = $1", creator.id)
    for visitor in (await (await place.member("Bo")).come(), await creator.come()):
        for name, fields in (
            ("creator.list", {}),
            ("creator.decide", {"application": application["id"], "approve": True}),
            ("creator.decide", {"application": str(uuid4()), "approve": True}),
        ):
            assert (await visitor.call(name, **fields))["code"] == "forbidden"
    assert await place.pool.fetchval("select state::text from creator_applications") == "PENDING"


async def test_the_oldest_first(place: Town) -> None:
    """Moderators page through what waits; what is decided is gone from it."""
    waiting = [
        await applied(await (await place.member(f"Person{number}")).come(), f"{number}")
        for number in range(5)
    ]
    _, judge = await moderator(place)
    seen: list[str] = []
    after = None
    while True:
        page = await judge.call("creator.list", limit=2, **({"after": after} if after else {}))
        seen += [one["about"] for one in page["applications"]]
        if (after := page.get("next")) is None:
            break
    assert seen == ["0", "1", "2", "3", "4"]
    await judge.call("creator.decide", application=waiting[0]["id"], approve=False)
    assert [one["about"] for one in (await judge.call("creator.list"))["applications"]] == [
        "1",
        "2",
        "3",
        "4",
    ]


@pytest.mark.parametrize("role", ["MODERATOR", "ADMIN"])
async def test_approved(place: Town, role: str) -> None:
    """The person is told on every connection of every node, and is a creator on all of them; it is recorded."""
    ada = await place.member("Ada")
    connections = [await ada.come(site) for site in place.sites]
    judge, judging = await moderator(place, role=role)
    application = await applied(connections[0])
    answer = await judging.call(
        "creator.decide", application=application["id"], approve=True, reason="welcome"
    )
    assert answer["type"] == "creator.decided"
    assert answer["application"]["state"] == "APPROVED"
    for visitor in connections:
        await until(lambda v=visitor: told(v, "creator.decision"))  # type: ignore[misc] # early bound
        (event,) = told(visitor, "creator.decision")
        assert (event["state"], event["reason"], event["person_offset"]) == ("APPROVED", "welcome", 1)
    await until(lambda: roles(place, ada.id) == {"CREATOR"})
    assert (await ada.ask("GET", "/me")).json()["role"] == "CREATOR"
    assert (await connections[1].call("creator.apply", about=ABOUT))["code"] == "forbidden"
    assert told(judging, "creator.decision") == []
    record = await place.pool.fetchrow(
        "select decision, detail, by_operator, actor_id, subject_id from decisions"
    )
    assert record is not None
    assert tuple(record.values()) == ("creator", "APPROVED", False, judge.id, ada.id)


async def test_declined(place: Town) -> None:
    """The person is told why, stays a member, and may apply again."""
    ada = await place.member("Ada")
    visitor = await ada.come()
    _, judge = await moderator(place)
    first = await applied(visitor)
    await judge.call("creator.decide", application=first["id"], approve=False, reason="say more, please")
    await until(lambda: told(visitor, "creator.decision"))
    assert told(visitor, "creator.decision")[0]["reason"] == "say more, please"
    found = (await visitor.call("creator.get"))["application"]
    assert (found["state"], found["reason"]) == ("DECLINED", "say more, please")
    assert roles(place, ada.id) == {"MEMBER"}
    assert (await applied(visitor))["id"] != first["id"]


async def test_decided_twice(place: Town) -> None:
    """The same again, after a lost answer, changes nothing and is the same answer; another decision is refused."""
    ada = await place.member("Ada")
    visitor = await ada.come()
    _, one = await moderator(place)
    _, other = await moderator(place, "Mia")
    application = await applied(visitor)
    answers = [
        await judge.call("creator.decide", application=application["id"], approve=True)
        for judge in (one, one, other)
    ]
    assert [answer["application"] for answer in answers] == [answers[0]["application"]] * 3
    refused = await other.call("creator.decide", application=application["id"], approve=False)
    assert refused["code"] == "already_decided"
    await visitor.settle()
    assert len(told(visitor, "creator.decision")) == 1
    assert await place.pool.fetchval("select count(*) from decisions") == 1


async def test_two_decide_at_once(place: Town) -> None:
    """Of a yes and a no at the same moment one counts, and the other is told so."""
    application = await applied(await (await place.member("Ada")).come())
    judges = [(await moderator(place, f"Judge{number}"))[1] for number in range(6)]
    answers = await asyncio.gather(
        *(
            judge.call("creator.decide", application=application["id"], approve=number % 2 == 0)
            for number, judge in enumerate(judges)
        )
    )
    assert (
        sorted(answer.get("code", "decided") for answer in answers)
        == ["already_decided"] * 3 + ["decided"] * 3
    )
    assert await place.pool.fetchval("select count(*) from decisions") == 1


async def test_nobody_decides_their_own(place: Town) -> None:
    """Whoever became a moderator while their application waits leaves it to somebody else, and stays a moderator by it."""
    mo = await place.member("Mo")
    application = await applied(await mo.come())
    await place.pool.execute("update users set role = 'MODERATOR' where id = $1", mo.id)
    own = await mo.come(place.sites[1])
    assert (await own.call("creator.decide", application=application["id"], approve=True))[
        "code"
    ] == "forbidden"
    _, judge = await moderator(place, "Mia")
    await judge.call("creator.decide", application=application["id"], approve=True)
    assert await place.pool.fetchval("select role::text from users where id = $1", mo.id) == "MODERATOR"


async def test_an_unknown_application(place: Town) -> None:
    """There is nothing to decide; nor when the person has left meanwhile."""
    ada = await place.member("Ada")
    application = await applied(await ada.come())
    _, judge = await moderator(place)
    assert (await ada.leave()).status_code == 204
    for unknown in (application["id"], str(uuid4())):
        assert (await judge.call("creator.decide", application=unknown, approve=True))["code"] == "not_found"


async def test_whoever_decided_may_leave(place: Town) -> None:
    """What a moderator decided stays decided, without by whom."""
    ada = await place.member("Ada")
    visitor = await ada.come()
    judge, judging = await moderator(place)
    application = await applied(visitor)
    await judging.call("creator.decide", application=application["id"], approve=True)
    assert (await judge.leave()).status_code == 204
    assert (await visitor.call("creator.get"))["application"]["state"] == "APPROVED"
    record = await place.pool.fetchrow("select actor_id, subject_id from decisions")
    assert record is not None
    assert tuple(record.values()) == (None, ada.id)


async def test_leaving_while_it_is_decided(place: Town) -> None:
    """Leaving and a decision at the same moment end in one way or the other, never in an error of ours."""
    stores = place.sites[0].node.stores
    judge = (await moderator(place))[0]
    for number in range(10):
        ada = await place.member(f"Ada{number}")
        application = await applied(await ada.come())
        left, decided = await asyncio.gather(
            ada.leave(),
            decide(stores.pool, stores.sealer, application["id"], judge.id, "", approve=True),
            return_exceptions=True,
        )
        assert not isinstance(left, BaseException)
        assert left.status_code == 204
        assert not isinstance(decided, BaseException) or getattr(decided, "code", None) == "not_found"


async def test_a_few_a_day(servers: Servers) -> None:
    """Nobody can keep moderators busy all by themselves."""
    async with town(await servers.settings(LOOPROOMS_LIMITS_FACTOR="1"), 1) as place:
        visitor = await (await place.member("Ada")).come()
        codes = [(await visitor.call("creator.apply", about=ABOUT)).get("code") for _ in range(6)]
        assert codes == [None] * 5 + ["rate_limited"]


async def test_the_operator_gives_a_role(place: Town, tmp_path: Path) -> None:
    """`looprooms role` finds the person by their address in any spelling, and every connection has the role at once; it is recorded."""
    ada = await place.member("Ada")
    await place.pool.execute("update identities set issuer = user_id::text where user_id = $1", ada.id)
    connections = [await ada.come(site) for site in place.sites]
    assert (await connections[0].call("creator.list"))["code"] == "forbidden"
    settings = place.sites[0].node.settings
    environment = {
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "LOOPROOMS_SIGNING_KEYS": new_key("a"),
        "LOOPROOMS_SEALING_KEYS": ",".join(settings.sealing_keys),
    }

    async def command(*arguments: str) -> tuple[int, str]:
        done = await asyncio.to_thread(looprooms, tmp_path, "role", *arguments, **environment)
        return done.returncode, done.stdout + done.stderr

    unproven = (2, "Nobody has proven that this address is theirs.\n")
    assert await command(ada.email, "MODERATOR") == unproven, "anybody may claim an address"
    await place.pool.execute("update identities set issuer = '' where user_id = $1", ada.id)
    assert await command(ada.email.upper(), "MODERATOR") == (0, "They are MODERATOR now.\n")
    for visitor in connections:
        await until(lambda v=visitor: told(v, "role.change"))  # type: ignore[misc] # early bound
        assert told(visitor, "role.change")[0]["role"] == "MODERATOR"
    await until(lambda: roles(place, ada.id) == {"MODERATOR"})
    for visitor in connections:
        assert (await visitor.call("creator.list"))["type"] == "creator.listed"
    assert await command(ada.email, "moderator") == (0, "They were MODERATOR already.\n")
    assert await command(ada.email, "MEMBER") == (0, "They are MEMBER now.\n")
    await until(lambda: roles(place, ada.id) == {"MEMBER"})
    assert (await connections[1].call("creator.list"))["code"] == "forbidden"
    assert await command("nobody@example.org", "ADMIN") == unproven
    assert await command("nonsense", "ADMIN") == (2, "This is no e-mail address.\n")
    assert (await command(ada.email, "EMPEROR"))[0] == 2
    records = await place.pool.fetch(
        "select detail, by_operator, actor_id, subject_id from decisions order by id"
    )
    assert [tuple(row.values()) for row in records] == [
        ("MEMBER to MODERATOR", True, None, ada.id),
        ("MODERATOR to MEMBER", True, None, ada.id),
    ]
