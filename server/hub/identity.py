"""Who is on a connection, and what they may do: read from one object, so a change takes effect at once, everywhere."""

from __future__ import annotations

from typing import Protocol

from protocol.envelope import Person, RoomId, SessionId, UserId
from server.hub.veil import Veil


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
        "hidden",
        "id",
        "masks",
        "muted",
        "passes",
        "read",
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
        hidden: frozenset[UserId] = frozenset(),
        muted: frozenset[UserId] = frozenset(),
        read: int = 0,
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
        self.read = read
        """Which of the node's readings this is: what an earlier one has found is older."""
        self.warned = False
        self.passes = passes
        """Exclusive rooms that are open to this person."""
        self.hidden = hidden
        """Who is not there for this person, nor this person for them."""
        self.muted = muted
        """Whom this person does not want to hear, by the names that they were muted under: a mute tells nobody who is behind one."""
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

    def hides(self, person: Person, room: RoomId) -> bool:
        """Say whether somebody who is seen in a room is not there for this person, under whichever name."""
        return bool(self.hidden) and person.id in self._as_seen(room, self.hidden)

    def veil(self, room: RoomId) -> Veil | None:
        """Return through what this person sees a room. None: they see everything."""
        if not (self.hidden or self.muted):
            return None
        hidden = self._as_seen(room, self.hidden)
        return Veil(hidden, hidden | self.muted)

    def _as_seen(self, room: RoomId, users: frozenset[UserId]) -> frozenset[UserId]:
        """Return people by all that others may see of them in a room."""
        if self.masks is None:
            return users
        return users.union(self.masks.pseudonym(room, user).id for user in users)

    @property
    def moderates(self) -> bool:
        """Whether this person may act on what others wrote."""
        return self.role in ("MODERATOR", "ADMIN")

    @property
    def premium(self) -> bool:
        """Whether premium rooms are open to this person."""
        return self.tier != "FREE" or self.role in ("MODERATOR", "ADMIN")
