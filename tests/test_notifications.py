"""What happened to somebody: noted once, told on every device, counted while it is unread, and read on all by being read on one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from protocol.envelope import Person, UserId
from protocol.notifications import NotificationKind, Thing, ThingKind
from server.notifications import ForgetNotifications, forget
from storage import notifications, relations
from storage.notifications import NewNotice, notify
from storage.person_events import Told
from storage.postgres.embedded import EmbeddedPostgres
from storage.postgres.pool import open_pool
from tests.http.conftest import Servers, servers
from tests.leaving import town
from tests.meeting import Guest, Meeting, meeting
from tests.nodes.raw import Message, RawConnection, open_raw
from tests.redis.valkeys import Valkey
from tests.stores import make_database
from tests.waiting import until

__all__ = ["servers"]  # fixtures

MASK = Person(id=UserId(UUID(int=7, version=4)), name="Calm Heron 123")
OTHER_MASK = Person(id=UserId(UUID(int=8, version=4)), name="Wise Otter 321")


@pytest.fixture(scope="module")
async def two(postgres: EmbeddedPostgres) -> AsyncIterator[Meeting]:
    """Run two nodes, where people meet who have nothing to do with those of other tests."""
    url = await make_database(postgres)
    pool = await open_pool(url, size=5)
    with Valkey() as valkey:
        async with meeting(url, valkey.url, pool, 2, limits_factor=1000.0) as running:
            yield running
    await pool.close()


class Device:
    """One device of somebody. `heard` is all that was pushed to it."""

    def __init__(self, connection: RawConnection, heard: list[Message], welcome: Message) -> None:
        self.connection = connection
        self.heard = heard
        self.welcome = welcome

    def told(self, kind: str) -> list[Message]:
        """Return the events of a type, in order."""
        return [message for message in self.heard if message["type"] == kind]

    @property
    def notices(self) -> list[Message]:
        """What it was told of notifications."""
        return [message["notification"] for message in self.told("notification.notice")]

    async def call(self, type: str, **fields: Any) -> Message:  # noqa: A002 - as on the wire
        """Send a command and return its answer."""
        return await self.connection.call(type, within=20.0, **fields)


async def come(two: Meeting, guest: Guest, node: int = 0, **hello: Any) -> Device:
    """Connect with another device."""
    heard: list[Message] = []
    connection = await open_raw(two.sites[node].port, heard.append)
    token = await two.token(guest, two.sites[node])
    return Device(connection, heard, await connection.call("hello", within=20.0, token=token, **hello))


def a_reaction(user: Guest, vybe: UUID, actor: Guest | None, **fields: Any) -> NewNotice:
    """Return that somebody has reacted to what `user` wrote."""
    return NewNotice(
        user=user.user,
        kind=NotificationKind.REACTION,
        thing=Thing(kind=ThingKind.VYBE, id=vybe),
        actor=None if actor is None else actor.user,
        **fields,
    )


async def happen(two: Meeting, *notices: NewNotice, node: int = 0) -> list[Told]:
    """Commit it, and publish."""
    async with two.pool.acquire() as connection, connection.transaction():
        told = await notify(connection, notices)
    two.sites[node].node.person_events.publish(told)
    return told


async def listed(device: Device, **fields: Any) -> list[Message]:
    """List somebody's notifications."""
    answer = await device.call("notification.list", **fields)
    assert answer["type"] == "notification.listed", answer
    return list(answer["notifications"])


async def test_it_is_told_live_on_every_device_and_kept(two: Meeting) -> None:
    """On both nodes, once; who comes later finds it in the list, with how much there is to read in the welcome."""
    ada, bo = await two.guest("Ada"), await two.guest("Bo")
    devices = [await come(two, ada, node) for node in (0, 1, 1)]
    stranger = await come(two, bo)
    vybe = uuid4()
    await happen(two, a_reaction(ada, vybe, bo))
    for device in devices:
        await until(lambda d=device: d.notices)  # type: ignore[misc] # early bound
        (event,) = device.told("notification.notice")
        assert event["person_offset"] == event["notification"]["offset"] == 1
        notice = event["notification"]
        assert notice["thing"] == {"kind": "vybe", "id": str(vybe)}
        assert notice["actor"] == {"id": str(bo.user), "name": "Bo"}
        assert "read" not in notice
    late = await come(two, ada)
    assert late.welcome["person"]["unread"] == 1
    assert await listed(late) == devices[0].notices
    assert stranger.notices == [] == await listed(stranger)


async def test_who_was_away_gets_it_by_their_position(two: Meeting) -> None:
    """A device that comes back says where it stands, and is told exactly what it missed, in order, once."""
    ada = await two.guest("Ada")
    vybes = [uuid4() for _ in range(3)]
    first = await come(two, ada)
    for vybe in vybes:
        await happen(two, a_reaction(ada, vybe, await two.guest("Bo")))
    await until(lambda: len(first.notices) == 3)
    again = await come(two, ada, 1, person={"epoch": two.sites[1].node.stores.epoch, "offset": 1})
    assert again.welcome["person"] == {"offset": 3, "recovered": True, "missed": 2, "unread": 3}
    await again.call("session.ping")
    assert again.notices == first.notices[1:]


async def test_the_same_again_is_counted(two: Meeting) -> None:
    """Twenty people who react to one thing are one notification, whose count and newest face move; another thing is another."""
    ada = await two.guest("Ada")
    device = await come(two, ada)
    vybe, people = uuid4(), [await two.guest(f"Person {number}") for number in range(20)]
    for number, guest in enumerate(people):
        await happen(two, a_reaction(ada, vybe, guest), node=number % 2)
    await happen(two, a_reaction(ada, uuid4(), people[0]))
    await until(lambda: len(device.notices) == 21)
    assert [notice.get("count", 1) for notice in device.notices] == [*range(1, 21), 1]
    assert len({notice["id"] for notice in device.notices[:20]}) == 1
    newest, other = await listed(device, limit=1), await listed(device, before=21)
    assert (newest, other) == ([device.notices[20]], [device.notices[19]])
    assert other[0]["actor"]["name"] == "Person 19"


async def test_many_at_once_are_one_statement_and_one_event(two: Meeting) -> None:
    """What a domain commits together is noted together: one event for each that has changed, whatever the order."""
    ada, bo = await two.guest("Ada"), await two.guest("Bo")
    device = await come(two, ada)
    vybe, people = uuid4(), [await two.guest(f"Person {number}") for number in range(5)]
    batch = [a_reaction(ada, vybe, guest) for guest in people]
    told = await happen(two, *batch, a_reaction(bo, vybe, ada), *batch)
    assert sorted(str(one.user) for one in told) == sorted([str(ada.user), str(bo.user)])
    await until(lambda: device.notices)
    assert (device.notices[0]["count"], device.notices[0]["actor"]["name"]) == (5, "Person 4")


async def test_who_does_it_again_is_not_told_again(two: Meeting) -> None:
    """Taking a reaction back and giving it again, or eight kinds of it, does not make anybody look eight times."""
    ada, bo = await two.guest("Ada"), await two.guest("Bo")
    vybe = uuid4()
    assert len(await happen(two, a_reaction(ada, vybe, bo))) == 1
    assert await happen(two, a_reaction(ada, vybe, bo)) == []


async def test_one_is_not_told_of_oneself(two: Meeting) -> None:
    """Nor is somebody who has left; the others of the same statement are."""
    ada, bo = await two.guest("Ada"), await two.guest("Bo")
    gone = Guest(UserId(uuid4()), "Gone")
    vybe = uuid4()
    told = await happen(
        two, a_reaction(ada, vybe, ada), a_reaction(gone, vybe, bo), a_reaction(ada, vybe, bo)
    )
    assert [one.user for one in told] == [ada.user]


async def test_blocked_and_muted_people_do_not_notify(two: Meeting) -> None:
    """A block in either direction, or a mute of theirs; a mute of the other way does not matter."""
    ada = await two.guest("Ada")
    blocked, blocking, muted, muting = [await two.guest(name) for name in ("B", "C", "D", "E")]
    await relations.block(two.pool, ada.user, blocked.user)
    await relations.block(two.pool, blocking.user, ada.user)
    await relations.mute(two.pool, ada.user, muted.user)
    await relations.mute(two.pool, muting.user, ada.user)
    vybe = uuid4()
    doers = (blocked, blocking, muted, muting)
    device = await come(two, ada)
    await happen(two, *(a_reaction(ada, vybe, guest) for guest in doers))
    assert [notice["actor"]["name"] for notice in await listed(device)] == ["E"]
    assert "count" not in (await listed(device))[0]


async def test_a_mute_is_of_the_name_that_it_was_given_to(two: Meeting) -> None:
    """Who was muted is heard under a pseudonym, and a pseudonym that was muted under a name: neither tells of the other."""
    ada, bo, cy = [await two.guest(name) for name in ("Ada", "Bo", "Cy")]
    await relations.mute(two.pool, ada.user, bo.user)
    await relations.mute(two.pool, ada.user, cy.user, MASK)
    told = await happen(
        two,
        a_reaction(ada, uuid4(), bo),
        a_reaction(ada, uuid4(), bo, face=OTHER_MASK),
        a_reaction(ada, uuid4(), cy),
        a_reaction(ada, uuid4(), cy, face=MASK),
    )
    device = await come(two, ada)
    assert [notice["actor"]["name"] for notice in await listed(device)] == ["Cy", OTHER_MASK.name]
    assert len(told) == 2


async def test_a_kind_that_one_wants_to_hear_nothing_of(two: Meeting) -> None:
    """It is neither told nor kept; other kinds are. Settings come back as they were set."""
    ada, bo = await two.guest("Ada"), await two.guest("Bo")
    device = await come(two, ada)
    assert (await device.call("notification.settings"))["settings"] == {}
    chosen = {
        "ways": {"reaction": "none", "comment": "live"},
        "quiet": {"start": 1320, "end": 420, "zone": "Europe/Berlin"},
        "names": True,
    }
    answer = await device.call("notification.settings", settings=chosen)
    assert answer["settings"] == chosen == (await device.call("notification.settings"))["settings"]
    assert await happen(two, a_reaction(ada, uuid4(), bo)) == []
    thing = Thing(kind=ThingKind.VYBE, id=uuid4())
    await happen(two, NewNotice(user=ada.user, kind=NotificationKind.COMMENT, thing=thing, actor=bo.user))
    assert [notice["kind"] for notice in await listed(device)] == ["comment"]


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"ways": {"nonsense": "none"}}, "$.settings.ways"),
        ({"ways": {"reaction": "loud"}}, "$.settings.ways[...]"),
        ({"quiet": {"start": 0, "end": 60, "zone": "Europe/Atlantis"}}, "$.settings.quiet.zone"),
        ({"quiet": {"start": 0, "end": 60, "zone": "../../etc/passwd"}}, "$.settings.quiet.zone"),
        ({"quiet": {"start": 0, "end": 1440, "zone": "UTC"}}, "$.settings.quiet.end"),
    ],
    ids=["kind", "way", "zone", "path", "minute"],
)
async def test_settings_that_make_no_sense(two: Meeting, settings: Message, path: str) -> None:
    """They are refused with what is wrong, and nothing changes."""
    device = await come(two, await two.guest("Ada"))
    refused = await device.call("notification.settings", settings=settings)
    assert (refused.get("code"), refused.get("path")) == ("invalid", path)
    assert (await device.call("notification.settings"))["settings"] == {}


async def test_read_on_one_device_is_read_on_all(two: Meeting) -> None:
    """The others learn of it with how many are left; after that the same again is a new notification."""
    ada, bo = await two.guest("Ada"), await two.guest("Bo")
    one, other = await come(two, ada), await come(two, ada, 1)
    vybes = [uuid4() for _ in range(3)]
    for vybe in vybes:
        await happen(two, a_reaction(ada, vybe, bo))
    first = (await listed(one))[-1]
    answer = await one.call("notification.read", notification=first["id"])
    assert (answer["type"], answer["unread"]) == ("notification.marked", 2)
    await until(lambda: other.told("notification.seen"))
    (seen,) = other.told("notification.seen")
    assert (seen["notification"], seen["unread"], seen["person_offset"]) == (first["id"], 2, 4)
    assert [notice.get("read") for notice in await listed(other)] == [None, None, True]
    await one.call("notification.read", notification=first["id"])
    await happen(two, a_reaction(ada, vybes[0], bo))
    assert len(one.told("notification.seen")) == 1, "reading again is nothing new"
    assert len(await listed(other)) == 4


async def test_read_up_to_a_position(two: Meeting) -> None:
    """All that was seen by then is read; what happened to the same thing meanwhile is not."""
    ada, bo = await two.guest("Ada"), await two.guest("Bo")
    device = await come(two, ada)
    vybes = [uuid4() for _ in range(3)]
    for vybe in vybes:
        await happen(two, a_reaction(ada, vybe, bo))
    await happen(two, a_reaction(ada, vybes[0], await two.guest("Cy")))
    answer = await device.call("notification.read", upto=3)
    assert answer["unread"] == 1
    assert [notice.get("read", False) for notice in await listed(device)] == [False, True, True]
    await until(lambda: device.told("notification.seen"))
    assert device.told("notification.seen")[0]["upto"] == 3


@pytest.mark.parametrize("named", [{}, {"notification": str(uuid4()), "upto": 1}], ids=["none", "both"])
async def test_what_is_read_is_named_once(two: Meeting, named: Message) -> None:
    """One, or an offset: anything else is refused."""
    device = await come(two, await two.guest("Ada"))
    assert (await device.call("notification.read", **named))["code"] == "invalid"


async def test_pages(two: Meeting) -> None:
    """The newest first, each once, until there are no more; unread ones are counted to a hundred."""
    ada, bo = await two.guest("Ada"), await two.guest("Bo")
    await happen(two, *(a_reaction(ada, uuid4(), bo) for _ in range(105)))
    device = await come(two, ada)
    assert device.welcome["person"]["unread"] == 100
    seen: list[int] = []
    page = await device.call("notification.list", limit=50)
    while True:
        seen += [notice["offset"] for notice in page["notifications"]]
        if (before := page.get("next")) is None:
            break
        page = await device.call("notification.list", limit=50, before=before)
    assert seen == list(range(105, 0, -1))
    assert page["unread"] == 100


async def test_what_happens_once_is_told_once(two: Meeting) -> None:
    """A job that is done again after its node was lost tells nobody a second time, not even who has read it."""
    ada = await two.guest("Ada")
    device = await come(two, ada)
    live = NewNotice(
        user=ada.user,
        kind=NotificationKind.ROOM_LIVE,
        thing=Thing(kind=ThingKind.LOOPROOM, id=uuid4()),
        occasion="1700000000000",
    )
    assert len(await happen(two, live)) == 1
    assert await happen(two, live) == []
    await device.call("notification.read", upto=1)
    assert await happen(two, live) == []


async def test_who_is_anonymous_is_seen_under_their_pseudonym(two: Meeting) -> None:
    """In the event, the list and what is stored of the event; once as themselves and once masked are two people."""
    ada, bo = await two.guest("Ada"), await two.guest("Bo")
    device = await come(two, ada)
    vybe = uuid4()
    await happen(two, a_reaction(ada, vybe, bo, face=MASK))
    await until(lambda: device.notices)
    assert device.notices[0]["actor"] == {"id": str(MASK.id), "name": MASK.name}
    assert await listed(device) == device.notices
    body = await two.pool.fetchval("select body from person_events where user_id = $1", ada.user)
    assert str(bo.user) not in body
    await happen(two, a_reaction(ada, vybe, bo))
    assert (await listed(device))[0]["count"] == 2


async def test_a_transaction_that_fails_notes_nothing(two: Meeting) -> None:
    """What was rolled back was never told, and its offset goes to the next."""
    ada, bo = await two.guest("Ada"), await two.guest("Bo")
    async with two.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await notify(connection, [a_reaction(ada, uuid4(), bo)])
        await transaction.rollback()
    device = await come(two, ada)
    assert await listed(device) == []
    (told,) = await happen(two, a_reaction(ada, uuid4(), bo))
    assert told.packet.offset == 1


async def test_at_once_for_the_same_people(two: Meeting) -> None:
    """Many transactions about the same things, in any order, while they are being read: no deadlock, and every count is right."""
    guests = [await two.guest(f"Guest {number}") for number in range(4)]
    doers = [await two.guest(f"Doer {number}") for number in range(12)]
    vybes = {guest.user: uuid4() for guest in guests}

    async def do(number: int, doer: Guest) -> None:
        order = guests[number % 4 :] + guests[: number % 4]
        await happen(two, *(a_reaction(guest, vybes[guest.user], doer) for guest in order))

    reading = [notifications.read(two.pool, guest.user, None, 0) for guest in guests for _ in range(5)]
    await asyncio.gather(*(do(number, doer) for number, doer in enumerate(doers)), *reading)
    rows = await two.pool.fetch(
        "select count, last from notifications where user_id = any($1)", [guest.user for guest in guests]
    )
    assert [tuple(row.values()) for row in rows] == [(12, 12)] * 4


async def test_the_rule_of_forgetting(two: Meeting) -> None:
    """What was read a month ago goes, and what was never read half a year after it happened; the rest stays."""
    ada, bo = await two.guest("Ada"), await two.guest("Bo")
    device = await come(two, ada)
    vybes = [uuid4() for _ in range(4)]
    await happen(two, *(a_reaction(ada, vybe, bo) for vybe in vybes))
    await device.call("notification.read", upto=2)
    for place, column, days in (
        (1, "read_at", 32),
        (2, "read_at", 30),
        (3, "changed_at", 181),
        (4, "changed_at", 179),
    ):
        await two.pool.execute(
            f"update notifications set {column} = now() - make_interval(days => $2) where user_id = $1 and last = $3",
            ada.user,
            days,
            place,
        )
    await forget(two.sites[0].node, ForgetNotifications(period=0))
    assert [notice["offset"] for notice in await listed(device)] == [4, 2]


async def test_what_a_block_leaves(two: Meeting) -> None:
    """Whom one has blocked is in none of one's notifications any more, nor in events that are replayed; the others are."""
    ada, bo, cy = [await two.guest(name) for name in ("Ada", "Bo", "Cy")]
    vybe, other = uuid4(), uuid4()
    await happen(two, a_reaction(ada, vybe, bo), a_reaction(ada, other, bo))
    await happen(two, a_reaction(ada, vybe, cy))
    async with two.pool.acquire() as connection, connection.transaction():
        await notifications.take_back(connection, [(ada.user, bo.user, bo.user)])
    epoch = two.sites[0].node.stores.epoch
    device = await come(two, ada, person={"epoch": epoch, "offset": 0})
    (left,) = await listed(device)
    assert (left["actor"]["name"], left.get("count", 1)) == ("Cy", 1)
    await device.call("session.ping")
    assert [notice["actor"]["name"] for notice in device.notices] == ["", "", "Cy"]
    assert str(bo.user) not in str(device.heard)


async def test_asking_to_be_friends(two: Meeting) -> None:
    """Who is asked is notified, and who has asked when it is accepted; a request that is taken back is not there any more."""
    ada, bo = await two.guest("Ada"), await two.guest("Bo")
    theirs, own = await come(two, bo), await come(two, ada)
    await relations.request(two.pool, ada.user, bo.user)
    (notice,) = await listed(theirs)
    assert (notice["kind"], notice["actor"]["name"]) == ("friend_request", "Ada")
    assert notice["thing"] == {"kind": "person", "id": str(ada.user)}
    await relations.unfriend(two.pool, ada.user, bo.user)
    assert await listed(theirs) == []
    await relations.request(two.pool, ada.user, bo.user)
    await relations.accept(two.pool, bo.user, ada.user)
    assert [notice["kind"] for notice in await listed(theirs)] == ["friend_request"]
    assert [notice["kind"] for notice in await listed(own)] == ["friend_accepted"]
    await relations.block(two.pool, ada.user, bo.user)
    assert [await listed(theirs), await listed(own)] == [[], []]


async def test_whoever_leaves_takes_it_with_them(servers: Servers) -> None:
    """What they did is in nobody's notifications, and what happened to them is gone; both are in their export before."""
    async with town(await servers.settings(), 1) as place:
        ada, bo = await place.member("Adalgisa"), await place.member("Bo")
        vybe = Thing(kind=ThingKind.VYBE, id=uuid4())
        person = Thing(kind=ThingKind.PERSON, id=ada.id)
        async with place.pool.acquire() as connection, connection.transaction():
            await notify(
                connection,
                [
                    NewNotice(user=bo.id, kind=NotificationKind.REACTION, thing=vybe, actor=ada.id),
                    NewNotice(user=bo.id, kind=NotificationKind.FRIEND_REQUEST, thing=person, actor=ada.id),
                    NewNotice(user=ada.id, kind=NotificationKind.COMMENT, thing=vybe, actor=bo.id),
                ],
            )
        visitor = await bo.come()
        await visitor.call("notification.settings", settings={"names": True})
        assert len((await visitor.call("notification.list"))["notifications"]) == 2
        assert (await ada.leave()).status_code == 204
        await place.cleared()
        assert (await visitor.call("notification.list"))["notifications"] == []
        dump = await place.dump()
        for trace in (str(ada.id), "dalgisa"):
            assert {table for table, rows in dump.items() if trace in rows} == set()
