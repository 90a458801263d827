"""Links that are mailed: each proves that its mailbox was read, for one purpose, once, and for a while.

The part of a link that counts is 256 random bits, of which the hash alone is stored. It is made when the mail is written, so it
stands in no job; a mail that is written again has another one, and both are good until one of them is used.
"""

from __future__ import annotations

import hashlib
import secrets
from enum import StrEnum
from typing import Final
from uuid import UUID

from protocol.envelope import UserId
from protocol.refusals import ErrorCode, Refused
from storage.personal import Part
from storage.postgres.pool import Connection, Pool, answering

_HOUR: Final = 3600.0
_DAY: Final = 24 * _HOUR


class Purpose(StrEnum):
    """What a link is for, and of what: a person, a change of address, an entry of the waitlist."""

    VERIFY = "VERIFY"
    RESET = "RESET"
    CHANGE = "CHANGE"
    UNDO = "UNDO"
    WAITLIST = "WAITLIST"
    INVITATION = "INVITATION"


LIFETIMES: Final = {
    Purpose.VERIFY: 3 * _DAY,
    Purpose.RESET: _HOUR,
    Purpose.CHANGE: _DAY,
    Purpose.UNDO: 7 * _DAY,
    Purpose.WAITLIST: 7 * _DAY,
    Purpose.INVITATION: 30 * _DAY,
}
"""Seconds that a link is good for, as its letter says."""

PARTS = (
    Part(
        name="mailed_links",
        columns=("mailed_links.user_id",),
        rows="select purpose::text, expires_at from mailed_links where user_id = $1 order by expires_at, hash",
    ),
)

MAKE_LINK = """
insert into mailed_links (hash, purpose, user_id, change_id, entry_id, expires_at)
values ($1, $2::link_purpose, $3, $4, $5, now() + make_interval(secs => $6))
"""

FIND_LINK = """
select coalesce(user_id, change_id, entry_id) from mailed_links
where hash = $1 and purpose = $2::link_purpose and expires_at > now()
"""

USE_LINK = """
delete from mailed_links
where hash = $1 and purpose = $2::link_purpose and expires_at > now()
returning coalesce(user_id, change_id, entry_id)
"""

VOID_LINKS = """
delete from mailed_links where user_id = $1 and purpose = any($2::link_purpose[])
"""

FORGET_LINKS = """
delete from mailed_links where expires_at < now()
"""


async def make_link(
    connection: Connection,
    purpose: Purpose,
    *,
    user: UserId | None = None,
    change: UUID | None = None,
    entry: UUID | None = None,
) -> str:
    """Make a link of a person, a change of address, or an entry of the waitlist; return the part that counts."""
    token = secrets.token_urlsafe(32)
    await connection.execute(
        MAKE_LINK, link_hash(token), purpose.value, user, change, entry, LIFETIMES[purpose]
    )
    return token


async def subject_of_link(pool: Pool, purpose: Purpose, token: str) -> UUID:
    """Return what a link is of, without using it up. Raises `Refused` (link_invalid)."""
    async with answering(pool) as connection:
        found: UUID | None = await connection.fetchval(FIND_LINK, link_hash(token), purpose.value)
    if found is None:
        raise Refused(ErrorCode.LINK_INVALID)
    return found


async def use_link(connection: Connection, purpose: Purpose, token: str) -> UUID:
    """Use a link up, in the transaction of what it is good for; return what it was of. Raises `Refused` (link_invalid)."""
    found: UUID | None = await connection.fetchval(USE_LINK, link_hash(token), purpose.value)
    if found is None:
        raise Refused(ErrorCode.LINK_INVALID)
    return found


async def void_links(connection: Connection, user: UserId, *purposes: Purpose) -> None:
    """Make what was mailed to a person for these purposes worthless: their address or their password is another one now."""
    await connection.execute(VOID_LINKS, user, [purpose.value for purpose in purposes])


async def forget_links(pool: Pool) -> None:
    """Delete what has expired."""
    async with answering(pool) as connection:
        await connection.execute(FORGET_LINKS)


def link_hash(token: str) -> bytes:
    """Return what is stored of a link. It is random enough that a plain hash keeps it secret."""
    return hashlib.sha256(token.encode()).digest()
