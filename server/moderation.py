"""Moderation: who wants to be a creator, and who decides."""

from __future__ import annotations

from typing import Final

from protocol.moderation import (
    ApplyAsCreator,
    CreatorApplied,
    CreatorDecided,
    CreatorFound,
    CreatorsListed,
    DecideApplication,
    GetApplication,
    ListApplications,
)
from protocol.refusals import ErrorCode, Refused
from protocol.text import normalised
from server.hub.dispatch import Call, handles
from server.limits import check
from storage import moderation
from storage.identities import demand_proof
from storage.redis.limits import Limit

APPLICATIONS: Final = Limit("applications", burst=5, rate=5 / 86400)
"""Applications of a person to become a creator."""


@handles(ApplyAsCreator)
async def apply(call: Call, command: ApplyAsCreator) -> CreatorApplied:
    """Ask to become a creator. Somebody reads that, so it needs a proven address."""
    about = normalised(command.about)
    if not about:
        raise Refused(ErrorCode.TEXT_EMPTY, path="$.about")
    await demand_proof(call.node.stores.pool, call.session.user_id)
    check(await call.node.quotas.take(APPLICATIONS, str(call.session.user_id)))
    stores = call.node.stores
    found = await moderation.apply(stores.pool, stores.sealer, call.session.user_id, about)
    return CreatorApplied(id=command.id, application=found)


@handles(GetApplication)
async def get(call: Call, command: GetApplication) -> CreatorFound:
    """Look at one's own application."""
    stores = call.node.stores
    found = await moderation.newest(stores.pool, stores.sealer, call.session.user_id)
    return CreatorFound(id=command.id, application=found)


@handles(ListApplications)
async def list_applications(call: Call, command: ListApplications) -> CreatorsListed:
    """Page through the applications that wait."""
    _moderator(call)
    stores = call.node.stores
    found = await moderation.waiting(stores.pool, stores.sealer, command.after, command.limit + 1)
    page = found[: command.limit]
    return CreatorsListed(
        id=command.id, applications=page, next=page[-1].id if len(found) > command.limit else None
    )


@handles(DecideApplication)
async def decide(call: Call, command: DecideApplication) -> CreatorDecided:
    """Decide an application; the person is told, and what they may do changes on every connection of theirs."""
    _moderator(call)
    stores = call.node.stores
    decided = await moderation.decide(
        stores.pool,
        stores.sealer,
        command.application,
        call.session.user_id,
        normalised(command.reason),
        approve=command.approve,
    )
    call.node.person_events.publish(decided.told)
    return CreatorDecided(id=command.id, application=decided.application)


def _moderator(call: Call) -> None:
    if not call.session.moderates:
        raise Refused(ErrorCode.FORBIDDEN, "Only moderators may do this.")
