"""Passwords that are forgotten, and those that are changed. What follows - a letter, the end of sessions - is in the same commit."""

from __future__ import annotations

from base64 import b64decode, b64encode
from uuid import UUID, uuid4

from protocol.envelope import SessionId, UserId
from protocol.refusals import ErrorCode, Refused
from storage.emails import PROVE, Addressee, Identity, candidates, lock_identity, open_link, proving
from storage.jobs import Job, enqueue
from storage.links import Purpose, make_link, void_links
from storage.people import SET_HASH
from storage.postgres.pool import Pool, answering
from storage.sealing import Sealer
from storage.session import DROP_REQUESTS, END_SESSIONS

_ASKED_FOR = "jobs.payload"
"""Where the address of somebody who has forgotten a password is sealed; the row is what was asked."""


class Forgotten(Job, tag="letters.forgotten"):
    """Somebody at this address, which is sealed for the job, has forgotten a password."""

    id: UUID
    sealed: str


class PasswordSet(Job, tag="letters.password"):
    """A person has another password, and is told."""

    user: UUID


async def ask_for_reset(pool: Pool, sealer: Sealer, email: str) -> None:
    """Have a letter sent to `email` (normalised), whether anybody has that address or not: to ask takes the same either way.

    While one waits to be sent there is no second one.
    """
    asked = uuid4()
    sealed = b64encode(sealer.seal(_ASKED_FOR, asked, email)).decode()
    async with answering(pool) as connection:
        await enqueue(connection, Forgotten(id=asked, sealed=sealed), key=_key(sealer, email))


def _key(sealer: Sealer, email: str) -> str:
    """Tell those who have forgotten a password apart, by what matches the index of no table."""
    return sealer.index("forgotten", email).hex()


async def forgotten(pool: Pool, sealer: Sealer, asked: Forgotten) -> Addressee:
    """Prepare the letter to somebody who has forgotten a password: without a token when nobody has the address."""
    email = sealer.open(_ASKED_FOR, asked.id, b64decode(asked.sealed))
    proven, claiming = await candidates(pool, sealer, email)
    found = proven or claiming
    if found is None:
        return Addressee(email)
    return await reset_link(pool, sealer, found.account.id) or Addressee(email)


async def reset_link(pool: Pool, sealer: Sealer, user: UserId) -> Addressee | None:
    """Prepare a letter with which a person gets a new password. None when they sign in without one."""
    async with answering(pool) as connection, connection.transaction():
        identity = await lock_identity(connection, sealer, user)
        if identity is None:
            return None
        return Addressee(identity.email, await make_link(connection, Purpose.RESET, user=user))


async def identity_of(pool: Pool, sealer: Sealer, user: UserId) -> Identity | None:
    """Return how a person signs in with a password. None when they don't."""
    async with answering(pool) as connection, connection.transaction():
        return await lock_identity(connection, sealer, user)


async def reset_password(pool: Pool, sealer: Sealer, token: str, password_hash: str) -> UserId:
    """Give the person that a link is of a new password, prove their address by the way, and end all their sessions.

    Raises `Refused`: link_invalid, email_taken.
    """
    async with proving(pool) as connection:
        identity, _ = await open_link(connection, sealer, Purpose.RESET, token)
        user = identity.account.id
        await connection.execute(SET_HASH, user, password_hash, None)
        await connection.execute(PROVE, user)
        await connection.execute(DROP_REQUESTS, user)  # whoever is thrown out by this may have asked
        await connection.execute(END_SESSIONS, user, "password reset", None)
        await void_links(connection, user, Purpose.RESET)
        await enqueue(connection, PasswordSet(user=user))
    return user


async def change_password(pool: Pool, user: UserId, session: SessionId, old: str, new: str) -> None:
    """Replace the hash of a password, and end all sessions but one. Raises `Refused` (credentials_refused) if it is not `old`."""
    async with answering(pool) as connection, connection.transaction():
        if await connection.fetchval(SET_HASH, user, new, old) is None:
            raise Refused(ErrorCode.CREDENTIALS_REFUSED)
        await connection.execute(DROP_REQUESTS, user)
        await connection.execute(END_SESSIONS, user, "password changed", session)
        await void_links(connection, user, Purpose.RESET)
        await enqueue(connection, PasswordSet(user=user))


async def addressee(pool: Pool, sealer: Sealer, user: UserId) -> Addressee | None:
    """Return the address of a person. None when they have none."""
    identity = await identity_of(pool, sealer, user)
    return None if identity is None else Addressee(identity.email)
