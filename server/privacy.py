"""Privacy: what is done by jobs when somebody wants what is theirs, or leaves for good."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from protocol.envelope import RoomId
from protocol.reactions import TargetKind
from server.jobs import DAY, performs
from storage import notifications, relations
from storage.comments import erase
from storage.departures import Departure, erase_lines, remove_person, settle_left, void_accounts
from storage.jobs import Periodic
from storage.presence import Count
from storage.privacy import MakeExport, forget_exports, make_export

if TYPE_CHECKING:
    from server.node import Node

LINES: Final = 100
DOINGS: Final = 100
REACTIONS: Final = 500
VOID: Final = 100
PAUSE_SECONDS: Final = 0.02
"""Between two batches of what somebody leaves: the rooms are there for those who stay."""


@performs(MakeExport, together=1, within=600.0)
async def write_down(node: Node, job: MakeExport) -> None:
    """Write down everything about a person."""
    await make_export(node.stores.pool, node.stores.sealer, job.export)


class ForgetExports(Periodic, tag="exports.forget"):
    """Deletes exports that nobody can fetch any more."""


@performs(ForgetExports, every=600.0)
async def forget(node: Node, job: ForgetExports) -> None:  # noqa: ARG001 - whichever period it is
    """Delete what has expired."""
    await forget_exports(node.stores.pool)


class RemoveVoidAccounts(Periodic, tag="person.void"):
    """Deletes accounts whose address is somebody else's, and which nobody has used for long."""


@performs(RemoveVoidAccounts, every=3600.0, within=600.0)
async def remove_void(node: Node, job: RemoveVoidAccounts) -> None:  # noqa: ARG001 - whichever hour it is
    """Delete some at a time, as if each had left."""
    pool, after = node.stores.pool, node.settings.unproven_days * DAY
    for user in await void_accounts(pool, after, VOID):
        departure = await remove_person(pool, node.stores.sealer, user, void_for=after)
        if departure is not None:
            node.person_left(departure.user, departure.rooms)
        await asyncio.sleep(PAUSE_SECONDS)


@performs(Departure, together=2, within=3600.0)
async def clear_away(node: Node, job: Departure) -> None:
    """Remove what somebody said who has left, and take what they gave out of the totals; everyone sees it as it happens."""
    node.person_left(job.user, job.rooms)  # again: a node may have heard nothing when they left
    pool = node.stores.pool
    while removals := await erase_lines(pool, job.user, LINES):
        node.chat.tell_removed(removals)
        await asyncio.sleep(PAUSE_SECONDS)
    while await notifications.forget_doings(pool, job.user, DOINGS):
        pass
    while await relations.forget_told(pool, job.user, DOINGS):
        pass
    while removed := await erase(pool, job.user, LINES):
        node.comments.tell_removed(removed)
        await asyncio.sleep(PAUSE_SECONDS)
    while taken := await settle_left(pool, job.departure, REACTIONS):
        counts: defaultdict[RoomId, list[Count]] = defaultdict(list)
        for one in taken:
            if one.target.kind is not TargetKind.COMMENT:
                counts[RoomId(one.target.id)].append(
                    Count(one.kind, -one.taken, one.total.total, one.total.revision)
                )
        for room, changed in counts.items():
            node.presence.reacted(room, changed, [], [])
        await asyncio.sleep(PAUSE_SECONDS)
