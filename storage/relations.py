"""Relations in Postgres: friends and who asks to be one, follows of creators, blocks, mutes.

Whatever touches two people locks their rows of `users` first, in the order of their ids: so of what both of them do at the same
moment one comes first, and nobody relates to somebody who leaves. A change and the events that tell of it are one transaction;
the caller publishes them after the commit, and has the sessions of `Change.users` read again on every node.

Other domains join on two views, both ways round in either of them, and in their own statements:

- ``hidden_pairs (user_id, other_id)``: who is not there for whom. What one may see of somebody's ends in
  ``and not exists (select from hidden_pairs where user_id = $1 and other_id = x.author_id)``. Moderators are in no pair.
- ``friend_pairs (user_id, friend_id)``: ``exists (select from friend_pairs where user_id = $1 and friend_id = x.author_id)``.

Where rows are already here, `hidden_from` says it of many people in one statement. Of somebody who is anonymous it knows who it is,
so neither what it says nor the difference that it makes may name them. A mute is of a name: ``coalesce(known_as, muted_id)`` is whose
lines are not heard, so that it tells nobody who is behind a pseudonym.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg
import msgspec
from msgspec import Struct

from protocol.envelope import NOBODY, Person, UserId
from protocol.moderation import Role
from protocol.notifications import NotificationKind, Thing, ThingKind
from protocol.refusals import ErrorCode, Refused
from protocol.relations import Friendship, Relation, RelationChange
from storage.notifications import NewNotice, notify, take_back
from storage.people import person
from storage.person_events import NewEvent, Told, append
from storage.personal import Part
from storage.postgres.pool import Connection, Pool, answering

FOLLOWED: Final = frozenset({Role.CREATOR, Role.MODERATOR, Role.ADMIN})
"""Who can be followed: those who may host looprooms."""

LOCK_BOTH = """
select id from users where id = any($1::uuid[]) order by id for no key update
"""

# Many follow one creator at the same moment: they wait for whoever changes the two, and not for each other.
HOLD_BOTH = """
select id from users where id = any($1::uuid[]) order by id for share
"""

_RELATION = """
    u.id, u.name, u.avatar,
    case when exists (select from friend_pairs where user_id = $1 and friend_id = u.id) then 'FRIENDS'
         when exists (select from friend_requests where sender_id = $1 and receiver_id = u.id) then 'SENT'
         when exists (select from friend_requests where sender_id = u.id and receiver_id = $1) then 'RECEIVED'
         else 'NONE' end as friendship,
    exists (select from follows where follower_id = $1 and creator_id = u.id) as following,
    exists (select from mutes where muter_id = $1 and muted_id = u.id and known_as is null) as muted,
    exists (select from blocks where blocker_id = $1 and blocked_id = u.id and known_as is null) as blocked
"""
"""How $1 stands to `users u`."""

RELATION = f"""
select {_RELATION}, u.bio, u.role::text as role,
    exists (select from hidden_pairs where user_id = $1 and other_id = u.id) as hidden,
    exists (
        select from blocks where (blocker_id, blocked_id) in (($1, u.id), (u.id, $1))
    ) as apart
from users u where u.id = $2
"""

BLOCK = """
insert into blocks (blocker_id, blocked_id, known_as, known_as_name) values ($1, $2, $3, $4)
on conflict do nothing returning true
"""

# By whom the blocker knows: never by who is behind a pseudonym.
UNBLOCK = """
delete from blocks where blocker_id = $1 and coalesce(known_as, blocked_id) = $2
returning blocked_id as other, known_as, known_as_name
"""

MUTE = """
insert into mutes (muter_id, muted_id, known_as, known_as_name) values ($1, $2, $3, $4)
on conflict do nothing returning true
"""

UNMUTE = """
delete from mutes where muter_id = $1 and coalesce(known_as, muted_id) = $2
returning muted_id as other, known_as, known_as_name
"""

BEFRIEND = """
insert into friendships (first_id, second_id) values (least($1::uuid, $2::uuid), greatest($1::uuid, $2::uuid))
"""

UNFRIEND = """
delete from friendships
where first_id = least($1::uuid, $2::uuid) and second_id = greatest($1::uuid, $2::uuid) returning true
"""

ASK = """
insert into friend_requests (sender_id, receiver_id) values ($1, $2)
"""

TAKE_REQUEST = """
delete from friend_requests where sender_id = $1 and receiver_id = $2 returning true
"""

FOLLOW = """
insert into follows (follower_id, creator_id) values ($1, $2) on conflict do nothing returning true
"""

UNFOLLOW = """
delete from follows where follower_id = $1 and creator_id = $2 returning true
"""

PART_FOLLOWS = """
delete from follows where (follower_id, creator_id) in (($1, $2), ($2, $1))
"""

HIDDEN_FROM = """
select user_id, array_agg(other_id) as others from hidden_pairs where user_id = any($1::uuid[]) group by user_id
"""

LISTED = f"""
with theirs as (
    select second_id as other_id, null::uuid as known_as, null::text as known_as_name, created_at
    from friendships where $2 = 'FRIENDS' and first_id = $1
    union all
    select first_id, null, null, created_at from friendships where $2 = 'FRIENDS' and second_id = $1
    union all
    select sender_id, null, null, created_at from friend_requests where $2 = 'RECEIVED' and receiver_id = $1
    union all
    select receiver_id, null, null, created_at from friend_requests where $2 = 'SENT' and sender_id = $1
    union all
    select creator_id, null, null, created_at from follows where $2 = 'FOLLOWING' and follower_id = $1
    union all
    select muted_id, known_as, known_as_name, created_at from mutes where $2 = 'MUTED' and muter_id = $1
    union all
    select blocked_id, known_as, known_as_name, created_at from blocks where $2 = 'BLOCKED' and blocker_id = $1
)
select {_RELATION}, t.known_as, t.known_as_name
from theirs t join users u on u.id = t.other_id
where ($2 = 'BLOCKED' or not exists (select from hidden_pairs where user_id = $1 and other_id = t.other_id))
  and ($3::uuid is null or (t.created_at, coalesce(t.known_as, t.other_id)) < (
      select created_at, coalesce(known_as, other_id) from theirs where coalesce(known_as, other_id) = $3))
order by t.created_at desc, coalesce(t.known_as, t.other_id) desc limit $4
"""

# An event keeps its place, and tells of nobody from here on.
FORGET_TOLD = """
update person_events
set body = jsonb_set(body::jsonb, '{relation}', jsonb_build_object('person', $2::jsonb))::text
where (user_id, "offset") in (
    select user_id, "offset" from person_events
    where starts_with(body, '{"type":"relation.change"') and body::jsonb #>> '{relation,person,id}' = $1 limit $3
)
"""

PARTS = (
    Part(
        name="blocks",
        columns=("blocks.blocker_id", "blocks.blocked_id"),
        # Nobody is told by whom they were blocked, nor who is behind a pseudonym that they have blocked.
        rows="""
        select coalesce(known_as, blocked_id) as person, known_as_name as known_as, created_at
        from blocks where blocker_id = $1 order by created_at, 1
        """,
    ),
    Part(
        name="mutes",
        columns=("mutes.muter_id", "mutes.muted_id"),
        rows="""
        select coalesce(known_as, muted_id) as person, known_as_name as known_as, created_at
        from mutes where muter_id = $1 order by created_at, 1
        """,
    ),
    Part(
        name="friends",
        columns=("friendships.first_id", "friendships.second_id"),
        rows="""
        select case when first_id = $1 then second_id else first_id end as person, created_at
        from friendships where $1 in (first_id, second_id) order by created_at, 1
        """,
    ),
    Part(
        name="friend_requests",
        columns=("friend_requests.sender_id", "friend_requests.receiver_id"),
        rows="""
        select sender_id, receiver_id, created_at
        from friend_requests where $1 in (sender_id, receiver_id) order by created_at, 1, 2
        """,
    ),
    Part(
        name="follows",
        columns=("follows.follower_id",),
        rows="select creator_id, created_at from follows where follower_id = $1 order by created_at, 1",
    ),
    Part(
        name="followers",
        columns=("follows.creator_id",),
        rows="select count(*) as followers from follows where creator_id = $1",
    ),
)


class Change(Struct, frozen=True, kw_only=True):
    """What became of it: how somebody stands to the other now, and what is to be published.

    `users` are those whose sessions see more or less than before.
    """

    relation: Relation
    told: Sequence[Told] = ()
    users: Sequence[UserId] = ()


class Profile(Struct, frozen=True, kw_only=True):
    """Somebody as they are found by another person."""

    relation: Relation
    bio: str
    role: Role
    hidden: bool
    """Whether they are there for the other at all."""
    apart: bool
    """Whether a block stands between the two, be they hidden from each other by it or not."""


class Page(Struct, frozen=True, kw_only=True):
    """Some of those to whom somebody has a relation, the newest first; `more` says whether there are further ones."""

    relations: list[Relation]
    more: bool


async def block(pool: Pool, user: UserId, other: UserId, known_as: Person | None = None) -> Change:
    """Hide two people from each other, and end whatever they were to each other. Again it changes nothing.

    `known_as` is the pseudonym through which the other was named. Raises `Refused` (not_found).
    """
    async with answering(pool) as connection, connection.transaction():
        found = await _locked(connection, user, other)
        named = known_as or found.relation.person
        relation = Relation(person=named, blocked=True)
        if not await connection.fetchval(BLOCK, user, other, *_mask(known_as)):
            return Change(relation=relation)
        if found.hidden:  # by the other's block: they are not there, and nothing of this is kept
            raise Refused(ErrorCode.NOT_FOUND)
        parted = await connection.fetchval(UNFRIEND, user, other)
        withdrawn = await connection.fetchval(TAKE_REQUEST, user, other)
        await connection.fetchval(TAKE_REQUEST, other, user)
        await connection.execute(PART_FOLLOWS, user, other)
        await take_back(connection, [(user, other, named.id), (other, user, user)])
        events = [_event(user, relation, changes_session=True)]
        if (
            parted or withdrawn
        ):  # as when a friend goes, or a request is taken back: there is nothing else to be seen
            events.append(_event(other, await _stand(connection, other, user), changes_session=True))
        return Change(relation=relation, told=await append(connection, events), users=[user, other])


async def unblock(pool: Pool, user: UserId, named: UserId) -> Change | None:
    """Take a block back, by whom it names: who was blocked through a pseudonym is found by that alone. None: there is none."""
    async with answering(pool) as connection, connection.transaction():
        row = await connection.fetchrow(UNBLOCK, user, named)
        if row is None:
            return None
        known_as = None if row["known_as"] is None else person(named, row["known_as_name"], None)
        return await _taken_back(connection, user, row["other"], known_as)


async def mute(pool: Pool, user: UserId, other: UserId, known_as: Person | None = None) -> Change:
    """Let somebody no longer hear another; who is muted is not told. Again it changes nothing. Raises `Refused` (not_found)."""
    async with answering(pool) as connection, connection.transaction():
        found = await _locked(connection, user, other)
        fresh = await connection.fetchval(MUTE, user, other, *_mask(known_as))
        if known_as is None:
            relation = found.relation
            relation.muted = True
        else:
            relation = Relation(person=known_as, muted=True)
        if not fresh:
            return Change(relation=relation)
        if found.hidden:
            raise Refused(ErrorCode.NOT_FOUND)
        told = await append(connection, [_event(user, relation, changes_session=True)])
        return Change(relation=relation, told=told, users=[user])


async def unmute(pool: Pool, user: UserId, named: UserId) -> Change | None:
    """Take a mute back, by whom it names. None: there is none."""
    async with answering(pool) as connection, connection.transaction():
        row = await connection.fetchrow(UNMUTE, user, named)
        if row is None:
            return None
        known_as = None if row["known_as"] is None else person(named, row["known_as_name"], None)
        return await _taken_back(connection, user, row["other"], known_as)


async def request(pool: Pool, user: UserId, other: UserId) -> Change:
    """Ask somebody to be a friend; who has asked in turn is one by it. Again it changes nothing. Raises `Refused` (not_found)."""
    async with answering(pool) as connection, connection.transaction():
        found = await _locked(connection, user, other)
        if found.apart or found.hidden:
            raise Refused(ErrorCode.NOT_FOUND)
        if found.relation.friendship in (Friendship.FRIENDS, Friendship.SENT):
            return Change(relation=found.relation)
        if found.relation.friendship is Friendship.RECEIVED:
            return await _befriend(connection, user, other)
        await connection.execute(ASK, user, other)
        return await _both_told(connection, user, other, NotificationKind.FRIEND_REQUEST)


async def accept(pool: Pool, user: UserId, other: UserId) -> Change:
    """Be a friend of somebody who has asked. Again it changes nothing. Raises `Refused` (not_found): nobody such has asked."""
    async with answering(pool) as connection, connection.transaction():
        found = await _locked(connection, user, other)
        if found.relation.friendship is Friendship.FRIENDS:
            return Change(relation=found.relation)
        if found.relation.friendship is not Friendship.RECEIVED:
            raise Refused(ErrorCode.NOT_FOUND)
        return await _befriend(connection, user, other)


async def decline(pool: Pool, user: UserId, other: UserId) -> Change | None:
    """Let a request be gone; who has asked is not told. None: there is none."""
    async with answering(pool) as connection, connection.transaction():
        await connection.execute(LOCK_BOTH, [user, other])
        if not await connection.fetchval(TAKE_REQUEST, other, user):
            return None
        return await _self_told(connection, user, other)


async def unfriend(pool: Pool, user: UserId, other: UserId) -> Change | None:
    """Be no friend any more, or take a request back; both are told. None: there is neither."""
    async with answering(pool) as connection, connection.transaction():
        await connection.execute(LOCK_BOTH, [user, other])
        parted = await connection.fetchval(UNFRIEND, user, other)
        if not (parted or await connection.fetchval(TAKE_REQUEST, user, other)):
            return None
        await take_back(connection, [(other, user, user)], NotificationKind.FRIEND_REQUEST)
        return await _both_told(connection, user, other)


async def follow(pool: Pool, user: UserId, creator: UserId) -> Change:
    """Follow a creator, who is not told. Again it changes nothing. Raises `Refused`: not_found; forbidden (no creator)."""
    async with answering(pool) as connection, connection.transaction():
        await connection.execute(HOLD_BOTH, [user, creator])
        found = await _found(connection, user, creator)
        if found is None or found.apart or found.hidden:
            raise Refused(ErrorCode.NOT_FOUND)
        if found.role not in FOLLOWED:
            raise Refused(ErrorCode.FORBIDDEN, "Only creators are followed.")
        if not await connection.fetchval(FOLLOW, user, creator):
            return Change(relation=found.relation)
        return await _self_told(connection, user, creator)


async def unfollow(pool: Pool, user: UserId, creator: UserId) -> Change | None:
    """Follow a creator no longer. None: nobody such was followed."""
    async with answering(pool) as connection, connection.transaction():
        if not await connection.fetchval(UNFOLLOW, user, creator):
            return None
        return await _self_told(connection, user, creator)


async def profile(pool: Pool, user: UserId, other: UserId) -> Profile | None:
    """Return somebody as another person finds them."""
    async with answering(pool) as connection:
        return await _found(connection, user, other)


async def listed(pool: Pool, user: UserId, kind: str, after: UserId | None, limit: int) -> Page:
    """Return a page of those to whom somebody has a relation of a kind, the newest first, after one of them.

    The kinds are FRIENDS, SENT, RECEIVED, FOLLOWING, MUTED and BLOCKED. After somebody who is not among them there is nobody.
    """
    async with answering(pool) as connection:
        rows = await connection.fetch(LISTED, user, kind, after, limit + 1)
    return Page(relations=[_listed(kind, row) for row in rows[:limit]], more=len(rows) > limit)


async def hidden_from(pool: Pool, users: Sequence[UserId]) -> dict[UserId, set[UserId]]:
    """Return for each person who is not there for them, by a block in either direction."""
    async with answering(pool) as connection:
        rows = await connection.fetch(HIDDEN_FROM, users)
    found = {row["user_id"]: set(row["others"]) for row in rows}
    return {user: found.get(user, set()) for user in users}


async def forget_told(pool: Pool, user: UserId, limit: int) -> int:
    """Take somebody who has left for good out of at most `limit` events that told others how they stand to them; return how many."""
    async with answering(pool) as connection:
        nobody = msgspec.json.encode(NOBODY).decode()
        status = await connection.execute(FORGET_TOLD, str(user), nobody, limit)
    return int(status.rpartition(" ")[2])


async def _locked(connection: Connection, user: UserId, other: UserId) -> Profile:
    await connection.execute(LOCK_BOTH, [user, other])
    found = await _found(connection, user, other)
    if found is None:
        raise Refused(ErrorCode.NOT_FOUND)
    return found


async def _found(connection: Connection, user: UserId, other: UserId) -> Profile | None:
    row = await connection.fetchrow(RELATION, user, other)
    if row is None:
        return None
    return Profile(
        relation=_relation(row),
        bio=row["bio"] or "",
        role=Role(row["role"]),
        hidden=row["hidden"],
        apart=row["apart"],
    )


async def _befriend(connection: Connection, user: UserId, other: UserId) -> Change:
    await connection.fetchval(TAKE_REQUEST, other, user)
    await connection.execute(BEFRIEND, user, other)
    return await _both_told(connection, user, other, NotificationKind.FRIEND_ACCEPTED)


async def _both_told(
    connection: Connection, user: UserId, other: UserId, kind: NotificationKind | None = None
) -> Change:
    """Tell two people how they stand to each other now; and the other, where it is of a `kind`, that this happened to them."""
    relation = await _stand(connection, user, other)
    events = [_event(user, relation), _event(other, await _stand(connection, other, user))]
    notices = []
    if kind is not None:
        notices.append(
            NewNotice(user=other, kind=kind, thing=Thing(kind=ThingKind.PERSON, id=user), actor=user)
        )
    return Change(relation=relation, told=await notify(connection, notices, also=events))


async def _self_told(connection: Connection, user: UserId, other: UserId) -> Change:
    """Tell somebody, on their other devices, how they stand to another now."""
    relation = await _stand(connection, user, other)
    return Change(relation=relation, told=await append(connection, [_event(user, relation)]))


async def _taken_back(connection: Connection, user: UserId, other: UserId, known_as: Person | None) -> Change:
    """Tell somebody, on their other devices, that a block or a mute is gone."""
    if known_as is None:
        relation = await _stand(connection, user, other)
    else:
        relation = Relation(person=known_as)
    told = await append(connection, [_event(user, relation, changes_session=True)])
    return Change(relation=relation, told=told, users=[user, other])


async def _stand(connection: Connection, user: UserId, other: UserId) -> Relation:
    found = await _found(connection, user, other)
    assert found is not None  # what relates to somebody goes with them
    return found.relation


def _event(user: UserId, relation: Relation, *, changes_session: bool = False) -> NewEvent:
    return NewEvent(user, RelationChange(relation=relation), changes_session=changes_session)


def _mask(known_as: Person | None) -> tuple[UserId | None, str | None]:
    return (None, None) if known_as is None else (known_as.id, known_as.name)


def _relation(row: asyncpg.Record) -> Relation:
    return Relation(
        person=person(row["id"], row["name"], row["avatar"]),
        friendship=Friendship(row["friendship"]),
        following=row["following"],
        muted=row["muted"],
        blocked=row["blocked"],
    )


def _listed(kind: str, row: asyncpg.Record) -> Relation:
    """Return a relation as it is listed: through a pseudonym one stands to nobody but the pseudonym."""
    if row["known_as"] is None:
        return _relation(row)
    known_as = person(row["known_as"], row["known_as_name"], None)
    return Relation(person=known_as, muted=kind == "MUTED", blocked=kind == "BLOCKED")
