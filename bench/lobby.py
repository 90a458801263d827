"""Who sits where: looprooms that anyone may enter, people for each of them, and those who speak there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from bench.accounts import Accounts
from bench.roomlog import Unexpected
from bench.swarm import Seat
from protocol.client import connect
from protocol.envelope import RoomId
from protocol.refusals import Refused
from protocol.rooms import ListRooms, Room

TOKEN_SECONDS = 300.0
"""How long a token must still live: longer than joining and measuring take."""
_PAGE = 100


class Seats(msgspec.Struct):
    """For each room the listeners and the authors."""

    listeners: list[list[Seat]]
    authors: list[list[Seat]]


def find_seats(
    url: str,
    accounts: Accounts,
    *,
    rooms: int,
    members: int,
    authors: int,
    host: tuple[str, str] | None,
    progress: Callable[[int], None],
) -> Seats:
    """Return seats for `members` in each of `rooms`, of whom `authors` speak. Raises `Unexpected`.

    Every member of a room is another person; the same people may be in several rooms. With a `host` (e-mail and password)
    the rooms are that person's, and it is they who speak, on `authors` connections.
    """
    authors = min(authors, members)
    host_token = accounts.sign_in(*host) if host is not None else None
    people = accounts.people(members if host is None else members - authors, TOKEN_SECONDS, progress)
    asking = host_token or people[0]
    found = asyncio.run(_open_rooms(url, asking, only_own=host is not None))
    if len(found) < rooms:
        raise Unexpected(f"there are {len(found)} looprooms that can be used here, not {rooms}")
    chosen = [room.slug for room in found[:rooms]]
    if host_token is not None:
        return Seats(
            [[Seat(token, room) for token in people] for room in chosen],
            [[Seat(host_token, room)] * authors for room in chosen],
        )
    return Seats(
        [[Seat(token, room) for token in people[authors:]] for room in chosen],
        [[Seat(token, room) for token in people[:authors]] for room in chosen],
    )


async def _open_rooms(url: str, token: str, *, only_own: bool) -> list[Room]:
    """Return the published rooms without a preview's end; of one's own only, if asked."""
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
    if only_own:
        return [room for room in found if room.host.id == me]
    return [room for room in found if not room.premium]
