"""Comments in Postgres: appended with their offsets in one statement per batch, as lines of chat are (see `storage.chat`).

What happens to a vybe has offsets without gaps, given by moving the vybe's position in the same transaction. A comment keeps that
of its own; a revision and a removal have one, and no row: whoever missed one of these reads a hole there, and knows by it
that something has changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import asyncpg
from msgspec import Struct

from protocol.comments import Comment, CommentRemoval, CommentRevision
from protocol.envelope import CommentId, Person, UserId, VybeId
from protocol.notifications import NotificationKind, Thing, ThingKind
from protocol.refusals import ErrorCode, Refused
from storage.moderation import RECORD
from storage.notifications import NewNotice, notify
from storage.people import person
from storage.person_events import Told
from storage.personal import Part
from storage.postgres.pool import Pool, answering
from storage.vybes import NEXT_OFFSET, totals, totals_of

_ATTEMPTS: Final = 5


class NewComment(Struct, kw_only=True):
    """A comment that is to be added. `text` is normalised; `id` is new. `pseudonym` is as whom, if not as oneself.

    `host` is whose vybe it is about: they are told.
    """

    id: CommentId
    vybe: VybeId
    author: Person
    text: str
    key: str
    host: UserId
    pseudonym: Person | None = None

    @property
    def notice(self) -> NewNotice:
        """What the author of the vybe is told."""
        return NewNotice(
            user=self.host,
            kind=NotificationKind.COMMENT,
            thing=Thing(kind=ThingKind.VYBE, id=self.vybe),
            actor=self.author.id,
            face=self.pseudonym,
            part=self.id,
        )

    @property
    def digest(self) -> bytes:
        """What the key was used for: the same key with another digest is refused."""
        return hashlib.sha256(b"comment.add\0" + self.vybe.bytes + self.text.encode()).digest()[:16]


class Added(Struct, kw_only=True):
    """A stored comment. `fresh` is false when its key had stored it before; `comments` is how many its vybe has now."""

    comment: Comment
    fresh: bool
    comments: int = 0


class Removed(Struct, kw_only=True):
    """A comment that is gone, and how many its vybe has now."""

    event: CommentRemoval
    comments: int


ADD = """
with input as (
    select * from unnest($1::int[], $2::uuid[], $3::uuid[], $4::text[], $5::bytea[], $6::uuid[], $7::text[], $8::uuid[],
                         $9::text[])
        as input (i, vybe_id, user_id, key, digest, id, text, pseudonym, pseudonym_name)
), claimed as (
    insert into idempotency_keys (user_id, key, digest, line_id)
    select user_id, key, digest, id from input order by user_id, key, i
    on conflict do nothing
    returning line_id
), fresh as (
    select input.*, row_number() over (partition by vybe_id order by i) as nth
    from input join claimed on claimed.line_id = input.id
), wanted as (
    select vybe_id, count(*) as n from fresh group by vybe_id
), locked as materialized (
    select vybe_id from vybe_positions where vybe_id in (select vybe_id from wanted) order by vybe_id for update
), moved as (
    update vybe_positions p set last = p.last + wanted.n, comments = p.comments + wanted.n
    from wanted join locked using (vybe_id)
    where p.vybe_id = wanted.vybe_id
    returning p.vybe_id, p.last - wanted.n as base, p.comments
), added as (
    insert into comments (vybe_id, "offset", id, author_id, text, pseudonym, pseudonym_name)
    select fresh.vybe_id, moved.base + fresh.nth, fresh.id, fresh.user_id, fresh.text, fresh.pseudonym, fresh.pseudonym_name
    from fresh join moved using (vybe_id)
    returning id, vybe_id, "offset", sent_at
)
select added.id, added."offset", (extract(epoch from added.sent_at) * 1000)::bigint as sent_at, moved.comments
from added join moved using (vybe_id)
"""

_COMMENT = f"""
    c.id, c."offset", c.text, c.author_id as writer_id,
    (extract(epoch from c.sent_at) * 1000)::bigint as sent_at,
    (extract(epoch from c.edited_at) * 1000)::bigint as edited_at,
    coalesce(c.pseudonym, u.id) as author_id,
    coalesce(c.pseudonym_name, u.name) as author_name,
    case when c.pseudonym is null then u.avatar end as author_avatar,
    {totals("c.id")} as reactions
"""

BY_KEY = f"""
select i.i, k.digest, {_COMMENT}
from unnest($1::int[], $2::uuid[], $3::text[]) as i (i, user_id, key)
join idempotency_keys k using (user_id, key)
left join comments c on c.id = k.line_id
left join users u on u.id = c.author_id
"""

BEHIND = """
select author_id from vybes where id = $1 and pseudonym = $2
union all
select author_id from comments where vybe_id = $1 and pseudonym = $2
limit 1
"""

BEFORE = f"""
select {_COMMENT}
from comments c join users u on u.id = c.author_id
where c.vybe_id = $1 and c."offset" < $2
  and not exists (select from hidden_pairs h where h.user_id = $3 and h.other_id = c.author_id)
  and not exists (
      select from mutes m
      where m.muter_id = $3 and m.muted_id = c.author_id and coalesce(m.known_as, m.muted_id) = coalesce(c.pseudonym, c.author_id)
  )
order by c."offset" desc limit $4
"""

BETWEEN = f"""
select {_COMMENT}
from comments c join users u on u.id = c.author_id
where c.vybe_id = $1 and c."offset" between $2 and $3
order by c."offset"
"""

POSITIONS = """
select vybe_id, last from vybe_positions where vybe_id = any($1::uuid[])
"""

REVISE = """
update comments set text = $3, edited_at = now() where id = $1 and author_id = $2 returning vybe_id
"""

FIND = f"""
select {_COMMENT} from comments c join users u on u.id = c.author_id where c.id = $1
"""

# Its author may, the author of the vybe may, and so may a moderator of what they see.
LOCK = """
select c.vybe_id, c."offset", c.author_id, v.author_id as host_id
from comments c join vybes v on v.id = c.vybe_id
where c.id = $1 and ($2 in (c.author_id, v.author_id) or ($3::boolean and v.privacy <> 'PRIVATE'))
for update of c
"""

REMOVE = """
delete from comments where id = $1
"""

COUNT = """
select comments from vybe_positions where vybe_id = $1
"""

# Comments before positions, as in every other statement, and positions in one order.
ERASE = """
with gone as materialized (
    select id, vybe_id, "offset" from comments where author_id = $1 limit $2 for update
), wanted as (
    select vybe_id, count(*) as n from gone group by vybe_id
), locked as materialized (
    select vybe_id from vybe_positions where vybe_id in (select vybe_id from wanted) order by vybe_id for update
), moved as (
    update vybe_positions p set last = p.last + wanted.n
    from wanted join locked using (vybe_id)
    where p.vybe_id = wanted.vybe_id
    returning p.vybe_id, p.last - wanted.n as base, p.comments - wanted.n as comments
), erased as (
    delete from comments c using gone where c.id = gone.id returning c.id
)
select gone.id, gone.vybe_id, gone."offset" as comment_offset, moved.comments,
    moved.base + row_number() over (partition by gone.vybe_id order by gone."offset") as "offset"
from gone join moved using (vybe_id) join erased using (id)
order by gone.vybe_id, gone."offset"
"""

PARTS = (
    Part(
        name="comments",
        columns=("comments.author_id",),
        rows="""
        select id, vybe_id, text, pseudonym_name as said_as, sent_at, edited_at
        from comments where author_id = $1 order by id
        """,
    ),
)


class Batch(Struct, frozen=True):
    """What came of comments that were to be added, in their order, and what is to be published."""

    added: list[Added | Exception]
    told: Sequence[Told]


async def add(pool: Pool, comments: Sequence[NewComment]) -> Batch:
    """Store comments, each once per key, in one commit with what is told of them; return them with their offsets.

    In the place of one whose vybe, or that itself, is gone is `Refused` (not_found); of one whose key was used for something
    else (key_reused). Raises `Refused` (unavailable) when Postgres is out of reach: sending its key again tells.
    """
    told: Sequence[Told] = ()
    async with answering(pool) as connection, connection.transaction():
        stored = {
            row["id"]: row
            for row in await connection.fetch(
                ADD,
                list(range(len(comments))),
                [comment.vybe for comment in comments],
                [comment.author.id for comment in comments],
                [comment.key for comment in comments],
                [comment.digest for comment in comments],
                [comment.id for comment in comments],
                [comment.text for comment in comments],
                [comment.pseudonym and comment.pseudonym.id for comment in comments],
                [comment.pseudonym and comment.pseudonym.name for comment in comments],
            )
        }
        if stored:
            told = await notify(connection, [comment.notice for comment in comments if comment.id in stored])
        earlier: dict[int, asyncpg.Record] = {}
        if len(stored) < len(comments):
            known = [(i, comment) for i, comment in enumerate(comments) if comment.id not in stored]
            rows = await connection.fetch(
                BY_KEY,
                [i for i, _ in known],
                [comment.author.id for _, comment in known],
                [comment.key for _, comment in known],
            )
            earlier = {row["i"]: row for row in rows}
    added: list[Added | Exception] = []
    for i, new in enumerate(comments):
        if (row := stored.get(new.id)) is not None:
            comment = Comment(
                id=new.id,
                offset=row["offset"],
                author=new.pseudonym or new.author,
                text=new.text,
                sent_at=row["sent_at"],
            )
            added.append(Added(comment=comment, fresh=True, comments=row["comments"]))
        elif (row := earlier.get(i)) is not None and row["digest"] != new.digest:
            added.append(Refused(ErrorCode.KEY_REUSED))
        elif row is None or row["id"] is None:
            added.append(Refused(ErrorCode.NOT_FOUND))
        else:
            added.append(Added(comment=_comment(row), fresh=False))
    return Batch(added, told)


async def behind(pool: Pool, vybe: VybeId, pseudonym: UserId) -> UserId | None:
    """Return who has written a vybe, or a comment of it, under a pseudonym. None: nobody."""
    async with answering(pool) as connection:
        user: UserId | None = await connection.fetchval(BEHIND, vybe, pseudonym)
    return user


async def before(pool: Pool, vybe: VybeId, offset: int, viewer: UserId, limit: int) -> list[Comment]:
    """Return at most `limit` comments of a vybe with offsets below `offset` that somebody sees, oldest first."""
    async with answering(pool) as connection:
        rows = await connection.fetch(BEFORE, vybe, offset, viewer, limit)
    return [_comment(row, viewer) for row in reversed(rows)]


async def between(pool: Pool, vybe: VybeId, first: int, last: int) -> dict[int, Comment]:
    """Return the comments of a vybe from `first` to `last`, by their offsets."""
    async with answering(pool) as connection:
        rows = await connection.fetch(BETWEEN, vybe, first, last)
    return {row["offset"]: _comment(row) for row in rows}


async def positions(pool: Pool, vybes: Sequence[VybeId]) -> dict[VybeId, int]:
    """Return the last offset of each vybe that is there."""
    async with answering(pool) as connection:
        return {row["vybe_id"]: row["last"] for row in await connection.fetch(POSITIONS, vybes)}


async def revise(pool: Pool, comment: CommentId, author: UserId, text: str) -> CommentRevision:
    """Change the text of a comment of one's own, with an offset of its own. Raises `Refused` (not_found)."""
    async with answering(pool) as connection, connection.transaction():
        vybe = await connection.fetchval(REVISE, comment, author, text)
        if vybe is None:
            raise Refused(ErrorCode.NOT_FOUND)
        offset: int = await connection.fetchval(NEXT_OFFSET, vybe)
        row = await connection.fetchrow(FIND, comment)
        assert row is not None  # its row is locked
    return CommentRevision(vybe=vybe, offset=offset, comment=_comment(row))


async def remove(pool: Pool, comment: CommentId, actor: UserId, *, moderates: bool) -> Removed:
    """Remove a comment, with an offset of its own. Where a moderator removes what is none of theirs, it is recorded.

    Raises `Refused`: not_found; busy when others were in the way each time.
    """
    for _ in range(_ATTEMPTS):
        try:
            return await _remove(pool, comment, actor, moderates=moderates)
        except asyncpg.DeadlockDetectedError:
            continue  # its vybe goes, too
    raise Refused(ErrorCode.BUSY, retry_after=1.0)


async def _remove(pool: Pool, comment: CommentId, actor: UserId, *, moderates: bool) -> Removed:
    async with answering(pool) as connection, connection.transaction():
        row = await connection.fetchrow(LOCK, comment, actor, moderates)
        if row is None:
            raise Refused(ErrorCode.NOT_FOUND)
        if actor not in (row["author_id"], row["host_id"]):
            detail = f"removed {comment}"
            await connection.execute(RECORD, "comment", detail, False, actor, row["author_id"])
        offset: int = await connection.fetchval(NEXT_OFFSET, row["vybe_id"])
        await connection.execute(REMOVE, comment)
        left: int = await connection.fetchval(COUNT, row["vybe_id"])
    removal = CommentRemoval(vybe=row["vybe_id"], offset=offset, comment=comment, of=row["offset"])
    return Removed(event=removal, comments=left)


async def erase(pool: Pool, author: UserId, limit: int) -> list[Removed]:
    """Remove at most `limit` comments of somebody who left for good, each with an offset of its own."""
    async with answering(pool) as connection:
        rows = await connection.fetch(ERASE, author, limit)
    return [
        Removed(
            event=CommentRemoval(
                vybe=row["vybe_id"], offset=row["offset"], comment=row["id"], of=row["comment_offset"]
            ),
            comments=row["comments"],
        )
        for row in rows
    ]


def _comment(row: asyncpg.Record, viewer: UserId | None = None) -> Comment:
    return Comment(
        id=row["id"],
        offset=row["offset"],
        author=person(row["author_id"], row["author_name"], row["author_avatar"]),
        text=row["text"],
        sent_at=row["sent_at"],
        edited_at=row["edited_at"],
        reactions=totals_of.decode(row["reactions"]),
        mine=row["writer_id"] == viewer,
    )
