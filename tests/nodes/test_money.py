"""Money, while nodes are killed: what was paid counts everywhere at once, and nothing is said before it is committed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import httpx2
import pytest

from protocol.envelope import RoomId
from server.gateways.standin import deliveries as sending
from server.gateways.standin.ledger import Object
from server.gateways.standin.standin import StandIn, Trouble, serving
from tests.commands import looprooms
from tests.gateways.standin.booth import KEY, Booth
from tests.hosting import SIGNING_KEY, make_room
from tests.nodes.cluster import Account, Cluster, NodeProcess
from tests.nodes.raw import Message, RawConnection, open_raw
from tests.stores import SEALING_KEY
from tests.waiting import until

pytestmark = [pytest.mark.nodes, pytest.mark.patient, pytest.mark.timeout(120)]

SOON = 1.0
SECRET = "whsec_nodes"


class Till:
    """A stand-in that nodes are paid by, and people who are in a premium room."""

    def __init__(self, cluster: Cluster, booth: Booth) -> None:
        self.cluster = cluster
        self.booth = booth
        self.stand_in = booth.stand_in
        self.deliveries = booth.stand_in.deliveries
        self.deliveries.held = None

    async def start(self, count: int, **settings: object) -> list[NodeProcess]:
        """Launch nodes; webhooks go to the first."""
        paid = {
            "stripe_secret_key": KEY,
            "stripe_webhook_secret": SECRET,
            "stripe_api_base": self.stand_in.base,
            "stripe_timeout_seconds": 2,
            "trial_days": 0,
            "public_url": "http://127.0.0.1:8000",
        }
        nodes = await self.cluster.start(count, **paid, **settings)
        self.goes_to(nodes[0])
        return nodes

    def goes_to(self, node: NodeProcess) -> None:
        """Send webhooks to a node from now on."""
        self.deliveries.url = f"http://127.0.0.1:{node.port}/payments/webhook"

    async def room(self, preview: int) -> RoomId:
        """Make a premium room."""
        async with asyncpg.create_pool(self.cluster.database_url, min_size=1, max_size=1) as pool:
            return await make_room(pool, "premium", preview=preview)

    async def buys(self, account: Account) -> Object:
        """Let somebody subscribe, past our own checkout."""
        return await self.booth.subscribed(
            **{"subscription_data[metadata][looprooms_user]": str(account.user)}
        )

    async def settle(self) -> int:
        """Wait until all that has happened was taken, as often as it is sent; return how much it is."""
        happened = len(list(self.stand_in.ledger.all("event")))
        await until(lambda: len(self.deliveries.taken) == happened * self.deliveries.copies, 10.0)
        return happened

    async def taken(self) -> set[str]:
        """Return the events whose effect is committed."""
        async with self.cluster.connection() as connection:
            return {row["id"] for row in await connection.fetch("select id from payment_events")}

    async def tiers(self) -> dict[str, int]:
        """Count people by tier."""
        async with self.cluster.connection() as connection:
            rows = await connection.fetch("select tier::text, count(*) from users group by 1")
        return {row["tier"]: row["count"] for row in rows}

    async def ask(self, node: NodeProcess, account: Account, path: str, **body: str) -> httpx2.Response:
        """Ask a node over HTTP. Raises `httpx2.HTTPError` when it dies meanwhile."""
        async with httpx2.AsyncClient(trust_env=False, timeout=10) as client:
            return await client.post(
                f"http://127.0.0.1:{node.port}{path}",
                json=body,
                headers={"authorization": f"Bearer {account.token}"},
            )


@pytest.fixture
async def till(cluster: Cluster) -> AsyncIterator[Till]:
    """Run a stand-in, and no nodes yet."""
    async with opened(cluster) as one:
        yield one


@asynccontextmanager
async def opened(cluster: Cluster) -> AsyncIterator[Till]:
    """See `till`."""
    pretend = StandIn("http://127.0.0.1:9/nobody", key=KEY, secret=SECRET)
    async with (
        serving(pretend, alive=False) as stand_in,
        httpx2.AsyncClient(base_url=stand_in.base, trust_env=False) as client,
    ):
        yield Till(cluster, Booth(stand_in, client))


class Seat:
    """A connection in a premium room, and what it was told."""

    def __init__(self) -> None:
        self.heard: list[Message] = []
        self.connection: RawConnection
        self.preview: float | None = None

    def told(self, kind: str) -> list[Message]:
        """Return the messages of a kind."""
        return [message for message in self.heard if message["type"] == kind]


async def sit(account: Account, node: NodeProcess, room: RoomId) -> Seat:
    """Connect somebody, and let them enter."""
    seat = Seat()
    seat.connection = await open_raw(node.port, seat.heard.append)
    assert (await seat.connection.call("hello", token=account.token))["type"] == "welcome"
    joined = await seat.connection.call("room.join", room=str(room))
    assert joined["type"] == "room.joined", joined
    seat.preview = joined.get("preview_ends_in")
    return seat


async def test_what_is_paid_counts_on_every_connection(till: Till) -> None:
    """A premium room opens in place on both nodes within a second of the commit, and is left within a second of the end."""
    nodes = await till.start(2)
    room = await till.room(preview=600)
    person, other = await till.cluster.accounts(["person", "other"])
    seats = [await sit(person, node, room) for node in nodes for _ in range(2)]
    others = [await sit(other, node, room) for node in nodes]
    assert all(seat.preview is not None for seat in (*seats, *others))
    till.deliveries.copies = 3
    subscription = await till.buys(person)
    await until(lambda: till.deliveries.taken)
    for seat in seats:
        await until(lambda seat=seat: seat.told("room.unlocked"), SOON)  # type: ignore[misc]
        changed = [one["subscription"] for one in seat.told("subscription.changed")]
        assert changed[-1]["tier"] == "PREMIUM_MONTHLY"
    await till.settle()
    till.deliveries.taken.clear()
    till.goes_to(nodes[1])
    till.stand_in.ledger.skipped += 5
    till.stand_in.billing.cancel(subscription)
    await until(lambda: till.deliveries.taken)
    for seat in seats:
        await until(lambda seat=seat: seat.told("room.departure"), SOON)  # type: ignore[misc]
        (left,) = seat.told("room.departure")
        assert (left["code"], left["pay"].endswith("/pay")) == ("subscription_ended", True)
        offsets = [one["person_offset"] for one in seat.heard if "person_offset" in one]
        assert offsets == list(range(1, len(offsets) + 1))
        assert len(seat.told("subscription.changed")) == 2
    for seat in others:
        assert [*seat.told("subscription.changed"), *seat.told("room.departure")] == []
    assert till.cluster.complaints() == []


async def test_without_redis_it_counts_all_the_same(till: Till) -> None:
    """The node that is told acts at once, the other within 30 seconds."""
    nodes = await till.start(2)
    room = await till.room(preview=600)
    (person,) = await till.cluster.accounts(["person"])
    here, there = [await sit(person, node, room) for node in nodes]
    till.cluster.valkey.kill()
    await till.buys(person)
    await until(lambda: till.deliveries.taken, 10.0)
    await until(lambda: here.told("room.unlocked"), SOON)
    began = time.monotonic()
    await until(lambda: there.told("room.unlocked"), 30.0)
    print(f"found after {time.monotonic() - began:.1f} s")


async def storm(till: Till, seed: int, *, kills: int, **settings: object) -> None:
    """Let many people subscribe and some of them end it while the node that is told is killed again and again.

    After each death: whatever was answered with 2xx is committed.
    """
    choose = random.Random(seed)
    (node,) = await till.start(1, **settings)
    accounts = await till.cluster.accounts([f"person {number}" for number in range(30)])
    subscriptions: list[Object] = []

    async def live() -> None:
        for account in accounts:
            subscriptions.append(await till.buys(account))
            await asyncio.sleep(choose.uniform(0, 0.1))
        till.stand_in.ledger.skipped += 5
        for subscription in subscriptions[::2]:
            till.stand_in.billing.cancel(subscription)
            await asyncio.sleep(choose.uniform(0, 0.1))

    living = asyncio.create_task(live())
    try:
        for _ in range(kills):
            before = len(till.deliveries.taken)
            await until(lambda before=before: len(till.deliveries.taken) > before + 5, 20.0)  # type: ignore[misc]
            await asyncio.sleep(choose.uniform(0, 0.2))
            node.kill()
            said = set(till.deliveries.taken)
            assert said - await till.taken() == set(), "said before the commit"
            node.launch()
            await node.ready()
        await living
    finally:
        living.cancel()
    events = {event["id"] for event in till.stand_in.ledger.all("event")}
    await until(lambda: events <= set(till.deliveries.taken), 30.0)
    assert events <= await till.taken()


async def test_killed_at_any_point_nothing_is_said_before_its_commit(
    till: Till, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was taken is there, what was not comes again; in the end everybody stands as they should, and was told each step once."""
    monkeypatch.setattr(sending, "PAUSES", (0.1,))
    await storm(till, seed, kills=5)
    assert await till.tiers() == {"FREE": 15, "PREMIUM_MONTHLY": 15}
    async with till.cluster.connection() as connection:
        rows = await connection.fetch(
            'select user_id, array_agg("offset" order by "offset") as offsets from person_events group by 1'
        )
    assert len(rows) == 30
    assert all(row["offsets"] == list(range(1, len(row["offsets"]) + 1)) for row in rows)
    assert till.cluster.complaints() == []


async def test_a_word_before_the_commit_is_found(
    till: Till, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative twin: a node that answers first and commits afterwards."""
    monkeypatch.setattr(sending, "PAUSES", (0.1,))
    with pytest.raises(AssertionError, match="said before the commit"):
        await storm(till, seed, kills=5, bug="early-word")


@pytest.mark.parametrize("path", ["/v1/customers", "/v1/prices", "/v1/checkout/sessions"])
async def test_a_call_that_succeeded_before_a_death_made_one(till: Till, path: str) -> None:
    """The provider did it, the node died before it heard; asked again, elsewhere, there is one of everything."""
    nodes = await till.start(2)
    (person,) = await till.cluster.accounts(["person"])
    till.stand_in.trouble.append(Trouble("mute", path))
    wanted = {"tier": "PREMIUM_YEARLY", "key": "one"}
    asking = asyncio.create_task(till.ask(nodes[0], person, "/payments/checkout", **wanted))
    await until(lambda: not till.stand_in.trouble, 10.0)
    nodes[0].kill()
    with pytest.raises(httpx2.HTTPError):
        await asking
    first = await till.ask(nodes[1], person, "/payments/checkout", **wanted)
    again = await till.ask(nodes[1], person, "/payments/checkout", **wanted)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    for kind in ("customer", "product", "price", "checkout.session"):
        assert len(list(till.stand_in.ledger.all(kind))) == 1, kind


async def test_whichever_node_is_left_ends_what_has_ended(till: Till) -> None:
    """At the end of the period, without a word of the provider, although the node that was told of it is dead."""
    nodes = await till.start(2)
    room = await till.room(preview=0)
    (person,) = await till.cluster.accounts(["person"])
    subscription = await till.buys(person)
    await till.settle()
    seat = await sit(person, nodes[1], room)
    ends = int(time.time()) + 4
    subscription["items"]["data"][0]["current_period_end"] = ends
    till.stand_in.ledger.skipped += 5
    till.stand_in.billing.cancel_at_end(subscription, cancel=True)
    await till.settle()
    till.deliveries.lost = True
    nodes[0].kill()
    await until(lambda: seat.told("room.departure"), 8.0)
    late = time.time() - ends
    (left,) = seat.told("room.departure")
    assert left["code"] == "subscription_ended"
    assert late >= 0
    print(f"ended {late:.2f} s after its end")


async def test_a_preview_survives_the_death_of_its_node(till: Till) -> None:
    """The seconds that one was there are counted, although nobody could say goodbye."""
    nodes = await till.start(2)
    room = await till.room(preview=60)
    (person,) = await till.cluster.accounts(["person"])
    before = time.monotonic()
    await sit(person, nodes[0], room)
    joined = time.monotonic()
    await asyncio.sleep(6.5)  # longer than a report takes to come
    nodes[0].kill()
    least = time.monotonic() - joined
    seat = await sit(person, nodes[1], room)
    most = time.monotonic() - before
    assert seat.preview is not None
    assert 60 - most - 0.2 <= seat.preview <= 60 - least + 0.2


async def reconciled(till: Till, **more: str) -> tuple[int, str]:
    """Run the command beside the nodes; return how it ended and what it said."""
    environment = {
        "DATABASE_URL": till.cluster.database_url,
        "REDIS_URL": till.cluster.valkey.url,
        "LOOPROOMS_SIGNING_KEYS": SIGNING_KEY,
        "LOOPROOMS_SEALING_KEYS": SEALING_KEY,
        "LOOPROOMS_LOG_LEVEL": "error",
        **more,
    }
    done = await asyncio.to_thread(looprooms, till.cluster.folder, "payments", "reconcile", **environment)
    return done.returncode, (done.stdout + done.stderr).strip()


async def test_the_command_repairs_what_was_lost(till: Till) -> None:
    """Beside running nodes, whose people are told at once; where nothing is paid it says so."""
    (node,) = await till.start(1)
    room = await till.room(preview=600)
    (person,) = await till.cluster.accounts(["person"])
    seat = await sit(person, node, room)
    till.deliveries.lost = True
    await till.buys(person)
    happened = len(list(till.stand_in.ledger.all("event")))
    paid = {
        "LOOPROOMS_STRIPE_SECRET_KEY": KEY,
        "LOOPROOMS_STRIPE_WEBHOOK_SECRET": SECRET,
        "LOOPROOMS_STRIPE_API_BASE": till.stand_in.base,
    }
    assert await reconciled(till, **paid) == (
        0,
        f"{happened} events were missed, 1 subscriptions looked at, 1 people stand anew.",
    )
    await until(lambda: seat.told("room.unlocked"))
    assert (await reconciled(till, **paid))[1].startswith("0 events were missed")
    till.stand_in.trouble.append(Trouble("fail", times=9))
    status, said = await reconciled(till, **paid)
    assert (status, said.splitlines()[-1].partition(":")[0]) == (2, "It is not finished")
    assert await reconciled(till) == (2, "Nothing is paid here: LOOPROOMS_STRIPE_SECRET_KEY is not set.")
