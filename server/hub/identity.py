"""Who is on a connection, and what they may do: read from one object, so a change takes effect at once, everywhere."""

from __future__ import annotations

from typing import Protocol

from protocol.envelope import Person, RoomId, SessionId, UserId


class Masks(Protocol):
    """Knows whom others see of people who are anonymous."""

    def pseudonym(self, room: RoomId, user: UserId) -> Person:
        """Return whom they see of a person in a room."""
        ...


class Session:
    """A live session: there is none before hello has succeeded."""

    __slots__ = (
        "anonymous",
        "as_of",
        "expires_at",
        "faces",
        "id",
        "masks",
        "passes",
        "role",
        "tier",
        "user",
        "user_id",
        "warned",
    )

    def __init__(
        self,
        session: SessionId,
        user: Person,
        *,
        role: str,
        tier: str,
        expires_at: float,
        as_of: int = 0,
        anonymous: bool = False,
        masks: Masks | None = None,
        passes: frozenset[RoomId] = frozenset(),
    ) -> None:
        self.id = session
        self.user = user
        self.user_id: UserId = user.id
        self.role = role
        self.tier = tier
        self.expires_at = expires_at
        """When the access token ends, in loop time."""
        self.as_of = as_of
        """The offset of the person's newest event when this was read: what was read before it is older."""
        self.warned = False
        self.passes = passes
        """Exclusive rooms that are open to this person."""
        self.anonymous = anonymous
        self.masks = masks
        self.faces: dict[RoomId, Person] = {}
        """As whom this connection is seen, in each of its rooms."""

    def face(self, room: RoomId) -> Person:
        """Return as whom this person is to be seen in a room."""
        if self.masks is None or not self.anonymous:
            return self.user
        return self.masks.pseudonym(room, self.user_id)

    def is_one(self, person: Person, room: RoomId) -> bool:
        """Say whether somebody who is seen in a room is this person, under whichever name."""
        if person.id == self.user_id:
            return True
        return self.masks is not None and person.id == self.masks.pseudonym(room, self.user_id).id

    @property
    def moderates(self) -> bool:
        """Whether this person may act on what others wrote."""
        return self.role in ("MODERATOR", "ADMIN")

    @property
    def premium(self) -> bool:
        """Whether premium rooms are open to this person."""
        return self.tier != "FREE" or self.role in ("MODERATOR", "ADMIN")
