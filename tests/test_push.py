"""Pushing: whoever is connected is told live, whoever is not is pushed to, and nobody twice.

FCM is a stand-in that checks what the real one checks. A device here does what a phone's app does: what it is told live it shows
and acknowledges; what it is pushed the system shows; one notification once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest

from protocol.envelope import UserId
from protocol.notifications import NotificationKind, QuietHours, Thing, ThingKind
from server import push as pushing
from server.node import Node
from server.push import ForgetDevices, forget_devices, quiet_for
from storage.notifications import NewNotice, notify
from storage.postgres.pool import Pool
from tests.http.conftest import Servers, servers
from tests.leaving import Member, Town, town
from tests.messaging import Phone, StandInFcm, a_stand_in, failing
from tests.nodes.raw import Message, open_raw
from tests.visitors import Visitor
from tests.waiting import until

__all__ = ["servers"]  # fixtures

WAIT = 0.4
"""Seconds before a push: in them a device must have acknowledged, on a slow machine too."""
MOMENT = 1.0
"""Seconds in which an acknowledgement must have reached whoever is about to push, on a slow machine too."""
PUSHING = "select exists (select from jobs where kind = 'notifications.push' and running)"


@dataclass
class Place:
    """Two nodes that push to a stand-in."""

    town: Town
    fcm: StandInFcm

    @property
    def node(self) -> Node:
        """The first node."""
        return self.town.sites[0].node

    @property
    def pool(self) -> Pool:
        """Its connections."""
        return self.town.pool

    async def happen(self, *users: UserId, kind: NotificationKind = NotificationKind.REACTION) -> UUID:
        """Let something happen to people."""
        thing = Thing(kind=ThingKind.VYBE, id=uuid4())
        async with self.pool.acquire() as connection, connection.transaction():
            told = await notify(
                connection, [NewNotice(user=user, kind=kind, thing=thing, outcome="x") for user in users]
            )
        self.node.person_events.publish(told)
        return thing.id

    async def idle(self) -> float:
        """Wait until nothing is being pushed; return a moment (monotonic) from which on something may be again."""
        while True:
            began = time.monotonic()
            if not await self.pool.fetchval(PUSHING):
                return began
            await asyncio.sleep(0.005)

    async def settled(self) -> None:
        """Wait until nothing is left to be pushed."""
        await self.town.cleared("notifications.push")

    async def device(self, name: str = "Ada") -> Device:
        """Make somebody with a phone that is pushed to."""
        return await self.phone_of(await self.town.member(name))

    async def phone_of(self, member: Member) -> Device:
        """Give somebody a phone: it signs in, registers, and its app is closed."""
        device = Device(self, member, self.fcm.phone())
        await device.open()
        answer = await device.app.call("device.register", token=device.phone.token)
        assert answer == {"type": "device.registered", "id": answer["id"], "pushes": True}
        await device.close()
        return device

    async def other_device(self, device: Device) -> Device:
        """Sign the same person in on another phone."""
        member = device.member
        answer = await member.site.post("/auth/login", email=member.email, password="violets under a lamp")
        account = dict(answer.json()) | {"email": member.email}
        return await self.phone_of(Member(member.site, account))


class Device:
    """A phone. What is told live its app shows, and what is pushed the system, both under the id of the notification.

    `live` are the ids that the app alerted to, in order. `doubtful` are those that it could not acknowledge before it was closed:
    they may alert twice, in one place on the screen; so may those that were being pushed in the moment in which it was opened.
    """

    def __init__(self, place: Place, member: Member, phone: Phone) -> None:
        self.place = place
        self.member = member
        self.phone = phone
        self.app: Visitor
        self.live: list[str] = []
        self._began = 0.0
        self._told: dict[str, tuple[float, float]] = {}
        """When the app was opened that alerted to it, and when it did."""
        self.doubtful: set[str] = set()
        self.offset = 0
        self._unacknowledged: dict[int, str] = {}
        self._acknowledging: set[asyncio.Task[None]] = set()

    @property
    def id(self) -> UserId:
        """Whose it is."""
        return self.member.id

    async def open(self, site: int = 0, *, acknowledges: bool = True) -> None:
        """Open the app: it says where it stands, shows what is new, and acknowledges it."""
        node = self.place.town.sites[site]
        self._began = await self.place.idle()
        self.app = Visitor()
        early: list[Message] = []
        hear: list[Callable[[Message], None]] = [early.append]

        def heard(message: Message) -> None:
            hear[0](message)

        self.app.connection = await open_raw(node.port, heard)
        welcome = self.app.welcome = await self.app.call(
            "hello",
            token=self.member.access_token,
            person={"epoch": node.node.stores.epoch, "offset": self.offset},
        )
        assert welcome["type"] == "welcome", welcome
        pushed = welcome["person"].get("pushed", 0)
        hear[0] = lambda message: self._hear(message, pushed, acknowledges=acknowledges)
        for message in early:
            hear[0](message)

    def _hear(self, message: Message, pushed: int, *, acknowledges: bool) -> None:
        self.app.heard.append(message)
        if "person_offset" not in message:
            return
        self.offset = message["person_offset"]
        if message["type"] == "notification.notice" and self.offset > pushed:
            self.live.append(message["notification"]["id"])
            self._told[self.live[-1]] = self._began, time.monotonic()
            self._unacknowledged[self.offset] = self.live[-1]
        if acknowledges:
            task = asyncio.create_task(self.acknowledge())
            self._acknowledging.add(task)
            task.add_done_callback(self._acknowledging.discard)

    async def acknowledge(self) -> None:
        """Say how far it has come."""
        offset = self.offset
        with contextlib.suppress(ConnectionError):
            await self.app.call("session.ping", person=offset)
            self._unacknowledged = {o: one for o, one in self._unacknowledged.items() if o > offset}

    async def close(self) -> None:
        """Close the app, or lose the network: what it has not acknowledged by then it never will."""
        self.app.connection.reset()
        for task in self._acknowledging:
            task.cancel()
        self.doubtful |= set(self._unacknowledged.values())
        self._unacknowledged.clear()

    @property
    def pushed(self) -> list[str]:
        """The ids of the notifications that were pushed, in order."""
        return [alert.data["id"] for alert, _ in self.phone.alerts]

    @property
    def shown(self) -> list[str]:
        """The ids of those that its owner was alerted to; each once, unless it is doubtful."""
        for alerts in (self.live, self.pushed):
            assert len(alerts) == len(set(alerts))
        for alert, at in self.phone.alerts:
            if (told := self._told.get(alert.data["id"])) is not None and alert.data[
                "id"
            ] not in self.doubtful:
                assert told[0] < at < told[1] + MOMENT
        return sorted({*self.live, *self.pushed})


@pytest.fixture(scope="module")
async def place(servers: Servers) -> AsyncIterator[Place]:
    """Run two nodes and FCM."""
    async with a_stand_in() as fcm, town(await servers.settings(**variables(fcm))) as running:
        yield Place(running, fcm)


@pytest.fixture(autouse=True)
async def well(place: Place, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Begin with an FCM that works, and be patient for moments; nothing that it was sent was wrong."""
    monkeypatch.setattr(pushing, "AWAY_SECONDS", (0.05, 0.1))
    yield
    place.fcm.status, place.fcm.headers = 200, {}
    place.fcm.answering.set()
    assert place.fcm.wrong == []


def variables(fcm: StandInFcm, **more: str) -> dict[str, str]:
    """Return what a node must be told to push through it."""
    return {
        "LOOPROOMS_FCM_SERVICE_ACCOUNT": fcm.account,
        "LOOPROOMS_FCM_URL": fcm.url,
        "LOOPROOMS_PUSH_SECONDS": str(WAIT),
        **more,
    }


async def test_whose_app_is_closed_is_pushed_to_once(place: Place) -> None:
    """With a title by its kind, and nothing of what was said or by whom; each notification under its own tag, in order."""
    ada = await place.device()
    await place.happen(ada.id)
    await place.happen(ada.id, kind=NotificationKind.PAYMENT)
    await place.settled()
    notices = await listed(ada)
    assert ada.pushed == [notice["id"] for notice in reversed(notices)]
    (reaction, _), (payment, _) = ada.phone.alerts
    assert (reaction.notification.title, reaction.notification.body) == (
        "Somebody reacted to what you shared",
        "",
    )
    assert payment.notification.title == "There is news about a payment"
    assert set(reaction.data) == {"id", "kind", "thing_kind", "thing", "offset"}


async def test_who_is_connected_is_told_live_alone(place: Place) -> None:
    """A device that acknowledges what it was told is not pushed to; on whichever node it is."""
    ada = await place.device()
    await ada.open(1)
    await place.happen(ada.id)
    await until(lambda: ada.live)
    await place.settled()
    assert (ada.pushed, len(ada.live)) == ([], 1)


async def test_the_devices_that_are_closed_are_pushed_to(place: Place) -> None:
    """The one that is open is told live, the other is pushed to: each once."""
    phone = await place.device()
    tablet = await place.other_device(phone)
    await tablet.open()
    await place.happen(phone.id)
    await place.settled()
    assert (len(phone.pushed), phone.live) == (1, [])
    assert (tablet.pushed, tablet.live) == ([], phone.pushed)


async def test_read_on_one_device_is_pushed_to_none(place: Place) -> None:
    """Whoever has read it within the time is alerted nowhere else."""
    phone = await place.device()
    tablet = await place.other_device(phone)
    await tablet.open()
    await place.happen(phone.id)
    await until(lambda: tablet.live)
    spared = counts(place).spared
    await tablet.app.call("notification.read", upto=tablet.offset)
    await place.settled()
    assert (phone.pushed, tablet.pushed) == ([], [])
    assert counts(place).spared == spared + 1


async def test_read_while_it_is_being_pushed(place: Place) -> None:
    """It is looked again before each push: whoever reads it while one device is being pushed to hears nothing on the next."""
    phones = [await place.device()]
    phones.append(await place.other_device(phones[0]))
    tablet = await place.other_device(phones[0])
    await tablet.open()
    place.fcm.answering.clear()
    await place.happen(tablet.id)
    await until(lambda: sum(len(phone.pushed) for phone in phones) == 1)
    await tablet.app.call("notification.read", upto=1)
    place.fcm.answering.set()
    await place.settled()
    assert sum(len(phone.pushed) for phone in phones) == 1
    assert (tablet.pushed, len(tablet.live)) == ([], 1)


async def test_an_app_that_sleeps_behind_an_open_connection_is_pushed_to(place: Place) -> None:
    """That bytes were written to it does not mean that anybody was told: only what it says does."""
    ada = await place.device()
    await ada.open(acknowledges=False)
    await place.happen(ada.id)
    await until(lambda: ada.live)
    await place.settled()
    assert ada.pushed == ada.live


async def test_who_comes_back_is_told_what_was_pushed(place: Place) -> None:
    """The welcome says up to where: what is replayed is shown, and alerts nobody a second time."""
    ada = await place.device()
    for _ in range(3):
        await place.happen(ada.id)
    await place.settled()
    await ada.open(1)
    await until(lambda: ada.offset == 3)
    assert ada.app.welcome["person"]["pushed"] == 3
    assert (len(ada.pushed), ada.live) == (3, [])
    await place.happen(ada.id)
    await until(lambda: ada.live)
    await place.settled()
    assert (len(ada.pushed), len(ada.live)) == (3, 1)


async def test_the_same_again_is_not_pushed_again(place: Place) -> None:
    """Twenty reactions to one thing alert once; after it was read the next one does again."""
    ada = await place.device()
    thing = Thing(kind=ThingKind.VYBE, id=uuid4())
    doers = [(await place.town.member(f"Doer{number}")).id for number in range(3)]

    async def react(doer: UserId) -> None:
        new = NewNotice(user=ada.id, kind=NotificationKind.REACTION, thing=thing, actor=doer)
        async with place.pool.acquire() as connection, connection.transaction():
            place.node.person_events.publish(await notify(connection, [new]))

    await react(doers[0])
    await place.settled()
    await react(doers[1])
    await place.settled()
    assert len(ada.pushed) == 1
    await ada.open()
    await ada.app.call("notification.read", upto=2)
    await ada.close()
    await react(doers[2])
    await place.settled()
    assert len(ada.pushed) == 2


async def test_what_nobody_in_particular_did_is_news_each_time(place: Place) -> None:
    """A payment that fails is pushed although one that was made is unread still; it takes its place on the screen."""
    ada = await place.device()
    thing = Thing(kind=ThingKind.SUBSCRIPTION, id=ada.id)
    for outcome in ("paid", "payment_failed"):
        new = NewNotice(user=ada.id, kind=NotificationKind.PAYMENT, thing=thing, outcome=outcome)
        async with place.pool.acquire() as connection, connection.transaction():
            await notify(connection, [new])
        await place.settled()
    assert (len(ada.pushed), len(ada.phone.screen)) == (2, 1)
    (notice,) = await listed(ada)
    assert (notice["outcome"], notice["count"]) == ("payment_failed", 2)


@pytest.mark.parametrize("seed", range(2))
async def test_online_offline_and_flapping(place: Place, seed: int) -> None:
    """Whoever comes and goes at random is alerted to each notification exactly once, live or by a push, on each device."""
    choose = random.Random(seed)
    online, offline = await place.device("Online"), await place.device("Offline")
    flapping = [await place.device("Flapping")]
    flapping.append(await place.other_device(flapping[0]))
    await online.open(seed % 2)
    is_open = [False, False]
    for _ in range(12):
        await place.happen(online.id, offline.id, flapping[0].id)
        for place_of, device in enumerate(flapping):
            if choose.random() < 0.5:
                if is_open[place_of]:
                    await device.close()
                else:
                    await device.open(choose.randrange(2))
                is_open[place_of] = not is_open[place_of]
        await asyncio.sleep(choose.choice([0.0, WAIT / 4, WAIT * 1.2]))
    await place.settled()
    for place_of, device in enumerate(flapping):
        if not is_open[place_of]:
            await device.open()
        await until(lambda d=device: d.offset == 12)  # type: ignore[misc] # early bound
    happened = sorted(notice["id"] for notice in await listed(flapping[0]))
    assert [device.shown for device in flapping] == [happened, happened]
    assert (len(online.live), online.pushed) == (12, [])
    assert (len(offline.pushed), offline.live) == (12, [])


async def test_what_one_wants_to_be_told(place: Place) -> None:
    """A kind that is told live alone is not pushed; a push says who did it only if one wants that."""
    ada, bo = await place.device(), await place.town.member("Bo")
    await ada.open()
    await ada.app.call("notification.settings", settings={"ways": {"payment": "live"}, "names": True})
    await ada.close()
    await place.happen(ada.id, kind=NotificationKind.PAYMENT)
    thing = Thing(kind=ThingKind.VYBE, id=uuid4())
    async with place.pool.acquire() as connection, connection.transaction():
        await notify(
            connection,
            [NewNotice(user=ada.id, kind=NotificationKind.COMMENT, thing=thing, actor=bo.id)],
        )
    await place.settled()
    assert [alert.notification.body for alert, _ in ada.phone.alerts] == ["Bo"]


async def test_quiet_hours_are_kept(place: Place) -> None:
    """Nothing is pushed while they last, wherever one is; it waits, and what was read until then is not pushed."""
    ada = await place.device()
    await ada.open()
    zone = "Pacific/Chatham"
    minute = datetime.now(ZoneInfo(zone)).hour * 60
    quiet = {"start": minute, "end": (minute + 120) % 1440, "zone": zone}
    await ada.app.call("notification.settings", settings={"quiet": quiet})
    await ada.close()
    await place.happen(ada.id)
    waiting = "select run_at - now() > interval '50 minutes' from jobs where kind = 'notifications.push' and not running"
    await until(lambda: place.pool.fetchval(waiting))
    assert ada.pushed == []
    await ada.open(acknowledges=False)
    await place.happen(ada.id)
    await until(lambda: len(ada.live) == 2)
    await ada.app.call("notification.read", upto=1)
    await ada.close()
    await (await ada.member.come()).call("notification.settings", settings={})
    await place.settled()
    assert ada.pushed == ada.live[1:], "the one that was not read, and no later than one wants"


@pytest.mark.parametrize(
    ("zone", "now", "start", "end", "hours"),
    [
        ("UTC", "2026-01-10T12:00", 22 * 60, 7 * 60, 0),
        ("UTC", "2026-01-10T22:00", 22 * 60, 7 * 60, 9),
        ("UTC", "2026-01-10T06:00", 22 * 60, 7 * 60, 1),
        ("UTC", "2026-01-10T07:00", 22 * 60, 7 * 60, 0),
        ("UTC", "2026-01-10T13:00", 13 * 60, 14 * 60, 1),
        ("UTC", "2026-01-10T13:00", 13 * 60, 13 * 60, 0),
        ("Europe/Berlin", "2026-01-10T22:00", 22 * 60, 7 * 60, 8),
        ("Asia/Kolkata", "2026-01-10T18:30", 0, 60, 1),
        ("Europe/Berlin", "2026-03-28T22:00", 22 * 60, 7 * 60, 7),
        ("Europe/Berlin", "2026-10-24T21:00", 22 * 60, 7 * 60, 9),
        ("Nowhere/Land", "2026-01-10T22:00", 22 * 60, 7 * 60, 0),
    ],
    ids=[
        "day",
        "begins",
        "morning",
        "over",
        "noon",
        "none",
        "zone",
        "half hour",
        "spring",
        "autumn",
        "unknown",
    ],
)
def test_how_long_it_is_quiet(zone: str, now: str, start: int, end: int, hours: float) -> None:
    """By the clock of the place, over midnight and over the change of its time."""
    moment = datetime.fromisoformat(now).replace(tzinfo=ZoneInfo("UTC"))
    assert quiet_for(QuietHours(start=start, end=end, zone=zone), moment) == hours * 3600


async def test_a_device_that_is_gone(place: Place) -> None:
    """FCM does not know it any more: it is forgotten, and the others are pushed to."""
    phone = await place.device()
    tablet = await place.other_device(phone)
    place.fcm.uninstall(phone.phone)
    await place.happen(phone.id)
    await place.settled()
    assert len(tablet.pushed) == 1
    assert await place.pool.fetchval("select count(*) from push_devices where user_id = $1", phone.id) == 1


@pytest.mark.parametrize("how", ["signed out", "forgotten", "banned"])
async def test_a_device_that_is_not_theirs_any_more(place: Place, how: str) -> None:
    """It ends with its session: whoever holds the phone then is told nothing."""
    ada = await place.device()
    if how == "signed out":
        await place.pool.execute("update sessions set ended_at = now() where user_id = $1", ada.id)
    elif how == "banned":
        await place.pool.execute("update users set banned_at = now() where id = $1", ada.id)
    else:
        await ada.open()
        assert (await ada.app.call("device.forget"))["type"] == "device.forgotten"
        await ada.close()
    await place.happen(ada.id)
    await place.settled()
    assert ada.pushed == []
    await forget_devices(place.node, ForgetDevices(period=0))
    left = await place.pool.fetchval("select count(*) from push_devices where user_id = $1", ada.id)
    assert left == (1 if how == "banned" else 0)


async def test_another_one_signs_in_on_the_same_phone(place: Place) -> None:
    """A token is one device: who had it before is not pushed to on it any more."""
    ada, bo = await place.device(), await place.device("Bo")
    await bo.open()
    await bo.app.call("device.register", token=ada.phone.token)
    await bo.close()
    await place.happen(ada.id)
    await place.happen(bo.id)
    await place.settled()
    assert len(ada.phone.alerts) == 1
    assert bo.phone.alerts == []
    assert ada.pushed == [notice["id"] for notice in await listed(bo)]


async def test_tokens_are_sealed(place: Place) -> None:
    """Nobody who reads the database can push to anybody; the person finds it in what is theirs."""
    ada = await place.device()
    dump = await place.town.dump()
    assert ada.phone.token not in "\n".join(dump.values())
    assert str(ada.id) in dump["push_devices"]


async def test_fcm_is_away(place: Place) -> None:
    """Nobody's push is lost, none is sent twice, and nothing else waits for it."""
    ada = await place.device()
    place.fcm.status, place.fcm.error = 503, failing(503, "UNAVAILABLE")
    failed = counts(place).failed
    await place.happen(ada.id)
    await until(lambda: counts(place).failed > failed)
    assert (await listed(ada))[0]["kind"] == "reaction"
    place.fcm.status = 200
    await place.settled()
    assert len(ada.pushed) == 1


async def test_fcm_hangs(place: Place) -> None:
    """It has the push and does not say so: it is sent again, and the screen shows one."""
    ada = await place.device()
    place.fcm.answering.clear()
    for site in place.town.sites:
        assert site.node.push is not None
        site.node.push._outside.gate.seconds = 0.3
    failed = counts(place).failed
    await place.happen(ada.id)
    await until(lambda: counts(place).failed > failed)
    place.fcm.answering.set()
    await place.settled()
    assert len(ada.pushed) >= 2
    assert len(ada.phone.screen) == 1


async def test_what_is_a_day_old_is_no_news(place: Place) -> None:
    """It is found in the list."""
    ada = await place.device()
    thing = Thing(kind=ThingKind.VYBE, id=uuid4())
    async with place.pool.acquire() as connection, connection.transaction():
        await notify(connection, [NewNotice(user=ada.id, kind=NotificationKind.PAYMENT, thing=thing)])
        await connection.execute(
            "update notifications set created_at = now() - interval '25 hours' where user_id = $1", ada.id
        )
    await place.settled()
    assert (ada.pushed, len(await listed(ada))) == ([], 1)


async def test_where_nothing_is_pushed(servers: Servers) -> None:
    """Without a service account a device is told so, and jobs end."""
    async with town(await servers.settings(), 1) as quiet:
        ada = await quiet.member("Ada")
        visitor = await ada.come()
        answer = await visitor.call("device.register", token="a-token-of-some-device")
        assert answer["pushes"] is False
        thing = Thing(kind=ThingKind.VYBE, id=uuid4())
        async with quiet.pool.acquire() as connection, connection.transaction():
            await notify(connection, [NewNotice(user=ada.id, kind=NotificationKind.PAYMENT, thing=thing)])
        await quiet.cleared("notifications.push")


def counts(place: Place) -> Any:
    """Add up what became of pushes on both nodes."""
    both = [site.node.pushes for site in place.town.sites]
    return pushing.PushCounts(
        sent=sum(one.sent for one in both),
        failed=sum(one.failed for one in both),
        spared=sum(one.spared for one in both),
        devices_lost=sum(one.devices_lost for one in both),
    )


async def listed(device: Device) -> list[Message]:
    """List somebody's notifications, on a device of its own."""
    visitor = await device.member.come()
    return list((await visitor.call("notification.list"))["notifications"])
