"""A room under load: writers who retry what they don't know, readers who drop and come back anywhere, and one history."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Literal

from protocol.chat import ChatLine, ChatRemoval
from protocol.client import Backoff, CaughtUp, Client, Disconnected, Snapshot, connect
from protocol.envelope import RoomId
from protocol.refusals import Refused
from protocol.rooms import JoinRoom
from protocol.session import Drain
from tests.nodes.cluster import Account, Cluster, NodeProcess
from tests.nodes.history import History
from tests.nodes.raw import Gone, Message, RawConnection, open_raw
from tests.proxy import Proxy

CALM_SECONDS = 25.0
"""How long writers and readers have to come to rest after the last fault."""

REMOVED = 0.1
"""How many of their lines writers take back."""

RETRYABLE = {"unavailable", "busy", "internal_error", "rate_limited"}


class Reader:
    """Follows a room on any node with a raw connection; drops it by itself now and then when it is restless."""

    def __init__(self, name: str, traffic: Traffic, account: Account, *, restless: float = 0.0) -> None:
        self.name = name
        self.connection: RawConnection | None = None
        self.node: NodeProcess | None = None
        self.back: list[float] = []
        """Seconds that each return took, from the loss on."""
        self.drains: list[float] = []
        self.codes: list[int] = []
        self._traffic = traffic
        self._account = account
        self._restless = restless
        self._epoch = ""
        self._lost_at: float | None = None
        self._silent: list[RawConnection] = []
        self._random = random.Random(f"{traffic.seed}-{name}")
        self._ready = False

    @property
    def position(self) -> int:
        """How far this reader has come."""
        return self._traffic.history.position(self.name) if self._ready else -1

    async def run(self) -> None:
        """Follow the room until cancelled."""
        attempt = 0
        try:
            while True:
                try:
                    await self._once()
                    attempt = 0
                except (OSError, TimeoutError) as problem:
                    if isinstance(problem, Gone):
                        self.codes.append(problem.code)
                    if self._lost_at is None:
                        self._lost_at = time.monotonic()
                    if self.connection is not None:
                        attempt = 0
                    self._let_go()
                    attempt += 1
                    await asyncio.sleep(self._random.uniform(0.05, min(2.0, 0.3 * 2**attempt)))
        finally:
            self._let_go()
            for connection in self._silent:
                connection.transport.abort()

    def _let_go(self) -> None:
        if self.connection is not None:
            self.connection.transport.abort()
            self.connection = None

    async def _once(self) -> None:
        node = self._random.choice(self._traffic.nodes)
        connection = await open_raw(node.port, lambda message: self._heard(connection, message))
        try:
            await self._enter(connection)
        except BaseException:
            connection.transport.abort()
            raise
        self.connection, self.node = connection, node
        if self._lost_at is not None:
            self.back.append(time.monotonic() - self._lost_at)
            self._lost_at = None
        stay = self._random.expovariate(1 / self._restless) if self._restless else None
        await asyncio.wait({connection.gone}, timeout=stay)
        if connection.gone.done():
            raise connection.gone.result()
        self.connection = None
        self._lost_at = time.monotonic()
        self._drop(connection)

    async def _enter(self, connection: RawConnection) -> None:
        room, history = str(self._traffic.room), self._traffic.history
        resume = [{"room": room, "epoch": self._epoch, "offset": self.position}] if self._ready else []
        welcome = await connection.call("hello", token=self._account.token, resume=resume)
        if welcome["type"] != "welcome":
            raise Gone(1006, welcome["code"])
        if self._ready and "error" not in welcome["resumed"][0]:
            return
        joined = await connection.call("room.join", room=room)
        if joined["type"] != "room.joined":
            raise Gone(1006, joined["code"])
        self._epoch = joined["epoch"]
        assert self._ready or self.name not in history.seen

    def _heard(self, connection: RawConnection, message: Message) -> None:
        """Take what is pushed, and the welcome and the snapshot in their places among it."""
        history = self._traffic.history
        kind = message["type"]
        if kind in ("chat.line", "chat.removal"):
            if connection not in self._silent:
                history.saw(self.name, message["offset"], self._traffic.key_of(message))
        elif kind == "welcome":
            for result in message.get("resumed", ()):
                if "error" in result:
                    continue
                self._epoch = result["epoch"]
                if result["recovered"]:
                    history.resumed(self.name)
                else:
                    history.placed(self.name, result.get("offset", 0))
        elif kind == "room.joined":
            self._ready = True
            history.placed(self.name, message["offset"])
        elif kind == "session.drain":
            self.drains.append(message["reconnect_in"])

    def _drop(self, connection: RawConnection) -> None:
        how = self._random.randrange(4)
        self._silent.append(connection)  # whatever still arrives there is no longer looked at
        if how == 0:
            connection.leave()
        elif how == 1:
            connection.finish()
        elif how == 2:
            connection.reset()
        else:
            connection.vanish()
            if len(self._silent) > 3:
                self._silent.pop(0).transport.abort()


class Writer:
    """Says one line after the other on any node; sends one again with its key until it knows."""

    def __init__(self, name: str, traffic: Traffic, account: Account, pause: float) -> None:
        self.name = name
        self.errors: list[str] = []
        """Codes of refusals that came, retryable ones too."""
        self.slowest_refusal = 0.0
        self.latencies: list[float] = []
        """Seconds from each sending that was acknowledged to its answer."""
        self.node: NodeProcess | None = None
        self.stays_on: NodeProcess | None = None
        self._traffic = traffic
        self._account = account
        self._pause = pause
        self._random = random.Random(f"{traffic.seed}-{name}")
        self._connection: RawConnection | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Write until told to stop; what was begun is finished first."""
        try:
            for number in itertools.count(1):
                if stop.is_set():
                    return
                key = f"{self.name}-{number}"
                room = str(self._traffic.room)
                said = await self._until_known(key, "chat.send", room=room, text=key, key=key)
                if said is not None:
                    line = said["line"]["id"]
                    self._traffic.lines[line] = key
                    if self._random.random() < REMOVED:
                        await self._until_known(f"removal of {key}", "chat.remove", room=room, line=line)
                await asyncio.sleep(self._random.uniform(0, 2 * self._pause))
        finally:
            if self._connection is not None:
                self._connection.transport.abort()

    async def _until_known(self, key: str, kind: str, /, **fields: str) -> Message | None:
        """Send a command until its outcome is known; return the answer, None when it was refused for good."""
        doubtful = False
        self._traffic.history.sent(self.name, key, time.monotonic())
        while True:
            try:
                connection = await self._connected()
                began = time.monotonic()
                answer = await connection.call(kind, 6.0, **fields)
            except (OSError, TimeoutError):
                doubtful = True
                self._forget()
                await asyncio.sleep(self._random.uniform(0.05, 0.5))
                continue
            if answer["type"] != "error":
                self.latencies.append(time.monotonic() - began)
                self._traffic.history.acknowledged(key, answer["offset"], time.monotonic())
                return answer
            self.slowest_refusal = max(self.slowest_refusal, time.monotonic() - began)
            self.errors.append(answer["code"])
            if answer["code"] not in RETRYABLE:
                if not doubtful:
                    self._traffic.history.refused(key)
                return None
            doubtful = True
            await asyncio.sleep(min(1.0, answer.get("retry_after") or 0.1) * self._random.uniform(0.3, 1))

    async def _connected(self) -> RawConnection:
        if self._connection is not None and not self._connection.gone.done():
            return self._connection
        self.node = self.stays_on or self._random.choice(self._traffic.nodes)
        connection = await open_raw(self.node.port, lambda _: None)
        try:
            for kind, fields in (
                ("hello", {"token": self._account.token}),
                ("room.join", {"room": str(self._traffic.room)}),
            ):
                answer = await connection.call(kind, **fields)  # type: ignore[arg-type]
                if answer["type"] == "error":
                    raise Gone(1006, answer["code"])
        except BaseException:
            connection.transport.abort()
            raise
        self._connection = connection
        return connection

    def _forget(self) -> None:
        if self._connection is not None:
            self._connection.transport.abort()
            self._connection = None


class Member:
    """Somebody with the project's own client, who reads and writes, behind a proxy that leads to any node."""

    def __init__(self, number: int, traffic: Traffic, account: Account) -> None:
        self.name = name = f"m{number}"
        self._encoding: Literal["json", "msgpack"] = "msgpack" if number % 2 else "json"
        self._compressed = number % 4 > 1
        self.proxy = Proxy("127.0.0.1", traffic.nodes[0].port)
        self._traffic = traffic
        self._account = account
        self._random = random.Random(f"{traffic.seed}-{name}")
        self._numbers = itertools.count(1)

    async def run(self, stop: asyncio.Event) -> None:
        """Read until cancelled, write until told to stop."""
        await self.proxy.listen()
        leading = asyncio.create_task(self._lead())
        try:
            async with connect(
                f"ws://{self.proxy.address}/ws",
                token=self._account.token,
                encoding=self._encoding,
                compression=self._compressed,
                backoff=Backoff(0.1, 2.0, self._random.random),
                close_timeout=0.2,
                patience=3.0,
                open_timeout=20.0,
                call_timeout=8.0,
            ) as client:
                joined = await client.call(JoinRoom(str(self._traffic.room)), timeout=20.0)
                self._traffic.history.placed(self.name, joined.offset)
                writing = asyncio.create_task(self._write(client, stop))
                try:
                    await self._read(client)
                finally:
                    writing.cancel()
                    await asyncio.gather(writing, return_exceptions=True)
        finally:
            leading.cancel()
            await self.proxy.aclose()

    async def _lead(self) -> None:
        while True:
            node = self._random.choice(self._traffic.nodes)
            self.proxy.lead_to("127.0.0.1", node.port)
            await asyncio.sleep(0.2)

    async def _read(self, client: Client) -> None:
        history = self._traffic.history
        async for event in client:
            match event:
                case ChatLine():
                    key = event.line.text or self._traffic.lines[str(event.line.id)]
                    history.saw(self.name, event.offset, key)
                    self._traffic.lines.setdefault(str(event.line.id), key)
                case ChatRemoval():
                    key = self._traffic.lines[str(event.line)]
                    history.saw(self.name, event.offset, f"removal of {key}")
                case Snapshot():
                    history.placed(self.name, event.offset)
                case CaughtUp():
                    history.resumed(self.name)
                case Drain():
                    pass

    async def _write(self, client: Client, stop: asyncio.Event) -> None:
        history = self._traffic.history
        while not stop.is_set():
            key = f"{self.name}-{next(self._numbers)}"
            history.sent(self.name, key, time.monotonic())
            while True:
                try:
                    sent = await client.send_chat(str(self._traffic.room), key, key=key)
                except TimeoutError:
                    continue
                except Refused as refused:
                    if refused.code not in RETRYABLE and refused.code != "not_in_room":
                        raise
                    await asyncio.sleep(0.2)
                    continue
                except Disconnected:
                    return
                history.acknowledged(key, sent.offset, time.monotonic())
                break
            await asyncio.sleep(self._random.uniform(0, 0.2))


class Traffic:
    """Everyone in one room. Made by `under_load`."""

    def __init__(self, cluster: Cluster, room: RoomId, nodes: list[NodeProcess], seed: int) -> None:
        self.cluster = cluster
        self.room = room
        self.nodes = nodes
        """Where those who come back go; a test changes it when a balancer would."""
        self.seed = seed
        self.history = History()
        self.lines: dict[str, str] = {}
        """The keys of lines by their ids: of a line that was removed nothing else tells."""
        self.readers: list[Reader] = []
        self.writers: list[Writer] = []
        self.members: list[Member] = []
        self.stop = asyncio.Event()
        self._looker: Account | None = None
        self._reading: list[asyncio.Task[None]] = []
        self._writing: list[asyncio.Task[None]] = []

    @property
    def names(self) -> list[str]:
        """Whoever reads."""
        return [reader.name for reader in self.readers] + [member.name for member in self.members]

    async def begin(self, *, readers: int, restless: int, writers: int, members: int, pause: float) -> None:
        """Let everyone in; return when all readers follow and lines are acknowledged."""
        count = readers + restless + writers + members
        accounts = iter(await self.cluster.accounts(f"person {number}" for number in range(count)))
        for number in range(readers + restless):
            restlessness = 0.0 if number < readers else 1.0
            self.readers.append(Reader(f"r{number}", self, next(accounts), restless=restlessness))
        self.writers = [Writer(f"w{number}", self, next(accounts), pause) for number in range(writers)]
        self.members = [Member(number, self, next(accounts)) for number in range(members)]
        self._reading = [asyncio.create_task(reader.run()) for reader in self.readers]
        self._reading += [asyncio.create_task(member.run(self.stop)) for member in self.members]
        names = self.names
        await self.until(lambda: all(name in self.history.seen for name in names), 30.0)
        self._writing = [asyncio.create_task(writer.run(self.stop)) for writer in self.writers]
        await self.acknowledged(20)

    def key_of(self, event: Message) -> str:
        """Return the key by which the history knows a durable event."""
        if event["type"] == "chat.removal":
            return f"removal of {self.lines[event['line']]}"
        line = event["line"]
        return self.lines.setdefault(line["id"], line["text"]) if line["text"] else self.lines[line["id"]]

    async def acknowledged(self, more: int, within: float = 30.0) -> float:
        """Wait until so many more lines are acknowledged; return the seconds that it took."""
        goal = self.history.acknowledgements + more
        return await self.until(lambda: self.history.acknowledgements >= goal, within)

    async def everywhere(self, within: float) -> float:
        """Wait until every connected reader has seen a line that is said from now on; return the seconds that it took."""
        began = time.monotonic()
        await self.acknowledged(len(self.writers) + 1, within)
        goal = max(line.offset or 0 for line in self.history.sent_lines.values())
        await self.until(
            lambda: all(reader.position >= goal for reader in self.readers if reader.connection is not None),
            within,
        )
        return time.monotonic() - began

    async def online(self, node: NodeProcess) -> int:
        """Return how many people a node believes to be in the room, as somebody sees it who is there anyway."""
        if self._looker is None:
            (self._looker,) = await self.cluster.accounts(["looker"])
        connection = await open_raw(node.port, lambda _: None)
        try:
            await connection.call("hello", token=self._looker.token)
            joined = await connection.call("room.join", room=str(self.room))
            online: int = joined["online"]
            return online - 1
        finally:
            connection.leave()

    async def sees_exactly(self, count: int, nodes: Sequence[NodeProcess], within: float) -> float:
        """Wait until every one of `nodes` shows `count` people; return the seconds that it took."""
        began = time.monotonic()
        while True:
            shown = [await self.online(node) for node in nodes]
            if all(online == count for online in shown):
                return time.monotonic() - began
            assert time.monotonic() - began < within, (
                f"{shown} people are shown, not {count} (seed {self.seed})"
            )
            await asyncio.sleep(0.25)

    async def all_connected(self, within: float, *, on: NodeProcess | None = None) -> float:
        """Wait until every reader is connected (to the node `on`); return the seconds that it took."""
        return await self.until(
            lambda: all(
                reader.connection is not None
                and not reader.connection.gone.done()
                and (on is None or reader.node is on)
                for reader in self.readers
            ),
            within,
        )

    async def until(self, condition: Callable[[], object], within: float) -> float:
        """Wait until `condition` is true; return the seconds that it took. Fails with whoever failed, or after `within`."""
        began = time.monotonic()
        while not condition():
            for task in (*self._reading, *self._writing):
                if task.done() and not task.cancelled() and task.exception() is not None:
                    task.result()
            assert time.monotonic() - began < within, f"not true within {within} s (seed {self.seed})"
            await asyncio.sleep(0.01)
        return time.monotonic() - began

    async def finish(self, patience: float) -> list[tuple[int, str]]:
        """Let the writers finish and the readers catch up; return what is stored."""
        self.stop.set()
        if self._writing:
            _, unfinished = await asyncio.wait(self._writing, timeout=CALM_SECONDS)
            assert not unfinished, f"{len(unfinished)} writers never got an answer (seed {self.seed})"
        deadline = time.monotonic() + patience
        names = self.names
        while True:
            stored = await self.cluster.stored(self.room)
            last = stored[-1][0] if stored else 0
            if all(self.history.position(name) >= last for name in names) or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.1)
        for name in names:
            self.history.finish(name)
        return stored

    async def aclose(self) -> None:
        """End everything."""
        tasks = [*self._reading, *self._writing]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def under_load(
    cluster: Cluster,
    nodes: Sequence[NodeProcess],
    seed: int,
    *,
    readers: int = 8,
    restless: int = 6,
    writers: int = 4,
    members: int = 4,
    pause: float = 0.03,
    clean: bool = True,
    patience: float = CALM_SECONDS,
) -> AsyncIterator[Traffic]:
    """Put a room under load for the time of the block, then hold its history against the promises.

    With `clean` false the caller looks at ``traffic.history`` by itself. `patience` (seconds) is how long everyone has to come
    to rest.
    """
    traffic = Traffic(cluster, await cluster.room(), list(nodes), seed)
    try:
        await traffic.begin(readers=readers, restless=restless, writers=writers, members=members, pause=pause)
        yield traffic
        stored = await traffic.finish(patience)
        history = traffic.history
        print(
            f"seed {seed}: {history.acknowledgements} acknowledged, {len(stored)} stored, "
            f"{len(history.seen)} readers, {history.resumes} resumes, {history.snapshots} snapshots"
        )
        if clean:
            violations = history.violations(stored)
            assert not violations, f"seed {seed}:\n" + "\n".join(map(str, violations[:20]))
            assert not cluster.complaints(), "\n".join(cluster.complaints()[:3])
    finally:
        await traffic.aclose()
