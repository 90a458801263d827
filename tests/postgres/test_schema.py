"""The schema and the contract name the same things."""

from __future__ import annotations

from enum import StrEnum

import pytest

from protocol.moderation import ApplicationState, Role
from protocol.reactions import Reaction, TargetKind
from protocol.rooms import ContentKind, RoomStatus
from protocol.subscriptions import Tier
from storage.postgres.pool import Pool

VALUES = "select enumlabel::text from pg_enum where enumtypid = $1::regtype order by enumsortorder"

NEVER_FOLLOWED = [("rooms", "category")]
"""The five categories are never taken away."""


@pytest.mark.parametrize(
    ("name", "enum"),
    [
        ("user_role", Role),
        ("subscription_tier", Tier),
        ("content_kind", ContentKind),
        ("room_status", RoomStatus),
        ("reaction_kind", Reaction),
        ("target_kind", TargetKind),
        ("application_state", ApplicationState),
    ],
)
async def test_enumerations(pool: Pool, name: str, enum: type[StrEnum]) -> None:
    """What may stand in a column is what may travel."""
    assert [row[0] for row in await pool.fetch(VALUES, name)] == [str(one) for one in enum]


async def test_references_have_an_index(pool: Pool) -> None:
    """Each reference can be followed backwards without reading a whole table: else removing what it leads to would."""
    missing = await pool.fetch(
        """
        select c.conrelid::regclass::text as table, a.attname as column
        from pg_constraint c join pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
        where c.contype = 'f' and not exists (
            select from pg_index i where i.indrelid = c.conrelid and i.indkey[0] = c.conkey[1]
        )
        order by 1, 2
        """
    )
    assert [(row["table"], row["column"]) for row in missing] == NEVER_FOLLOWED
