"""Who somebody is and may be seen as, and what they may do."""

from __future__ import annotations

from uuid import UUID

from protocol.envelope import Person, RoomId, SessionId, UserId
from server.hub.identity import Session
from server.hub.veil import Veil
from tests.hub.scene import session_of

ROOM, OTHER = RoomId(UUID(int=1)), RoomId(UUID(int=2))
ADA = Person(id=UserId(UUID(int=7)), name="Ada")


def masked(room: RoomId) -> Person:
    """Return a pseudonym, another one in each room."""
    return Person(id=UserId(UUID(int=100 + room.int)), name=f"Fern {room.int}")


class Masks:
    """Gives these to everyone."""

    def pseudonym(self, room: RoomId, user: UserId) -> Person:
        """Return Ada's."""
        assert user == ADA.id
        return masked(room)


def session(*, anonymous: bool) -> Session:
    """Return Ada's session."""
    return Session(
        SessionId(UUID(int=1)),
        ADA,
        role="MEMBER",
        tier="FREE",
        expires_at=1.0,
        anonymous=anonymous,
        masks=Masks(),
    )


def test_faces() -> None:
    """One is seen as oneself, or, being anonymous, as another in each room."""
    assert session(anonymous=False).face(ROOM) == ADA
    hidden = session(anonymous=True)
    assert (hidden.face(ROOM), hidden.face(OTHER)) == (masked(ROOM), masked(OTHER))
    hidden.masks = None
    assert hidden.face(ROOM) == ADA


def test_recognised_under_every_name() -> None:
    """What one said under a pseudonym is one's own, in that room, also when one is oneself again."""
    ada = session(anonymous=False)
    assert ada.is_one(ADA, ROOM)
    assert ada.is_one(masked(ROOM), ROOM)
    assert not ada.is_one(masked(OTHER), ROOM)
    ada.masks = None
    assert not ada.is_one(masked(ROOM), ROOM)


def test_what_a_session_may() -> None:
    """Moderators act on what others wrote; who pays, and they, see premium rooms."""
    may = {}
    for role in ("MEMBER", "CREATOR", "MODERATOR", "ADMIN"):
        for tier in ("FREE", "PREMIUM_YEARLY"):
            session = session_of(1, role=role, tier=tier)
            may[role, tier] = session.moderates, session.premium
    assert may == {
        ("MEMBER", "FREE"): (False, False),
        ("MEMBER", "PREMIUM_YEARLY"): (False, True),
        ("CREATOR", "FREE"): (False, False),
        ("CREATOR", "PREMIUM_YEARLY"): (False, True),
        ("MODERATOR", "FREE"): (True, True),
        ("MODERATOR", "PREMIUM_YEARLY"): (True, True),
        ("ADMIN", "FREE"): (True, True),
        ("ADMIN", "PREMIUM_YEARLY"): (True, True),
    }


def test_who_is_hidden() -> None:
    """Somebody is hidden under their name and under their pseudonym of the room; whoever is muted is not heard only, and under that name."""
    me = session(anonymous=False)
    bo = Person(id=UserId(UUID(int=8)), name="Bo")
    assert me.veil(ROOM) is None
    assert not me.hides(bo, ROOM)
    me.hidden = frozenset({ADA.id})
    assert me.hides(ADA, ROOM)
    assert me.hides(masked(ROOM), ROOM)
    assert not me.hides(masked(OTHER), ROOM)
    assert not me.hides(bo, ROOM)
    both = frozenset({ADA.id, masked(ROOM).id})
    assert me.veil(ROOM) == Veil(both, both)
    me.hidden, me.muted = frozenset(), frozenset({ADA.id})
    assert me.veil(ROOM) == Veil(frozenset(), frozenset({ADA.id}))
    assert not me.hides(ADA, ROOM)
    me.hidden, me.masks = frozenset({ADA.id}), None
    assert me.veil(ROOM) == Veil(frozenset({ADA.id}), frozenset({ADA.id}))
