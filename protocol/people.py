"""People: being anonymous to others."""

from __future__ import annotations

from protocol.envelope import Answer, Command, PersonEvent


class Switched(Answer, tag="person.switched"):
    """From now on others see you as you asked, on all your connections."""

    anonymous: bool


class SetAnonymity(Command[Switched], tag="person.anonymous"):
    """Be anonymous, or be yourself again.

    In each looproom others then see a pseudonym, always the same one there and another one in every other: in what you say and
    do, among those who are here, and, where you are the host, in the looproom itself. What you said before stays as it was said.
    Lest anyone sees one leave and the other come, both happen some time later, each by itself; who acts is there at once.
    `room.join` says as whom you are seen.
    """

    on: bool


class Anonymity(PersonEvent, tag="person.anonymity"):
    """You are anonymous from now on, or are yourself again, on all your connections."""

    anonymous: bool


Commands = SetAnonymity
Answers = Switched
Events = Anonymity
