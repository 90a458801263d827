"""Presence in Redis: who is where, per node and under a lease, and what nodes tell each other about it.

Nothing here is durable: every node can write all that it knows anew, and does so whenever Redis has lost it.

=====================  =====================================================================================
``lr:{R}:here:N``      hash: user id -> `Entry` of each person whom node N has in room R, and `SEQUENCE`
``lr:{R}:nodes``       hash: node id -> sequence of each node that has somebody in room R
``lr:node:N``          the lease of node N: as long as it lives, what N wrote is believed
``lr:{R}:events``      the channel of room R, on which the changes below travel between durable events
=====================  =====================================================================================

A node numbers what it writes of a room and tells others only after it is written, so a reader that misses a number can read
the hash and is at least as new. Numbers only grow, also over restarts: they start from the time of day.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final

import msgspec
from msgspec import Struct

from protocol.envelope import Milliseconds, Person, RoomId, UserId
from protocol.reactions import Reaction, Reactor
from storage.redis.pool import Command, Redis, Value, delete, evaluate, expire, hdel, hgetall, hset, put
from storage.redis.publications import Kind, Packet

KEPT: Final = 3600.0
"""Seconds that what nobody renews stays in Redis: the hashes of a node that died with the last person of a room."""

SEQUENCE: Final = b"sequence"
"""The field of a node's hash that says how new it is."""

_REPLACE: Final = files("storage.redis").joinpath("presence.lua").read_text("utf-8")


class Entry(Struct, array_like=True, frozen=True, gc=False):
    """A person whom a node has in a room. `level` is 0 for one who has set none; `level_at` says when it was set.

    `behind` is who is behind a pseudonym: sealed, so that only nodes can tell.
    """

    person: Person
    level: int = 0
    level_at: Milliseconds = 0
    behind: bytes = b""


class Shift(Struct, tag="shift", array_like=True, frozen=True):
    """Who came to a node, changed there, or went. `closed`: this node has nobody in the room any more."""

    node: bytes
    sequence: int
    entries: list[Entry] = []
    gone: list[UserId] = []
    closed: bool = False


class Farewell(Struct, tag="farewell", array_like=True, frozen=True):
    """A node stops. Those whom it had are given the time that anyone who drops is given."""

    node: bytes


class Writing(Struct, tag="writing", array_like=True, frozen=True):
    """Who is writing, and who no longer is."""

    started: list[UserId] = []
    stopped: list[UserId] = []


class Count(Struct, array_like=True, frozen=True):
    """How many reactions of a kind a commit added (may be negative), and the total as of `revision`."""

    kind: Reaction
    added: int
    total: int
    revision: int


class Reacted(Struct, tag="reacted", array_like=True, frozen=True):
    """What one commit of reactions changed in a room; a few of those who reacted, or took it back."""

    counts: list[Count]
    reactors: list[Reactor] = []
    withdrawn: list[Reactor] = []


Change = Shift | Farewell | Writing | Reacted

_encode_change = msgspec.msgpack.Encoder().encode
_decode_change: Callable[[bytes], Change] = msgspec.msgpack.Decoder(Change).decode
_encode_entry = msgspec.json.Encoder().encode
_decode_entry = msgspec.json.Decoder(Entry).decode


def packet(change: Change) -> Packet:
    """Return `change` as it travels on a room's channel: for nodes, not for clients."""
    return Packet(Kind.CHANGE, 0, _encode_change(change), b"")


def read_change(payload: bytes) -> Change:
    """Read the payload of a change. Raises `msgspec.MsgspecError`."""
    return _decode_change(payload)


class Roster(Struct, frozen=True):
    """Everyone whom a node has in a room, as of `sequence`."""

    sequence: int
    entries: list[Entry]


class Write(Struct):
    """What is to be written of one room. `anew`: `entries` are all there are, whatever is there. `closed`: nothing is left."""

    room: RoomId
    sequence: int
    entries: Sequence[Entry] = ()
    gone: Sequence[UserId] = ()
    anew: bool = False
    closed: bool = False


async def write_rosters(redis: Redis, node: bytes, writes: Iterable[Write]) -> None:
    """Write what changed at `node`, in one round trip. Raises `RedisAway`; then anything may have been written or not.

    In each room those who went go first and the sequence comes last: who reads in between gets an older sequence, and the
    change that follows makes good what is missing. What is written anew is replaced at one moment.
    """
    commands: list[Command[Any]] = []
    for write in writes:
        here, nodes = _here(write.room, node), _nodes(write.room)
        if write.closed:
            commands += (hdel(nodes, node.hex()), delete(here))
            continue
        fields: dict[str, Value] = {str(entry.person.id): _encode_entry(entry) for entry in write.entries}
        if write.anew:
            flat = [part for pair in fields.items() for part in pair]
            commands.append(evaluate(_REPLACE, [here], [SEQUENCE, write.sequence, *flat]))
        else:
            if write.gone:
                commands.append(hdel(here, *map(str, write.gone)))
            commands.append(hset(here, fields | {SEQUENCE.decode(): write.sequence}))
        commands.append(hset(nodes, {node.hex(): write.sequence}))
        commands += _keep(write.room, node)
    await redis.run_all(commands)


async def keep_rosters(redis: Redis, node: bytes, rooms: Iterable[RoomId]) -> None:
    """Let what `node` wrote of `rooms` live on. Raises `RedisAway`."""
    await redis.run_all([command for room in rooms for command in _keep(room, node)])


async def forget_node(redis: Redis, node: bytes, rooms: Iterable[RoomId]) -> None:
    """Remove what a dead node left in `rooms`. Raises `RedisAway`."""
    commands = [hdel(_nodes(room), node.hex()) for room in rooms]
    commands += [delete(_here(room, node)) for room in rooms]
    await redis.run_all(commands)


async def read_nodes(redis: Redis, rooms: Sequence[RoomId]) -> dict[RoomId, dict[bytes, int]]:
    """Return, for each room, which nodes have somebody there and the sequence of each. Raises `RedisAway`."""
    found = await redis.run_all([hgetall(_nodes(room)) for room in rooms])
    return {
        room: {bytes.fromhex(node.decode()): int(sequence) for node, sequence in nodes.items()}
        for room, nodes in zip(rooms, found, strict=True)
    }


async def read_rosters(
    redis: Redis, wanted: Sequence[tuple[RoomId, bytes]]
) -> dict[tuple[RoomId, bytes], Roster | None]:
    """Return what each of the nodes has in the room; None where it has written nothing. Raises `RedisAway`."""
    found = await redis.run_all([hgetall(_here(room, node)) for room, node in wanted])
    return {key: _roster(fields) for key, fields in zip(wanted, found, strict=True)}


async def take_lease(redis: Redis, node: bytes, seconds: float) -> None:
    """Be believed for `seconds` from now. Raises `RedisAway`."""
    await redis.run(put(_lease(node), b"", px=int(seconds * 1000)))


async def renew_lease(redis: Redis, node: bytes, seconds: float) -> bool:
    """Be believed for `seconds` from now, if the lease is still there. Raises `RedisAway`."""
    return await redis.run(expire(_lease(node), int(seconds * 1000)))


async def end_lease(redis: Redis, node: bytes) -> None:
    """Be believed no longer. Raises `RedisAway`."""
    await redis.run(delete(_lease(node)))


async def leased(redis: Redis, nodes: Sequence[bytes]) -> set[bytes]:
    """Return those of `nodes` whose lease lives. Raises `RedisAway`."""
    found = await redis.run_all([Command(("EXISTS", _lease(node)), bool) for node in nodes])
    return {node for node, lives in zip(nodes, found, strict=True) if lives}


def _keep(room: RoomId, node: bytes) -> list[Command[bool]]:
    return [expire(key, int(KEPT * 1000)) for key in (_here(room, node), _nodes(room))]


def _roster(fields: Mapping[bytes, bytes]) -> Roster | None:
    sequence = fields.get(SEQUENCE)
    if sequence is None:
        return None
    return Roster(int(sequence), [_decode_entry(value) for name, value in fields.items() if name != SEQUENCE])


def _here(room: RoomId, node: bytes) -> str:
    return f"lr:{{{room}}}:here:{node.hex()}"


def _nodes(room: RoomId) -> str:
    return f"lr:{{{room}}}:nodes"


def _lease(node: bytes) -> str:
    return f"lr:node:{node.hex()}"
