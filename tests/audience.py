"""One who is in a room and keeps what it is told, as the contract says that a client may."""

from __future__ import annotations

from protocol.envelope import Person, UserId
from protocol.presence import RoomPulse, RoomState
from protocol.reactions import Reaction


class Listener:
    """Begins with a snapshot and hears every pulse after it. `came` and `went` are all who were told to come and go."""

    def __init__(self, state: RoomState) -> None:
        self.pulses: list[RoomPulse] = []
        self.came: list[UserId] = []
        self.went: list[UserId] = []
        self._replace(state)

    def _replace(self, state: RoomState) -> None:
        self.members: dict[UserId, Person] = {member.id: member for member in state.members}
        self.online, self.complete = state.online, state.complete
        self.typing, self.confidence = state.typing, state.confidence
        self.totals: dict[Reaction, int] = {kind: total for kind, total in state.reactions.items() if total}

    def hear(self, pulse: RoomPulse) -> None:
        """Take a pulse: what it names replaces what was known."""
        self.pulses.append(pulse)
        if pulse.state is not None:
            self._replace(pulse.state)
        self.online = self.online if pulse.online is None else pulse.online
        self.typing = self.typing if pulse.typing is None else pulse.typing
        self.confidence = self.confidence if pulse.confidence is None else pulse.confidence
        for member in pulse.joins:
            self.members[member.id] = member
            self.came.append(member.id)
        for user in pulse.leaves:
            self.members.pop(user, None)
            self.went.append(user)
        for kind, tally in pulse.reactions.items():
            self.totals[kind] = tally.total
