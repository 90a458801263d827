"""Rooms that are live, in Postgres: when they began, and who wants to know.

Going live and the job that tells the followers of the host are one transaction. The job goes over them some at a time; one that is
begun anew after its node was lost tells nobody twice, because it is about one occasion.
"""

from __future__ import annotations

from uuid import UUID

from msgspec import Struct

from protocol.envelope import Milliseconds, RoomId, UserId
from protocol.notifications import NotificationKind, Thing, ThingKind
from protocol.refusals import ErrorCode, Refused
from protocol.rooms import RoomStatus
from storage.jobs import Job, enqueue
from storage.notifications import NewNotice, notify
from storage.person_events import Told
from storage.postgres.pool import Pool, answering

LOCK_ROOM = """
select r.live, r.status::text, u.anonymous
from rooms r join users u on u.id = r.host_id
where r.id = $1 and r.host_id = $2
for no key update of r
"""

AIR = """
update rooms set live = $2, live_since = case when $2 then now() end where id = $1
returning (extract(epoch from live_since) * 1000)::bigint
"""

# Who is anonymous is not the one whom people follow, as far as they know.
FOLLOWERS = """
select f.follower_id
from rooms r
join users u on u.id = r.host_id and not u.anonymous
join follows f on f.creator_id = r.host_id
where r.id = $1 and r.live and (extract(epoch from r.live_since) * 1000)::bigint = $2 and r.status = 'PUBLISHED'
  and f.follower_id > $3
  and not exists (select from hidden_pairs h where h.user_id = f.follower_id and h.other_id = r.host_id)
  and not exists (
      select from mutes m where m.muter_id = f.follower_id and m.muted_id = r.host_id and m.known_as is null
  )
order by f.follower_id limit $4
"""


class TellFollowers(Job, tag="rooms.live"):
    """The followers of a looproom's host are told that it is live, if it is so still `since` then."""

    room: RoomId
    since: Milliseconds


class Batch(Struct, frozen=True):
    """Some followers who were told: what is to be published, and after whom to go on; None when there are no more."""

    told: list[Told]
    after: UserId | None


async def set_live(pool: Pool, room: RoomId, host: UserId, *, on: bool) -> bool:
    """Let a room be live, or not; say whether that is something new.

    Raises `Refused` (forbidden): it is not theirs, or not published.
    """
    async with answering(pool) as connection, connection.transaction():
        row = await connection.fetchrow(LOCK_ROOM, room, host)
        if row is None:
            raise Refused(ErrorCode.FORBIDDEN, "Only the host of a looproom takes it live.")
        if on and row["status"] != RoomStatus.PUBLISHED:
            raise Refused(ErrorCode.FORBIDDEN, "Publish the looproom first.")
        if row["live"] == on:
            return False
        since = await connection.fetchval(AIR, room, on)
        if on and not row["anonymous"]:
            await enqueue(connection, TellFollowers(room=room, since=since))
    return True


async def tell_followers(pool: Pool, job: TellFollowers, after: UserId | None, limit: int) -> Batch:
    """Notify at most `limit` followers after one of them."""
    async with answering(pool) as connection, connection.transaction():
        rows = await connection.fetch(FOLLOWERS, job.room, job.since, after or UUID(int=0), limit)
        followers = [UserId(row["follower_id"]) for row in rows]
        thing = Thing(kind=ThingKind.LOOPROOM, id=job.room)
        told = await notify(
            connection,
            [
                NewNotice(
                    user=follower,
                    kind=NotificationKind.ROOM_LIVE,
                    thing=thing,
                    occasion=str(job.since),
                )
                for follower in followers
            ],
        )
    return Batch(told, followers[-1] if len(followers) == limit else None)
