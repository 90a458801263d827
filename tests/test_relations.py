"""Relations as they are stored: what both are to each other, whatever happens at once."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from protocol.envelope import Person, UserId
from protocol.refusals import ErrorCode, Refused
from protocol.relations import Friendship
from storage import relations
from storage.postgres.pool import Pool
from tests.stores import database_url, pool, postgres

__all__ = ["database_url", "pool", "postgres"]  # fixtures


async def somebody(pool: Pool, role: str = "MEMBER") -> UserId:
    """Make a person."""
    user = UserId(uuid4())
    await pool.execute("insert into users (id, name, role) values ($1, 'Ada', $2::user_role)", user, role)
    return user


async def muted_by(pool: Pool, user: UserId) -> set[UserId]:
    """Return whom somebody has muted."""
    return {
        row["muted_id"] for row in await pool.fetch("select muted_id from mutes where muter_id = $1", user)
    }


async def friendship(pool: Pool, one: UserId, other: UserId) -> tuple[Friendship, Friendship]:
    """Return what two people are to each other, as each of them finds it."""
    found = [await relations.profile(pool, *pair) for pair in ((one, other), (other, one))]
    assert found[0] is not None
    assert found[1] is not None
    return found[0].relation.friendship, found[1].relation.friendship


async def test_friends(pool: Pool) -> None:
    """Who is asked may accept, and both are told; again nothing happens, and nobody is told again."""
    ada, bo = await somebody(pool), await somebody(pool)
    asked = await relations.request(pool, ada, bo)
    assert await friendship(pool, ada, bo) == (Friendship.SENT, Friendship.RECEIVED)
    assert [one.user for one in asked.told] == [ada, bo, bo], "also that it happened to them"
    assert (await relations.request(pool, ada, bo)).told == ()
    with pytest.raises(Refused) as refused:
        await relations.accept(pool, ada, bo)
    assert refused.value.code is ErrorCode.NOT_FOUND, "one's own request is not one's own to accept"
    assert len((await relations.accept(pool, bo, ada)).told) == 3
    assert (await relations.accept(pool, bo, ada)).told == ()
    assert await friendship(pool, ada, bo) == (Friendship.FRIENDS, Friendship.FRIENDS)
    assert await relations.unfriend(pool, ada, bo) is not None
    assert await relations.unfriend(pool, ada, bo) is None
    assert await friendship(pool, ada, bo) == (Friendship.NONE, Friendship.NONE)


async def test_asking_each_other(pool: Pool) -> None:
    """Two who ask each other are friends, also at the same moment; a request that was declined can be made again."""
    ada, bo = await somebody(pool), await somebody(pool)
    await asyncio.gather(relations.request(pool, ada, bo), relations.request(pool, bo, ada))
    assert await friendship(pool, ada, bo) == (Friendship.FRIENDS, Friendship.FRIENDS)
    await relations.unfriend(pool, bo, ada)
    await relations.request(pool, ada, bo)
    declined = await relations.decline(pool, bo, ada)
    assert declined is not None
    assert [one.user for one in declined.told] == [bo]
    assert await relations.decline(pool, bo, ada) is None
    await relations.request(pool, ada, bo)
    assert await friendship(pool, ada, bo) == (Friendship.SENT, Friendship.RECEIVED)


async def test_a_block_ends_everything(pool: Pool) -> None:
    """In its transaction go friendship, requests and follows both ways; who was a friend sees one go, as any does."""
    ada, bo = await somebody(pool, "CREATOR"), await somebody(pool, "CREATOR")
    await relations.request(pool, ada, bo)
    await relations.accept(pool, bo, ada)
    await relations.follow(pool, ada, bo)
    await relations.follow(pool, bo, ada)
    done = await relations.block(pool, ada, bo)
    assert [one.user for one in done.told] == [ada, bo]
    assert b"blocked" not in done.told[1].packet.json
    assert await relations.hidden_from(pool, [ada, bo]) == {ada: {bo}, bo: {ada}}
    for one, other in ((ada, bo), (bo, ada)):
        found = await relations.profile(pool, one, other)
        assert found is not None
        assert (found.hidden, found.relation.following) == (True, False)
        assert found.relation.friendship is Friendship.NONE
        for refused in (relations.request, relations.follow):
            with pytest.raises(Refused) as told:
                await refused(pool, one, other)
            assert told.value.code is ErrorCode.NOT_FOUND
    assert (await relations.block(pool, ada, bo)).told == ()
    stranger = await somebody(pool)
    assert [one.user for one in (await relations.block(pool, ada, stranger)).told] == [ada]


async def test_blocking_each_other(pool: Pool) -> None:
    """Who is blocked finds nobody there to be blocked or muted, also at the same moment; what they had done before stays."""
    ada, bo = await somebody(pool), await somebody(pool)
    await relations.mute(pool, bo, ada)
    results = await asyncio.gather(
        relations.block(pool, ada, bo), relations.block(pool, bo, ada), return_exceptions=True
    )
    assert [type(result) for result in results].count(relations.Change) == 1
    blocker, other = (ada, bo) if isinstance(results[0], relations.Change) else (bo, ada)
    for act in (relations.block, relations.mute) if other == ada else (relations.block,):
        with pytest.raises(Refused) as refused:
            await act(pool, other, blocker)
        assert refused.value.code is ErrorCode.NOT_FOUND
    assert (await relations.listed(pool, other, "BLOCKED", None, 10)).relations == []
    assert await muted_by(pool, bo) == {ada}
    assert await relations.unblock(pool, blocker, other) is not None
    assert await relations.unblock(pool, blocker, other) is None
    assert await relations.hidden_from(pool, [ada, bo]) == {ada: set(), bo: set()}


async def test_what_one_is_given_of_it(pool: Pool) -> None:
    """An export names nobody by whom one was blocked, muted or followed, and nobody behind a pseudonym."""
    ada, bo = await somebody(pool), await somebody(pool, "CREATOR")
    await relations.follow(pool, ada, bo)
    await relations.mute(pool, ada, bo, Person(id=UserId(uuid4()), name="Calm Heron 123"))
    given = {part.name: await pool.fetch(part.rows, bo) for part in relations.PARTS}
    assert str(ada) not in str(given)
    assert [row["followers"] for row in given["followers"]] == [1]
    await relations.block(pool, ada, bo, Person(id=UserId(uuid4()), name="Calm Heron 123"))
    for part in relations.PARTS:
        assert str(ada) not in str(await pool.fetch(part.rows, bo))
        assert str(bo) not in str(await pool.fetch(part.rows, ada))


async def test_moderators_are_not_hidden(pool: Pool) -> None:
    """Who looks after everyone sees everyone and is seen; they are no friends of who has blocked them."""
    ada, mo = await somebody(pool), await somebody(pool, "MODERATOR")
    await relations.block(pool, ada, mo)
    assert await relations.hidden_from(pool, [ada, mo]) == {ada: set(), mo: set()}
    with pytest.raises(Refused):
        await relations.request(pool, mo, ada)
    await pool.execute("update users set role = 'MEMBER' where id = $1", mo)
    assert await relations.hidden_from(pool, [ada, mo]) == {ada: {mo}, mo: {ada}}


async def test_through_a_pseudonym(pool: Pool) -> None:
    """Who is blocked or muted through a pseudonym is listed as it, and found by it alone."""
    ada, bo = await somebody(pool), await somebody(pool)
    mask = Person(id=UserId(uuid4()), name="Calm Heron 123")
    for act, undo, kind in (
        (relations.block, relations.unblock, "BLOCKED"),
        (relations.mute, relations.unmute, "MUTED"),
    ):
        done = await act(pool, ada, bo, mask)
        assert done.relation.person == mask
        assert str(bo).encode() not in b"".join(one.packet.json for one in done.told)
        (listed,) = (await relations.listed(pool, ada, kind, None, 10)).relations
        assert listed == done.relation
        assert await undo(pool, ada, bo) is None
        undone = await undo(pool, ada, mask.id)
        assert undone is not None
        assert undone.relation.person == mask
    assert await muted_by(pool, ada) == set()


async def test_lists(pool: Pool) -> None:
    """Each kind has its list, the newest first, page by page; somebody who is not there is in none but that of the blocked."""
    ada = await somebody(pool)
    creators = [await somebody(pool, "CREATOR") for _ in range(3)]
    for creator in creators:
        await relations.follow(pool, ada, creator)
        await relations.mute(pool, ada, creator)
    page = await relations.listed(pool, ada, "FOLLOWING", None, 2)
    assert [one.person.id for one in page.relations] == creators[:0:-1]
    assert page.more
    assert all(one.following and one.muted for one in page.relations)
    rest = await relations.listed(pool, ada, "FOLLOWING", creators[1], 2)
    assert ([one.person.id for one in rest.relations], rest.more) == ([creators[0]], False)
    await relations.unfollow(pool, ada, creators[0])
    assert await relations.unfollow(pool, ada, creators[0]) is None
    await relations.block(pool, creators[1], ada)
    for kind, there in (("FOLLOWING", [creators[2]]), ("MUTED", [creators[2], creators[0]]), ("BLOCKED", [])):
        found = (await relations.listed(pool, ada, kind, None, 10)).relations
        assert [one.person.id for one in found] == there
    assert await muted_by(pool, ada) == set(creators)


async def test_nobody_to_relate_to(pool: Pool) -> None:
    """Somebody who is not there, or who hosts nothing, is no creator to follow; and whoever is not there is nobody's friend."""
    ada, bo = await somebody(pool), await somebody(pool)
    with pytest.raises(Refused) as refused:
        await relations.follow(pool, ada, bo)
    assert refused.value.code is ErrorCode.FORBIDDEN
    for act in (relations.follow, relations.request, relations.accept, relations.block, relations.mute):
        with pytest.raises(Refused) as refused:
            await act(pool, ada, UserId(uuid4()))
        assert refused.value.code is ErrorCode.NOT_FOUND
    assert await relations.profile(pool, ada, UserId(uuid4())) is None
