"""Who sits where: looprooms that anyone may enter, people for each of them, and those who speak there."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import msgspec

from bench.roomlog import Unexpected
from bench.serving import database_url
from bench.tongue import Seat
from protocol.client import connect
from protocol.envelope import RoomId
from protocol.refusals import Refused
from protocol.rooms import GetRoom, ListRooms, Room

HOST = "maya@demo.looprooms.example"
"""Whose looprooms the testers' are, so that there is somebody who may give cues in them."""
_DEMO_ROOM = "morning-calm"
"""One of hers: addresses are sealed in the database, so she is found by what she hosts."""
_PAGE = 100

_ADD_ROOMS = """
insert into rooms (slug, title, description, category, host_id, status, content)
select 'bench-' || number, 'Bench ' || lpad(number::text, 5, '0'), '', 'wellness', (select host_id from rooms where slug = $2),
       'PUBLISHED', 'TEXT'
from generate_series(1, $1) number
on conflict (slug) do nothing
"""


class Seats(msgspec.Struct):
    """For each room the listeners and the authors."""

    listeners: list[list[Seat]]
    authors: list[list[Seat]]


def seated(
    rooms: list[str],
    people: list[str],
    *,
    authors: int,
    places: int,
    host: str | None = None,
    apart: bool = False,
) -> Seats:
    """Seat the same people (access tokens) in every room, at all places in turn; the authors at the first.

    With a `host` it is they who speak, on as many connections as there are authors. Rooms that are `apart` have a place each, in
    turn, at which everyone sits and speaks.
    """
    speakers = [host] * authors if host is not None else people[:authors]
    others = people if host is not None else people[authors:]
    if apart:
        at = [(room, number % places) for number, room in enumerate(rooms)]
        return Seats(
            [[Seat(token, room, place) for token in others] for room, place in at],
            [[Seat(token, room, place) for token in speakers] for room, place in at],
        )
    return Seats(
        [[Seat(token, room, index % places) for index, token in enumerate(others)] for room in rooms],
        [[Seat(token, room) for token in speakers] for room in rooms],
    )


async def add_rooms(data: Path, count: int) -> list[str]:
    """Make looprooms in the database of a server that was started here, unless they are there; return their slugs.

    They belong to the demo's host. Written as SQL, so that a thousand rooms need no thousand commands.
    """
    try:
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(database_url(data))
        try:
            await connection.execute(_ADD_ROOMS, count, _DEMO_ROOM)
        finally:
            await connection.close()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Unexpected(f"the looprooms of the testers can't be made: {error}") from error
    return [f"bench-{number}" for number in range(1, count + 1)]


async def open_rooms(url: str, token: str, *, only_own: bool) -> list[str]:
    """Return the slugs of the published rooms without a preview's end; of one's own only, if asked."""
    found: list[Room] = []
    after: RoomId | None = None
    try:
        async with connect(url, token=token) as client:
            while True:
                page = await client.call(ListRooms(limit=_PAGE, after=after))
                found += page.rooms
                after = page.next
                if after is None:
                    break
            me = client.user.id
    except (OSError, Refused) as error:
        raise Unexpected(f"{url} did not list its looprooms: {error}") from error
    return [room.slug for room in found if (room.host.id == me if only_own else not room.premium)]


async def room_id(url: str, token: str, slug: str) -> RoomId:
    """Return the id of a room. Raises `Unexpected`."""
    try:
        async with connect(url, token=token) as client:
            return (await client.call(GetRoom(slug))).room.id
    except (OSError, Refused) as error:
        raise Unexpected(f"{url} does not know the looproom {slug}: {error}") from error
