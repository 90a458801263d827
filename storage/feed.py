"""The feed in Postgres: a page of what somebody may see, newest first, and how many changes there were of what all see.

A page is made of three: what is for everyone, what each friend has posted for their friends, and what one keeps for oneself. Each
is read from its own index and no further than the page is long, so a page costs the same however much there is.
"""

from __future__ import annotations

from collections.abc import Sequence

from protocol.envelope import UserId, VybeId
from protocol.vybes import Vybe
from storage.postgres.pool import Pool, answering
from storage.vybes import BESIDE, VYBE, seen, vybe_of, whole

_OLDER = "id < coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)"

# Whose vybes for friends are seen is looked up once for each friend, and not for each vybe. Among a million vybes a page takes half
# a millisecond for somebody without friends and 14 ms for one who has 500 (p95, one core that others used, too).
# Nobody learns who is behind a pseudonym by muting: what is posted under one is heard all the same, and whoever was muted through
# one is heard under their own name.
PAGE = f"""
with muted as materialized (
    select muted_id from mutes where muter_id = $1 and known_as is null
), friends as materialized (
    select friend_id from friend_pairs
    where user_id = $1 and friend_id not in (select muted_id from muted)
      and friend_id not in (select other_id from hidden_pairs where user_id = $1)
), page as materialized (
    (
        select v.id from vybes v
        where v.privacy in ('PUBLIC', 'ANONYMOUS') and v.{_OLDER}
          and {seen("v", "$1")} and {whole("v", "$1")}
          and (v.pseudonym is not null or v.author_id not in (select muted_id from muted))
        order by v.id desc limit $3
    ) union all (
        select theirs.id from friends cross join lateral (
            select v.id from vybes v
            where v.author_id = friends.friend_id and v.privacy = 'FRIENDS_ONLY' and v.{_OLDER} and {whole("v", "$1")}
            order by v.id desc limit $3
        ) theirs
        order by theirs.id desc limit $3
    ) union all (
        select v.id from vybes v
        where v.author_id = $1 and v.privacy in ('PRIVATE', 'FRIENDS_ONLY') and v.{_OLDER} and {whole("v", "$1")}
        order by v.id desc limit $3
    )
    order by id desc limit $3
)
select {VYBE} from page join vybes v using (id) {BESIDE}
order by v.id desc
"""

POSITION = """
select last from feed_position
"""

NEWEST = """
select id, coalesce(pseudonym, author_id) as author_id from vybes
where privacy in ('PUBLIC', 'ANONYMOUS') order by id desc limit $1
"""

THERE = """
select id from vybes where id = any($1::uuid[])
"""


async def page(pool: Pool, viewer: UserId, before: VybeId | None, limit: int) -> list[Vybe]:
    """Return the newest vybes that somebody sees, before one of them."""
    async with answering(pool) as connection:
        return [vybe_of(row, viewer) for row in await connection.fetch(PAGE, viewer, before, limit)]


async def position(pool: Pool) -> int:
    """Return how many changes there were of what all see."""
    async with answering(pool) as connection:
        last: int = await connection.fetchval(POSITION)
    return last


async def newest(pool: Pool, limit: int) -> list[tuple[VybeId, UserId]]:
    """Return the newest vybes that are for everyone, oldest first, each with its author as others see them."""
    async with answering(pool) as connection:
        rows = await connection.fetch(NEWEST, limit)
    return [(row["id"], row["author_id"]) for row in reversed(rows)]


async def there(pool: Pool, vybes: Sequence[VybeId]) -> set[VybeId]:
    """Return those of the vybes that have not been removed."""
    async with answering(pool) as connection:
        return {row["id"] for row in await connection.fetch(THERE, vybes)}
