"""Vybes in Postgres: posted in batches, each once per key; seen by those who may, which Postgres itself decides.

Whoever may not see a vybe gets what one gets that is not there, so every statement that finds one has `seen` in it. What is gone is
gone: its row, its comments, what was shared of it and their reactions go in the commit that removes it.

Locks are taken in one order: keys, positions of vybes in the order of their ids, the feed's position. What goes by a cascade
takes them as they come, so removing is tried again when others were in the way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import asyncpg
import msgspec
from msgspec import Struct

from protocol.envelope import CommentId, Person, RoomId, UserId, VybeId
from protocol.reactions import Reaction
from protocol.refusals import ErrorCode, Refused
from protocol.vybes import Original, Privacy, Vybe, VybeKind
from storage.departures import ALLOW_TIME, LEAVE_SECONDS
from storage.moderation import RECORD
from storage.people import person
from storage.personal import Part
from storage.postgres.pool import Pool, answering

FOR_ALL: Final = frozenset({Privacy.PUBLIC, Privacy.ANONYMOUS})
"""What everyone's feed may show."""
_ATTEMPTS: Final = 5

totals_of: Final = msgspec.json.Decoder(dict[Reaction, int])
"""Reads the totals that `totals` selects."""


class NewVybe(Struct, kw_only=True):
    """A vybe that is to be posted. `text` is normalised; `id` is new. `pseudonym` is as whom, if not as oneself."""

    id: VybeId
    author: Person
    kind: VybeKind
    privacy: Privacy
    text: str
    key: str
    room: RoomId | None = None
    shared: Original | None = None
    pseudonym: Person | None = None

    @property
    def of(self) -> VybeId | None:
        """Which vybe it passes on."""
        return None if self.shared is None else self.shared.id

    @property
    def for_all(self) -> bool:
        """Whether everyone's feed may show it, with what it passes on."""
        return self.privacy in FOR_ALL and (self.shared is None or self.shared.privacy in FOR_ALL)

    @property
    def digest(self) -> bytes:
        """What the key was used for: the same key with another digest is refused."""
        links = [b"" if link is None else link.bytes for link in (self.room, self.of)]
        parts = [b"vybe.post", self.kind.encode(), self.privacy.encode(), *links, self.text.encode()]
        return hashlib.sha256(b"\0".join(parts)).digest()[:16]


class Posted(Struct, kw_only=True):
    """A stored vybe. `fresh` is false when its key had stored it before; `feed_offset` is that of the news, if all see it."""

    vybe: Vybe
    fresh: bool
    feed_offset: int | None = None


class Edited(Struct, kw_only=True):
    """A vybe with a new text, by the offset of that among what happens to it, and in the feed if all see it."""

    vybe: Vybe
    offset: int
    feed_offset: int | None


class Glance(Struct, frozen=True):
    """Somebody wants to see a vybe; or a comment, and the vybe that it is about."""

    viewer: UserId
    moderates: bool
    vybe: VybeId | None = None
    comment: CommentId | None = None


class Sight(Struct, frozen=True):
    """What they see: whose it is (and the comment), and whether it was posted under a pseudonym."""

    vybe: VybeId
    author: UserId
    masked: bool
    privacy: Privacy
    commenter: UserId | None


def seen(vybe: str, viewer: str, moderates: str = "false") -> str:
    """Return the condition under which `viewer` sees the row `vybe` itself, whatever it passes on."""
    return f"""(
        {vybe}.author_id = {viewer}
        or ({moderates} and {vybe}.privacy <> 'PRIVATE')
        or (({vybe}.privacy in ('PUBLIC', 'ANONYMOUS')
             or ({vybe}.privacy = 'FRIENDS_ONLY' and exists (
                 select from friend_pairs f where f.user_id = {viewer} and f.friend_id = {vybe}.author_id)))
            and not exists (
                select from hidden_pairs h where h.user_id = {viewer} and h.other_id = {vybe}.author_id))
    )"""


def whole(vybe: str, viewer: str, moderates: str = "false") -> str:
    """Return the condition under which `viewer` sees what the row `vybe` passes on, if it does."""
    return f"""({vybe}.of_id is null or exists (
        select from vybes original where original.id = {vybe}.of_id and {seen("original", viewer, moderates)}))"""


def totals(target: str) -> str:
    """Return the totals of the reactions to `target`, as JSON."""
    return f"""(select coalesce(json_object_agg(t.kind, t.total), '{{}}')::text
        from reaction_totals t where t.target_id = {target} and t.total > 0)"""


def _columns(vybe: str) -> str:
    """Return the columns of `_Stored` of the row `vybe`."""
    return f"""
    {vybe}.id as {vybe}_id, {vybe}.author_id as {vybe}_writer_id,
    coalesce({vybe}.pseudonym, {vybe}_author.id) as {vybe}_author_id,
    coalesce({vybe}.pseudonym_name, {vybe}_author.name) as {vybe}_author_name,
    case when {vybe}.pseudonym is null then {vybe}_author.avatar end as {vybe}_author_avatar,
    {vybe}.kind::text as {vybe}_kind, {vybe}.privacy::text as {vybe}_privacy, {vybe}.text as {vybe}_text,
    (extract(epoch from {vybe}.posted_at) * 1000)::bigint as {vybe}_posted_at,
    (extract(epoch from {vybe}.edited_at) * 1000)::bigint as {vybe}_edited_at,
    {vybe}.room_id as {vybe}_room_id, {totals(f"{vybe}.id")} as {vybe}_reactions,
    {vybe}_position.comments as {vybe}_comments, {vybe}_position.shares as {vybe}_shares"""


class _Stored(Struct, frozen=True):
    """The columns of a vybe, in their order."""

    id: VybeId
    writer: UserId
    author_id: UserId | None
    author_name: str | None
    author_avatar: str | None
    kind: str
    privacy: str
    text: str
    posted_at: int
    edited_at: int | None
    room: RoomId | None
    reactions: str
    comments: int
    shares: int


_WIDTH: Final = len(_Stored.__struct_fields__)

VYBE: Final = f"{_columns('v')}, {_columns('o')}"
"""The columns of a vybe `v` and of what it passes on, `o`: the last ones of whatever selects them."""

BESIDE: Final = """
    left join users v_author on v_author.id = v.author_id
    left join vybe_positions v_position on v_position.vybe_id = v.id
    left join vybes o on o.id = v.of_id
    left join users o_author on o_author.id = o.author_id
    left join vybe_positions o_position on o_position.vybe_id = o.id
"""
"""What is joined to `vybes v` for them."""

POST = """
with input as (
    select * from unnest($1::int[], $2::uuid[], $3::uuid[], $4::text[], $5::bytea[], $6::text[], $7::text[], $8::text[],
                         $9::uuid[], $10::uuid[], $11::uuid[], $12::text[], $13::boolean[])
        as input (i, id, user_id, key, digest, kind, privacy, text, room_id, of_id, pseudonym, pseudonym_name, for_all)
), claimed as (
    insert into idempotency_keys (user_id, key, digest, line_id)
    select user_id, key, digest, id from input order by user_id, key, i
    on conflict do nothing
    returning line_id
), fresh as (
    select input.*, case when for_all then row_number() over (partition by for_all order by i) end as nth
    from input join claimed on claimed.line_id = input.id
), passed_on as (
    select of_id, count(*) as n from fresh where of_id is not null group by of_id
), locked as materialized (
    select vybe_id from vybe_positions where vybe_id in (select of_id from passed_on) order by vybe_id for update
), counted as (
    update vybe_positions p set shares = p.shares + passed_on.n
    from passed_on join locked on locked.vybe_id = passed_on.of_id
    where p.vybe_id = passed_on.of_id
    returning p.vybe_id
), moved as (
    update feed_position set last = last + (select count(nth) from fresh)
    where exists (select from fresh where nth is not null) and (select count(*) from counted) >= 0
    returning last - (select count(nth) from fresh) as base
), added as (
    insert into vybes (id, author_id, kind, privacy, text, room_id, of_id, pseudonym, pseudonym_name)
    select id, user_id, kind::vybe_kind, privacy::vybe_privacy, text, room_id, of_id, pseudonym, pseudonym_name from fresh
    returning id, posted_at
), positions as (
    insert into vybe_positions (vybe_id) select id from added
)
select fresh.id, moved.base + fresh.nth as feed_offset, (extract(epoch from added.posted_at) * 1000)::bigint as posted_at
from fresh join added using (id) left join moved on fresh.nth is not null
"""

BY_KEY = f"""
select i.i, k.digest, {VYBE}
from unnest($1::int[], $2::uuid[], $3::text[]) as i (i, user_id, key)
join idempotency_keys k using (user_id, key)
join vybes v on v.id = k.line_id
{BESIDE}
"""

KNOWN_KEYS = """
select i.i, k.digest
from unnest($1::int[], $2::uuid[], $3::text[]) as i (i, user_id, key)
join idempotency_keys k using (user_id, key)
"""

LOOK = f"""
select i.i, v.id, v.author_id, v.pseudonym is not null as masked, v.privacy::text as privacy,
    c.author_id as commenter_id
from unnest($1::int[], $2::uuid[], $3::boolean[], $4::uuid[], $5::uuid[]) as i (i, viewer_id, moderates, vybe_id, comment_id)
left join comments c on c.id = i.comment_id
join vybes v on v.id = coalesce(i.vybe_id, c.vybe_id)
where {seen("v", "i.viewer_id", "i.moderates")} and {whole("v", "i.viewer_id", "i.moderates")}
  and (c.author_id is null or i.moderates or not exists (
      select from hidden_pairs h where h.user_id = i.viewer_id and h.other_id = c.author_id))
"""

FIND = f"""
select {VYBE} from vybes v {BESIDE}
where v.id = $1 and {seen("v", "$2", "$3::boolean")} and {whole("v", "$2", "$3::boolean")}
"""

# Under a pseudonym nobody has posted anything but the pseudonym: it is listed for its author alone.
OF_AUTHOR = f"""
select {VYBE} from vybes v {BESIDE}
where v.author_id = $1 and ($1 = $2 or v.pseudonym is null)
  and v.id < coalesce($3::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
  and {seen("v", "$2")} and {whole("v", "$2")}
order by v.id desc limit $4
"""

LOCK_OWN = """
select of_id from vybes where id = $1 and author_id = $2 for update
"""

REVISE = """
update vybes set text = $2, edited_at = now() where id = $1
"""

LOCK_ANY = """
select author_id, privacy::text as privacy from vybes
where id = $1 and (author_id = $2 or ($3::boolean and privacy <> 'PRIVATE')) for update
"""

NEXT_OFFSET = """
update vybe_positions set last = last + 1 where vybe_id = $1 returning last
"""

NEXT_FEED_OFFSET = """
update feed_position set last = last + 1 returning last
"""

REMOVE = """
delete from vybes where id = $1
"""

PARTS = (
    Part(
        name="vybes",
        columns=("vybes.author_id",),
        rows="""
        select v.id, v.kind::text, v.privacy::text, v.text, r.slug as looproom, v.of_id as shared, v.pseudonym_name as posted_as,
               v.posted_at, v.edited_at
        from vybes v left join rooms r on r.id = v.room_id
        where v.author_id = $1 order by v.id
        """,
    ),
)


async def post(pool: Pool, vybes: Sequence[NewVybe]) -> list[Posted | Exception]:
    """Store vybes, each once per key, in one commit; return them in order.

    In the place of one that passes on what is gone is `Refused` (not_found), as for a key whose vybe is gone; of one whose key
    was used for something else (key_reused). Raises `Refused` (unavailable) when Postgres is out of reach: then each vybe may
    or may not be stored, and sending its key again tells.
    """
    try:
        async with answering(pool) as connection:
            stored = {
                row["id"]: row
                for row in await connection.fetch(
                    POST,
                    list(range(len(vybes))),
                    [vybe.id for vybe in vybes],
                    [vybe.author.id for vybe in vybes],
                    [vybe.key for vybe in vybes],
                    [vybe.digest for vybe in vybes],
                    [vybe.kind for vybe in vybes],
                    [vybe.privacy for vybe in vybes],
                    [vybe.text for vybe in vybes],
                    [vybe.room for vybe in vybes],
                    [vybe.of for vybe in vybes],
                    [vybe.pseudonym and vybe.pseudonym.id for vybe in vybes],
                    [vybe.pseudonym and vybe.pseudonym.name for vybe in vybes],
                    [vybe.for_all for vybe in vybes],
                )
            }
            known = [(i, vybe) for i, vybe in enumerate(vybes) if vybe.id not in stored]
            used: dict[int, bytes] = {}
            earlier: dict[int, asyncpg.Record] = {}
            if known:
                keys = (
                    [i for i, _ in known],
                    [vybe.author.id for _, vybe in known],
                    [vybe.key for _, vybe in known],
                )
                used = {row["i"]: row["digest"] for row in await connection.fetch(KNOWN_KEYS, *keys)}
                earlier = {row["i"]: row for row in await connection.fetch(BY_KEY, *keys)}
    except asyncpg.ForeignKeyViolationError:
        if len(vybes) > 1:
            raise  # whoever gathers finds out whose it was
        return [Refused(ErrorCode.NOT_FOUND)]
    posted: list[Posted | Exception] = []
    for i, new in enumerate(vybes):
        if (row := stored.get(new.id)) is not None:
            posted.append(
                Posted(vybe=_new(new, row["posted_at"]), fresh=True, feed_offset=row["feed_offset"])
            )
        elif used.get(i, new.digest) != new.digest:
            posted.append(Refused(ErrorCode.KEY_REUSED))
        elif (row := earlier.get(i)) is None:
            posted.append(Refused(ErrorCode.NOT_FOUND))
        else:
            posted.append(Posted(vybe=vybe_of(row), fresh=False))
    return posted


async def look(pool: Pool, glances: Sequence[Glance]) -> list[Sight | Exception]:
    """Return what each sees; `Refused` (not_found) in the place of who sees nothing."""
    async with answering(pool) as connection:
        rows = await connection.fetch(
            LOOK,
            list(range(len(glances))),
            [glance.viewer for glance in glances],
            [glance.moderates for glance in glances],
            [glance.vybe for glance in glances],
            [glance.comment for glance in glances],
        )
    found = {row["i"]: row for row in rows}
    return [
        _sight(found[i]) if i in found and _commented(glance, found[i]) else Refused(ErrorCode.NOT_FOUND)
        for i, glance in enumerate(glances)
    ]


async def find(pool: Pool, vybe: VybeId, viewer: UserId, *, moderates: bool = False) -> Vybe:
    """Return a vybe as somebody sees it. Raises `Refused` (not_found)."""
    async with answering(pool) as connection:
        row = await connection.fetchrow(FIND, vybe, viewer, moderates)
    if row is None:
        raise Refused(ErrorCode.NOT_FOUND)
    return vybe_of(row, viewer)


async def original(pool: Pool, vybe: VybeId, viewer: UserId, *, moderates: bool) -> Original:
    """Return what is passed on with a vybe: what that one passes on, or itself. Raises `Refused` (not_found)."""
    found = await find(pool, vybe, viewer, moderates=moderates)
    if found.shared is not None:
        return found.shared
    fields = msgspec.structs.asdict(found)
    fields.pop("shared")
    return Original(**fields)


async def of_author(
    pool: Pool, author: UserId, viewer: UserId, before: VybeId | None, limit: int
) -> list[Vybe]:
    """Return what somebody has posted under their own name, as far as `viewer` sees it, newest first."""
    async with answering(pool) as connection:
        rows = await connection.fetch(OF_AUTHOR, author, viewer, before, limit)
    return [vybe_of(row, viewer) for row in rows]


async def edit(pool: Pool, vybe: VybeId, author: UserId, text: str) -> Edited:
    """Change the text of a vybe of one's own. Raises `Refused`: not_found; text_empty (it passes nothing on)."""
    async with answering(pool) as connection, connection.transaction():
        locked = await connection.fetchrow(LOCK_OWN, vybe, author)
        if locked is None:
            raise Refused(ErrorCode.NOT_FOUND)
        if not text and locked["of_id"] is None:
            raise Refused(ErrorCode.TEXT_EMPTY, path="$.text")
        await connection.execute(REVISE, vybe, text)
        offset = await connection.fetchval(NEXT_OFFSET, vybe)
        row = await connection.fetchrow(FIND, vybe, author, False)
        if row is None:
            raise Refused(ErrorCode.NOT_FOUND)  # what it passes on is not to be seen any more
        edited = vybe_of(row)
        feed_offset = await connection.fetchval(NEXT_FEED_OFFSET) if for_all(edited) else None
    return Edited(vybe=edited, offset=offset, feed_offset=feed_offset)


async def remove(pool: Pool, vybe: VybeId, actor: UserId, *, moderates: bool) -> int | None:
    """Remove a vybe; return the offset of that in the feed, if all could see it. Where it is somebody else's, it is recorded.

    Raises `Refused`: not_found; busy when others were in the way each time.
    """
    for _ in range(_ATTEMPTS):
        try:
            return await _remove(pool, vybe, actor, moderates=moderates)
        except asyncpg.DeadlockDetectedError:
            continue
    raise Refused(ErrorCode.BUSY, retry_after=1.0)


async def _remove(pool: Pool, vybe: VybeId, actor: UserId, *, moderates: bool) -> int | None:
    async with answering(pool) as connection, connection.transaction():
        await connection.execute(ALLOW_TIME)
        row = await connection.fetchrow(LOCK_ANY, vybe, actor, moderates)
        if row is None:
            raise Refused(ErrorCode.NOT_FOUND)
        if row["author_id"] != actor:
            await connection.execute(RECORD, "vybe", f"removed {vybe}", False, actor, row["author_id"])
        await connection.execute(REMOVE, vybe, timeout=LEAVE_SECONDS)
        if row["privacy"] not in FOR_ALL:
            return None
        feed_offset: int = await connection.fetchval(NEXT_FEED_OFFSET)
        return feed_offset


def for_all(vybe: Vybe) -> bool:
    """Say whether everyone's feed may show a vybe, with what it passes on."""
    return vybe.privacy in FOR_ALL and (vybe.shared is None or vybe.shared.privacy in FOR_ALL)


def vybe_of(row: asyncpg.Record, viewer: UserId | None = None) -> Vybe:
    """Return the vybe whose columns a row ends with; with a `viewer` it says whether it is theirs."""
    columns = list(row.values())
    vybe = Vybe(**_fields(_Stored(*columns[-2 * _WIDTH : -_WIDTH]), viewer))
    if columns[-_WIDTH] is not None:
        vybe.shared = Original(**_fields(_Stored(*columns[-_WIDTH:]), viewer))
    return vybe


def _fields(stored: _Stored, viewer: UserId | None) -> dict[str, Any]:
    return {
        "id": stored.id,
        "author": person(stored.author_id, stored.author_name, stored.author_avatar),
        "kind": VybeKind(stored.kind),
        "privacy": Privacy(stored.privacy),
        "text": stored.text,
        "posted_at": stored.posted_at,
        "edited_at": stored.edited_at,
        "looproom": stored.room,
        "reactions": totals_of.decode(stored.reactions),
        "comments": stored.comments,
        "shares": stored.shares,
        "mine": stored.writer == viewer,
    }


def _new(new: NewVybe, posted_at: int) -> Vybe:
    return Vybe(
        id=new.id,
        author=new.pseudonym or new.author,
        kind=new.kind,
        privacy=new.privacy,
        text=new.text,
        posted_at=posted_at,
        looproom=new.room,
        shared=new.shared,
    )


def _commented(glance: Glance, row: asyncpg.Record) -> bool:
    """Say whether the comment that is looked for was found with its vybe."""
    return glance.comment is None or row["commenter_id"] is not None


def _sight(row: asyncpg.Record) -> Sight:
    return Sight(
        vybe=row["id"],
        author=row["author_id"],
        masked=row["masked"],
        privacy=Privacy(row["privacy"]),
        commenter=row["commenter_id"],
    )
