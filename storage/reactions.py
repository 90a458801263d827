"""Reactions in Postgres: given and taken back in batches, one of a kind per person and target, with exact totals.

A batch is one statement. What people wish in it is settled in the order in which it came, so of a heart that is given, taken
back and given again only the end is written, and each of the three still gets its own exact answer.

Batches of several nodes cannot deadlock: each locks the reactions that it adds, then those that it removes, then the totals,
each of the three in one order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from uuid import UUID

import asyncpg
from msgspec import Struct

from protocol.envelope import UserId
from protocol.reactions import Reaction, Target
from storage.notifications import NewNotice, notify
from storage.person_events import Told
from storage.personal import Part
from storage.postgres.pool import Connection, Pool, answering


class Wish(Struct, frozen=True):
    """A person wants a reaction to be there, or not. Where it is given, `notice` is told to whose it is."""

    target: Target
    user: UserId
    reaction: Reaction
    present: bool
    notice: NewNotice | None = None


class Total(Struct, frozen=True):
    """How many reactions of a kind a target has, as of `revision`."""

    total: int
    revision: int


Totals = dict[Reaction, Total]

_Key = tuple[int, int, Reaction]
"""Which reaction to what by whom. Ids are numbers here: a UUID's hash is a call of its own, six times for each wish."""


class Settled(Struct):
    """What came of a batch. `changed` is in the order of the wishes; a kind that has no total was never given.

    `added` says by how much each total was moved; `given` and `withdrawn` are the wishes that moved it. `told` is to be published.
    """

    changed: list[bool]
    totals: dict[UUID, Totals]
    added: Counter[tuple[UUID, Reaction]]
    given: list[Wish]
    withdrawn: list[Wish]
    told: list[Told] = []


SETTLE = """
with wish as (
    select i, target_id, target_kind::target_kind, user_id, kind::reaction_kind, present
    from unnest($1::int[], $2::uuid[], $3::text[], $4::uuid[], $5::text[], $6::bool[])
        as wish (i, target_id, target_kind, user_id, kind, present)
), added as (
    insert into reactions (target_id, user_id, kind, target_kind)
    select target_id, user_id, kind, target_kind from wish where present order by target_id, user_id, kind
    on conflict do nothing
    returning target_id, user_id, kind
), locked as materialized (
    select target_id, user_id, kind
    from reactions r join wish using (target_id, user_id, kind)
    where not wish.present
    order by target_id, user_id, kind
    for update of r
), removed as (
    delete from reactions r using locked l
    where r.target_id = l.target_id and r.user_id = l.user_id and r.kind = l.kind
    returning r.target_id, r.user_id, r.kind
), changed as (
    select i, target_id, target_kind, kind, 1 as added from wish join added using (target_id, user_id, kind)
    union all
    select i, target_id, target_kind, kind, -1 from wish join removed using (target_id, user_id, kind)
), moved as (
    insert into reaction_totals as t (target_id, kind, target_kind, total, revision)
    select target_id, kind, target_kind, sum(added), (sum(added) > 0)::int
    from changed
    group by target_id, kind, target_kind having sum(added) <> 0
    order by target_id, kind
    on conflict (target_id, kind) do update set total = t.total + excluded.total, revision = t.revision + 1
    returning target_id, kind, total, revision
)
select array_agg(i order by i) as changed, null::uuid as target_id, null::text as kind, null::bigint as total,
       null::bigint as revision
from changed
union all
select null, target_id, kind::text, total, revision from moved
union all
select null, target_id, kind::text, total, revision from reaction_totals t
where target_id in (select target_id from wish)
  and not exists (select from moved m where m.target_id = t.target_id and m.kind = t.kind)
"""

PARTS = (
    Part(
        name="reactions",
        columns=("reactions.user_id",),
        rows="""
        select target_kind::text as "on", target_id, kind::text, created_at
        from reactions where user_id = $1 order by created_at, target_id, kind
        """,
    ),
)

TOTALS = """
select target_id, kind::text, total, revision from reaction_totals where target_id = any($1::uuid[])
"""


async def settle(pool: Pool, wishes: Sequence[Wish]) -> Settled:
    """Commit a batch of wishes in one statement, and what is told of them with it.

    Raises `Refused` (unavailable), and then it may have been committed or not: wishing again tells.
    """
    keys = [_key(wish) for wish in wishes]
    last = dict(zip(keys, wishes, strict=True))
    final = list(last.values())
    told: list[Told] = []
    async with answering(pool) as connection:
        if any(wish.notice is not None for wish in final):
            async with connection.transaction():
                rows = await _settle(connection, final)
                notices = [wish.notice for wish in _moved(final, rows) if wish.notice is not None]
                if notices:
                    told = await notify(connection, notices)
        else:
            rows = await _settle(connection, final)
    moved = _moved(final, rows)
    given = [wish for wish in moved if wish.present]
    withdrawn = [wish for wish in moved if not wish.present]
    added: Counter[tuple[UUID, Reaction]] = Counter()
    for wish in moved:
        added[wish.target.id, wish.reaction] += 1 if wish.present else -1
    return Settled(
        changed=_answers(keys, wishes, last, {_key(wish) for wish in moved}),
        totals=_totals([row for row in rows if row["target_id"] is not None]),
        added=added,
        given=given,
        withdrawn=withdrawn,
        told=told,
    )


async def _settle(connection: Connection, final: Sequence[Wish]) -> list[asyncpg.Record]:
    return await connection.fetch(
        SETTLE,
        range(len(final)),
        [wish.target.id for wish in final],
        [wish.target.kind for wish in final],
        [wish.user for wish in final],
        [wish.reaction for wish in final],
        [wish.present for wish in final],
    )


def _moved(final: Sequence[Wish], rows: Sequence[asyncpg.Record]) -> list[Wish]:
    """Return the wishes that changed something, in their order. They come as one array: a row each would cost 2 us."""
    return [final[i] for row in rows for i in row["changed"] or ()]


async def totals(pool: Pool, targets: Sequence[UUID]) -> dict[UUID, Totals]:
    """Return the totals of each target that was ever reacted to. Raises `Refused` (unavailable)."""
    async with answering(pool) as connection:
        return _totals(await connection.fetch(TOTALS, targets))


def _key(wish: Wish) -> _Key:
    return wish.target.id.int, wish.user.int, wish.reaction


def _answers(
    keys: Sequence[_Key], wishes: Sequence[Wish], last: dict[_Key, Wish], moved: set[_Key]
) -> list[bool]:
    """Say of each wish whether it changed anything, as if they had been settled one after the other."""
    there = {key: wish.present != (key in moved) for key, wish in last.items()}  # before the batch
    answers = []
    for key, wish in zip(keys, wishes, strict=True):
        answers.append(there[key] != wish.present)
        there[key] = wish.present
    return answers


def _totals(rows: Sequence[asyncpg.Record]) -> dict[UUID, Totals]:
    found: defaultdict[UUID, Totals] = defaultdict(dict)
    for row in rows:
        found[row["target_id"]][Reaction(row["kind"])] = Total(row["total"], row["revision"])
    return dict(found)
