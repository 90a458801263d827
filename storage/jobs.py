"""Durable jobs in Postgres: enqueued in the transaction that wants them done, taken under a lease, kept when they die.

What must follow a commit - a mail, a push, a call to an outside service - is enqueued inside the transaction: if that is
rolled back there is no job, and once it is committed a crash loses none. A job is performed at least once: a node that dies,
or that can't say that it is done, leaves it to another one when its lease ends. So a job must bear to be performed twice.

The cases of a key, each with a test:

1. no such job waits: it is enqueued;
2. one waits: that one is enough, nothing is added;
3. one is being performed: it may have read what has changed since, so it is performed once more after it is done;
4. one has died: it is in nobody's way, a new one is enqueued.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from protocol.envelope import Milliseconds
from storage.postgres.pool import Connection, Pool, answering

CHANNEL: Final = "looprooms_jobs"
"""What is notified when a job has been enqueued."""

ENQUEUE = """
with wanted as (
    select * from unnest($1::text[], $2::jsonb[], $3::text[]) as wanted (kind, payload, key)
), enqueued as (
    insert into jobs (kind, payload, key, run_at)
    select kind, payload, key, now() + make_interval(secs => $4) from wanted
    on conflict (kind, key) where key is not null and died_at is null do update set again = true
    where jobs.running
)
select pg_notify($5, '')
"""

TAKE = """
with due as materialized (
    select found.id
    from unnest($1::text[], $2::int[]) as free (kind, places)
    cross join lateral (
        select id from jobs
        where jobs.kind = free.kind and died_at is null and run_at <= now()
        order by run_at limit free.places
        for update skip locked
    ) found
)
update jobs set attempts = attempts + 1, running = true, run_at = now() + make_interval(secs => $3)
from due where jobs.id = due.id
returning jobs.id, jobs.kind, jobs.payload::text, jobs.attempts
"""

NEXT_DUE = """
select extract(epoch from min(next.run_at) - clock_timestamp())::float8
from unnest($1::text[]) as wanted (kind)
cross join lateral (
    select run_at from jobs where jobs.kind = wanted.kind and died_at is null order by run_at limit 1
) next
"""

RENEW = """
update jobs set run_at = now() + make_interval(secs => $3)
from unnest($1::bigint[], $2::int[]) as held (id, attempts)
where jobs.id = held.id and jobs.attempts = held.attempts and running
"""

FINISH = """
delete from jobs where id = $1 and attempts = $2 and running and not again returning id
"""

ONCE_MORE = """
update jobs set attempts = 0, running = false, again = false, run_at = now(), reason = null
where id = $1 and attempts = $2 and running and again
"""

POSTPONE = """
update jobs set running = false, again = false, reason = $3, run_at = now() + make_interval(secs => $4)
where id = $1 and attempts = $2 and running
"""

GIVE_BACK = """
update jobs set running = false, again = false, attempts = attempts - 1, run_at = now() + make_interval(secs => $3)
where id = $1 and attempts = $2 and running
"""

BURY = """
update jobs set running = false, again = false, reason = $3,
    died_at = case when again then null else now() end,
    attempts = case when again then 0 else attempts end,
    run_at = now()
where id = $1 and attempts = $2 and running
"""

_PERIOD = "to_timestamp(floor((extract(epoch from now()) - at) / every) * every + at)"

PLAN = f"""
insert into job_periods (kind, next_at)
select kind, {_PERIOD} + make_interval(secs => every)
from unnest($1::text[], $2::float8[], $3::float8[]) as planned (kind, every, at)
on conflict do nothing
"""

BEGIN_PERIODS = f"""
with due as materialized (
    select kind, every, at
    from job_periods join unnest($1::text[], $2::float8[], $3::float8[]) as planned (kind, every, at) using (kind)
    where next_at <= now()
    for update of job_periods skip locked
), moved as (
    update job_periods set next_at = {_PERIOD} + make_interval(secs => every)
    from due where job_periods.kind = due.kind
), begun as (
    insert into jobs (kind, payload, run_at)
    select kind,
        jsonb_build_object('type', kind, 'period', (extract(epoch from {_PERIOD}) * 1000)::bigint),
        now()
    from due
)
select pg_notify($4, '') from due
"""

COUNT = """
select kind,
    count(*) filter (where died_at is null and run_at <= now()) as waiting,
    count(*) filter (where died_at is not null) as dead
from jobs group by kind
"""

DEAD = """
select kind, reason, count(*) as jobs, (extract(epoch from max(died_at)) * 1000)::bigint as last
from jobs where died_at is not null group by kind, reason order by kind, reason
"""

# A key has one job at a time: of several that died with one the last is brought back, unless a new one is there.
REVIVE = """
with revived as (
    update jobs set died_at = null, attempts = 0, reason = null, run_at = now()
    where id in (
        select distinct on (coalesce(dead.key, dead.id::text)) dead.id
        from jobs dead
        where dead.kind = $1 and dead.died_at is not null and not exists (
            select from jobs alive where alive.kind = dead.kind and alive.key = dead.key and alive.died_at is null
        )
        order by coalesce(dead.key, dead.id::text), dead.id desc
    )
    returning id
)
select count(*) from revived
"""

HASTEN = """
update jobs set run_at = now() where kind = $1 and not running and died_at is null
"""

NOTIFY = """
select pg_notify($1, '')
"""

WAKE = """
with due as (
    update jobs set run_at = now() where kind = $1 and key = $2 and died_at is null and not running returning id
)
select pg_notify($3, '') from due
"""

FORGET_DEAD = """
delete from jobs where died_at < now() - make_interval(secs => $1)
"""


class Job(Struct, tag_field="type", omit_defaults=True, kw_only=True):
    """What is to be done. Its tag is its kind; its fields say to what, by ids: nothing personal, nothing secret."""


class Periodic(Job):
    """What is to be done once a period, over all nodes. `period` is when that began."""

    period: Milliseconds


class Taken(Struct, frozen=True):
    """A job that a node has under its lease. `attempts` is 1 the first time."""

    id: int
    kind: str
    payload: str
    attempts: int


class Count(Struct, frozen=True):
    """How many jobs of a kind could be performed now, and how many have died."""

    waiting: int
    dead: int


class Dead(Struct, frozen=True):
    """Jobs of one kind that died for one reason. `last` is when the last one did."""

    kind: str
    reason: str
    jobs: int
    last: Milliseconds


class Period(Struct, frozen=True):
    """A kind that is performed every `every` seconds, `at` seconds after the whole ones since 1970."""

    kind: str
    every: float
    at: float


def kind_of(job: type[Job]) -> str:
    """Return the kind of a type of jobs, such as ``mail.send``."""
    return str(job.__struct_config__.tag)


async def enqueue(connection: Connection, job: Job, *, key: str | None = None, delay: float = 0.0) -> None:
    """Have `job` done once the transaction of `connection` is committed, at the earliest `delay` seconds from now.

    While a job of this kind with the same `key` waits there is no second one.
    """
    await _enqueue(connection, [job], [key], delay)


async def enqueue_all(
    connection: Connection,
    jobs: Sequence[Job],
    *,
    keys: Sequence[str | None] | None = None,
    delay: float = 0.0,
) -> None:
    """Have all `jobs` done, in one statement; where there are `keys`, each has its own, and they are in one order everywhere."""
    await _enqueue(connection, jobs, [None] * len(jobs) if keys is None else keys, delay)


async def _enqueue(
    connection: Connection, jobs: Sequence[Job], keys: Sequence[str | None], delay: float
) -> None:
    kinds = [kind_of(type(job)) for job in jobs]
    payloads = [msgspec.json.encode(job).decode() for job in jobs]
    await connection.execute(ENQUEUE, kinds, payloads, keys, delay, CHANNEL)


async def wake(connection: Connection, job: type[Job], key: str) -> None:
    """Have a job that waits with a key looked at now: what it waits for may have changed."""
    await connection.execute(WAKE, kind_of(job), key, CHANNEL)


async def take(pool: Pool, places: dict[str, int], *, lease: float) -> list[Taken]:
    """Take jobs that are due, of each kind at most so many, those that have waited longest first.

    They are this node's for `lease` seconds; after that another one may take them.
    """
    async with answering(pool) as connection:
        rows = await connection.fetch(TAKE, list(places), list(places.values()), lease)
    return [Taken(*row.values()) for row in rows]


async def next_due(pool: Pool, kinds: Sequence[str]) -> float | None:
    """Return the seconds until the next job of these kinds is due; None when there is none."""
    async with answering(pool) as connection:
        seconds: float | None = await connection.fetchval(NEXT_DUE, kinds)
    return seconds


async def renew(pool: Pool, held: Sequence[Taken], *, lease: float) -> None:
    """Keep what is still being performed for `lease` more seconds."""
    async with answering(pool) as connection:
        await connection.execute(RENEW, [job.id for job in held], [job.attempts for job in held], lease)


async def finish(pool: Pool, job: Taken) -> None:
    """Note that a job is done. When it was enqueued again meanwhile it is due once more."""
    async with answering(pool) as connection:
        if await connection.fetchval(FINISH, job.id, job.attempts) is None:
            await connection.execute(ONCE_MORE, job.id, job.attempts)


async def postpone(pool: Pool, job: Taken, reason: str, *, delay: float) -> None:
    """Note that a job failed and may be tried again after `delay` seconds."""
    async with answering(pool) as connection:
        await connection.execute(POSTPONE, job.id, job.attempts, reason, delay)


async def give_back(pool: Pool, job: Taken, *, delay: float = 0.0) -> None:
    """Let go of a job that was not finished, as if it had not been taken; it may be taken after `delay` seconds."""
    async with answering(pool) as connection:
        await connection.execute(GIVE_BACK, job.id, job.attempts, delay)


async def bury(pool: Pool, job: Taken, reason: str) -> None:
    """Note that a job will never be done. `reason` is kept: it must hold nothing personal."""
    async with answering(pool) as connection:
        await connection.execute(BURY, job.id, job.attempts, reason)


async def plan(pool: Pool, periods: Sequence[Period]) -> None:
    """Know of what is performed once a period. A kind that is new begins with the next period."""
    async with answering(pool) as connection:
        await connection.execute(PLAN, *_columns(periods))


async def begin_periods(pool: Pool, periods: Sequence[Period]) -> None:
    """Enqueue one job for each kind whose next period has begun; of all nodes that ask, one does.

    Periods that passed while no node ran are one.
    """
    async with answering(pool) as connection:
        await connection.execute(BEGIN_PERIODS, *_columns(periods), CHANNEL)


async def count(pool: Pool) -> dict[str, Count]:
    """Count the jobs of each kind."""
    async with answering(pool) as connection:
        return {row["kind"]: Count(row["waiting"], row["dead"]) for row in await connection.fetch(COUNT)}


async def dead(pool: Pool) -> list[Dead]:
    """List what has died, by kind and reason."""
    async with answering(pool) as connection:
        return [Dead(*row.values()) for row in await connection.fetch(DEAD)]


async def revive(pool: Pool, kind: str) -> int:
    """Have the dead jobs of a kind tried anew; return how many there are."""
    async with answering(pool) as connection:
        revived: int = await connection.fetchval(REVIVE, kind)
        await connection.execute(NOTIFY, CHANNEL)
    return revived


async def hasten(pool: Pool, kind: str) -> None:
    """Have the jobs of a kind that wait for another try tried now."""
    async with answering(pool) as connection:
        await connection.execute(HASTEN, kind)
        await connection.execute(NOTIFY, CHANNEL)


async def forget_dead(pool: Pool, after: float) -> None:
    """Delete the jobs that died more than `after` seconds ago."""
    async with answering(pool) as connection:
        await connection.execute(FORGET_DEAD, after)


def _columns(periods: Sequence[Period]) -> tuple[list[str], list[float], list[float]]:
    return [one.kind for one in periods], [one.every for one in periods], [one.at for one in periods]
