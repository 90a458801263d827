"""Read by mypy and never run: each command names its answer, and the client's `call` knows it."""

from __future__ import annotations

from typing import assert_type

from protocol.chat import (
    ChatEdited,
    ChatRecalled,
    ChatRemoved,
    ChatSent,
    EditChat,
    RecallChat,
    RemoveChat,
    SendChat,
)
from protocol.client import CaughtUp, Client, Occurrence, Snapshot
from protocol.envelope import LineId, UserId
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
from protocol.people import SetAnonymity, Switched
from protocol.presence import (
    ConfidenceNoted,
    ListPresence,
    PresenceListed,
    SetConfidence,
    SetTyping,
    TypingNoted,
)
from protocol.reactions import AddReaction, Reaction, ReactionAdded, ReactionRemoved, RemoveReaction, Target
from protocol.rooms import (
    CueSent,
    GetRoom,
    JoinRoom,
    LeaveRoom,
    ListRooms,
    RoomFound,
    RoomJoined,
    RoomLeft,
    RoomsListed,
    SendCue,
)
from protocol.session import (
    ListSessions,
    Ping,
    Ponged,
    RefreshToken,
    RevokeSession,
    SessionRevoked,
    SessionsListed,
    TokenRefreshed,
    Welcome,
)
from protocol.subscriptions import GetSubscription, SubscriptionFound


async def answers(client: Client, line: LineId, target: Target, user: UserId) -> None:
    """Ask for everything once."""
    assert_type(client.welcome, Welcome)
    assert_type(await client.call(SendChat("calm", "hello", "key")), ChatSent)
    assert_type(await client.send_chat("calm", "hello"), ChatSent)
    assert_type(await client.call(EditChat("calm", line, "hello")), ChatEdited)
    assert_type(await client.call(RemoveChat("calm", line)), ChatRemoved)
    assert_type(await client.call(RecallChat("calm", before=7)), ChatRecalled)
    assert_type(await client.call(JoinRoom("calm"), timeout=3), RoomJoined)
    assert_type(await client.call(LeaveRoom("calm")), RoomLeft)
    assert_type(await client.call(ListRooms(limit=5)), RoomsListed)
    assert_type(await client.call(GetRoom("calm")), RoomFound)
    assert_type(await client.call(SendCue("calm", "breathe in")), CueSent)
    assert_type(await client.call(AddReaction(target, Reaction.HEART)), ReactionAdded)
    assert_type(await client.call(RemoveReaction(target, Reaction.HEART)), ReactionRemoved)
    assert_type(await client.call(ListPresence("calm", after=user)), PresenceListed)
    assert_type(await client.call(SetTyping("calm", True)), TypingNoted)
    assert_type(await client.call(SetConfidence("calm", 7)), ConfidenceNoted)
    assert_type(await client.call(ListSessions()), SessionsListed)
    assert_type(await client.call(RevokeSession(others=True)), SessionRevoked)
    assert_type(await client.call(RefreshToken("token")), TokenRefreshed)
    assert_type(await client.call(GetSubscription()), SubscriptionFound)
    assert_type(await client.call(ApplyAsCreator("a circle")), CreatorApplied)
    assert_type(await client.call(GetApplication()), CreatorFound)
    assert_type(await client.call(ListApplications()), CreatorsListed)
    assert_type(await client.call(DecideApplication(user, True)), CreatorDecided)
    assert_type(await client.call(SetAnonymity(True)), Switched)
    assert_type(await client.call(Ping()), Ponged)

    # A wrong expectation is an error, and the ignore would be one if it were not.
    wrong: RoomJoined = await client.call(LeaveRoom("calm"))  # type: ignore[arg-type]  # the point
    del wrong


async def occurrences(client: Client) -> None:
    """What comes out of the iteration is one union, narrowed by matching."""
    async for occurrence in client:
        assert_type(occurrence, Occurrence)
        match occurrence:
            case CaughtUp():
                assert_type(occurrence.missed, int)
            case Snapshot():
                assert_type(occurrence.offset, int)
