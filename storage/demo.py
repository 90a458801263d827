"""What a newcomer finds: the five categories, and a few people and looprooms to try everything with.

Everything is put in once: what is there already stays as it is, whoever changed it since.
"""

from __future__ import annotations

from msgspec import Struct

from protocol.envelope import UserId
from storage.people import create_account, find_by_email, keep_new_hash
from storage.postgres.pool import Pool, answering
from storage.sealing import Sealer

ADD_CATEGORIES = """
insert into categories (slug, name, description, colour, icon, position)
select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int[])
on conflict do nothing
"""

SET_STANDING = """
update users set role = $2::user_role, tier = $3::subscription_tier where id = $1
"""

ADD_ROOM = """
insert into rooms (slug, title, description, category, host_id, status, content, duration_seconds, difficulty, premium,
                   preview_seconds, live)
values ($1, $2, $3, $4, $5, 'PUBLISHED', $6::content_kind, $7, $8, $9, $10, $11)
on conflict (slug) do nothing
"""


class DemoPerson(Struct, frozen=True):
    """Somebody whom one can sign in as."""

    email: str
    name: str
    role: str = "MEMBER"
    tier: str = "FREE"


class _Category(Struct, frozen=True):
    slug: str
    name: str
    description: str
    colour: str
    icon: str


class _Looproom(Struct, frozen=True, kw_only=True):
    slug: str
    title: str
    description: str
    category: str
    content: str
    duration_seconds: int | None = None
    difficulty: str = "beginner"
    preview_seconds: int = 0
    live: bool = False


MEMBER = DemoPerson("ada@demo.looprooms.example", "Ada")
HOST = DemoPerson("maya@demo.looprooms.example", "Maya", role="CREATOR", tier="CREATOR_PRO")
PEOPLE = (
    MEMBER,
    DemoPerson("ben@demo.looprooms.example", "Ben", tier="PREMIUM_MONTHLY"),
    HOST,
    DemoPerson("mo@demo.looprooms.example", "Mo", role="MODERATOR"),
)

_CATEGORIES = (
    _Category("recovery", "Recovery", "One day at a time, and nobody alone.", "#7a9e7e", "leaf"),
    _Category("meditation", "Meditation", "Sit down, breathe, come back.", "#6d8fb3", "lotus"),
    _Category("fitness", "Fitness", "Move together, each at their own pace.", "#d98452", "flame"),
    _Category("wellness", "Wellness", "Sleep, stress, and being kind to yourself.", "#a98bc2", "sun"),
    _Category("healthy-living", "Healthy Living", "Food and habits that last.", "#8bb65b", "apple"),
)

_LOOPROOMS = (
    _Looproom(
        slug="morning-calm",
        title="Morning Calm",
        description="Ten quiet minutes before the day begins. Maya is here live.",
        category="meditation",
        content="AUDIO",
        duration_seconds=600,
        live=True,
    ),
    _Looproom(
        slug="one-day-at-a-time",
        title="One Day at a Time",
        description="An open circle for everyone in recovery.",
        category="recovery",
        content="TEXT",
    ),
    _Looproom(
        slug="gentle-stretch",
        title="Gentle Stretch",
        description="Twenty minutes for stiff backs. No mat needed.",
        category="fitness",
        content="VIDEO",
        duration_seconds=1200,
    ),
    _Looproom(
        slug="deep-sleep",
        title="Deep Sleep Journey",
        description="A long guided evening. Premium: free members hear the first two minutes.",
        category="wellness",
        content="AUDIO",
        duration_seconds=3600,
        preview_seconds=120,
    ),
    _Looproom(
        slug="kitchen-table",
        title="The Kitchen Table",
        description="Cook something simple, and talk.",
        category="healthy-living",
        content="MIXED",
        duration_seconds=2700,
    ),
)


async def add_demo(pool: Pool, sealer: Sealer, password_hash: str, *, renew: bool = False) -> None:
    """Put in the categories, and the people and looprooms of the demo.

    Whoever of `PEOPLE` is there already keeps their password, unless `renew` is set.
    """
    async with answering(pool) as connection:
        columns = zip(
            *(
                (one.slug, one.name, one.description, one.colour, one.icon, place)
                for place, one in enumerate(_CATEGORIES, 1)
            ),
            strict=True,
        )
        await connection.execute(ADD_CATEGORIES, *map(list, columns))
    ids = {person.email: await _person(pool, sealer, person, password_hash, renew=renew) for person in PEOPLE}
    async with answering(pool) as connection:
        for room in _LOOPROOMS:
            await connection.execute(
                ADD_ROOM,
                room.slug,
                room.title,
                room.description,
                room.category,
                ids[HOST.email],
                room.content,
                room.duration_seconds,
                room.difficulty,
                room.preview_seconds > 0,
                room.preview_seconds,
                room.live,
            )


async def _person(
    pool: Pool, sealer: Sealer, person: DemoPerson, password_hash: str, *, renew: bool
) -> UserId:
    found = await find_by_email(pool, sealer, person.email)
    if found is not None:
        if renew:
            await keep_new_hash(pool, found.account.id, found.password_hash, password_hash)
        return found.account.id
    account = await create_account(pool, sealer, person.email, password_hash, person.name)
    async with answering(pool) as connection:
        await connection.execute(SET_STANDING, account.id, person.role, person.tier)
    return account.id
