"""The feed: vybes of everyone, of friends and of oneself, newest first; and word of what is new while it is open.

What is live is for everyone: vybes that are PUBLIC or ANONYMOUS. Those for friends only are found by listing. A quiet feed tells
each vybe as it comes; a busy one tells how many changes there were, at most once in a while, and the client lists again when it
wants to see them. Each change has an offset, so whoever was away learns how many they have missed.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from protocol.envelope import Answer, Command, Epoch, Event, Offset, VybeId
from protocol.reactions import Reaction
from protocol.vybes import PageSize, Vybe


class VybeTotals(Struct, omit_defaults=True, kw_only=True):
    """Totals of a vybe that have changed; kinds that are not named have not."""

    vybe: VybeId
    reactions: dict[Reaction, int] = {}
    comments: int | None = None


class FeedListed(Answer, tag="feed.listed"):
    """Vybes, newest first; `next` is what to ask for `before` to see older ones."""

    vybes: list[Vybe]
    next: VybeId | None = None


class ListFeed(Command[FeedListed], tag="feed.list"):
    """Your feed: what is for everyone, what your friends have posted for their friends, and what is yours.

    Nothing of people with whom there is a block, and nothing of those whom you have muted.
    """

    before: VybeId | None = None
    limit: PageSize = 20


class FeedOpened(Answer, tag="feed.opened"):
    """From now on you hear of changes; list the feed now, and what comes after that is news.

    `missed` is how many changes there were since the position that was sent; without it, nobody knows.
    """

    epoch: Epoch
    offset: Offset
    missed: int | None = None


class OpenFeed(Command[FeedOpened], tag="feed.open"):
    """Hear of what is new in the feed; perhaps with the position up to which you know it."""

    epoch: Annotated[str, Meta(max_length=128)] | None = None
    offset: Offset | None = None


class FeedClosed(Answer, tag="feed.closed"):
    """You hear of it no longer."""


class CloseFeed(Command[FeedClosed], tag="feed.close"):
    """Hear no longer of what is new in the feed."""


class FeedVybe(Event, tag="feed.vybe"):
    """A vybe for everyone is new, or has been edited: then it replaces what you know of it."""

    offset: Offset
    vybe: Vybe


class FeedRemoval(Event, tag="feed.removal"):
    """A vybe for everyone is gone: forget it, and what passes it on. A `feed.pulse` before this may have counted it."""

    offset: Offset
    vybe: VybeId


class FeedPulse(Event, tag="feed.pulse"):
    """There were `new` changes, up to `offset`, that you are not told one by one; and totals that have changed.

    `again`: what you have listed is right no longer, so list it again.
    """

    offset: Offset
    new: int = 0
    again: bool = False
    totals: list[VybeTotals] = []


Commands = ListFeed | OpenFeed | CloseFeed
Answers = FeedListed | FeedOpened | FeedClosed
Events = FeedVybe | FeedRemoval | FeedPulse
