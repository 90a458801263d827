"""The terminal client behind ``looprooms join``: one looproom, live lines, and what one types.

It is an ordinary user of `protocol.client` and knows nothing of the server that it comes with.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import signal
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from protocol.chat import ChatLine, ChatRemoval, ChatRevision, EditChat, Line, RemoveChat
from protocol.client import (
    CaughtUp,
    Client,
    Disconnected,
    Occurrence,
    Reconnecting,
    Snapshot,
    Unanswered,
    connect,
)
from protocol.client.account import Account, register, sign_in
from protocol.envelope import LineId, Person, RoomRef, UserId
from protocol.notifications import Notice
from protocol.presence import Confidence, ListPresence, RoomPulse, SetConfidence, SetTyping
from protocol.reactions import AddReaction, Reaction, RemoveReaction, Target, TargetKind
from protocol.refusals import ErrorCode, Refused
from protocol.relations import BlockPerson, ListRelations, RelationKind, UnblockPerson
from protocol.rooms import (
    Cue,
    Departure,
    JoinRoom,
    LeaveRoom,
    ListRooms,
    OnAir,
    RoomJoined,
    RoomUnlocked,
)
from protocol.session import Shed
from protocol.text import normalised
from server.terminal.happened import sentence
from server.terminal.line import Terminal

SIGNS: Final = {
    Reaction.HEART: "❤",
    Reaction.CLAP: "👏",
    Reaction.FIRE: "🔥",
    Reaction.PEACE: "🕊",
    Reaction.INSPIRE: "✨",
    Reaction.STRENGTH: "💪",
    Reaction.GRATITUDE: "🙏",
    Reaction.MINDFUL: "🧘",
}

HELP: Final = """\
  Just type to say something. Besides:
  {reactions}
                     give a reaction; /heart off takes it back
  /who               who is here
  /confidence 7      how confident you feel, 1 to 10
  /edit NEW TEXT     change your last line
  /remove            remove your last line
  /block NAME        not be there for somebody any more, nor they for you
  /unblock NAME      take that back
  /quit              leave (so does ctrl-D)"""

TYPING_AGAIN: Final = 3.0
"""Seconds after which the server is told again that one is still writing; it forgets after twice that."""

PATIENCE: Final = 60.0
"""Seconds that a typed line may take: long enough for a connection to be lost and found again."""

SLUG_CHARACTERS: Final = 40
"""Of a name stand in the address of its demo account, which may not have many more before the at sign."""

LINES_KEPT: Final = 500
"""Lines whose authors are remembered, so that a removal can be told by name."""


class Trouble(Exception):  # noqa: N818 - a sentence for the person at the terminal
    """Why one can't join; the message is what the person reads."""


def run(slug: str, *, name: str, url: str, data_dir: str | Path) -> int:
    """Join the looproom `slug` at the server ``http://host:port`` as the demo account `name`; return the exit code.

    The account is made at the first time and kept in `data_dir`, which only the owner can read.
    """
    terminal = Terminal()
    try:
        return asyncio.run(_visit(terminal, slug, name, url.rstrip("/"), Path(data_dir)))
    except Trouble as trouble:
        print(trouble, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


async def _visit(terminal: Terminal, slug: str, name: str, url: str, data_dir: Path) -> int:
    try:
        account = await demo_account(url, name, data_dir)
        async with connect(url, token=account) as client:
            joined = await _enter(client, slug)
            with terminal.opened():
                return await Visit(client, joined, terminal).run()
    except Disconnected as gone:
        raise Trouble(f"The server closed the connection for good: {readable(gone.reason)}") from None
    except Refused as refused:
        raise Trouble(readable(refused.message)) from None
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError):
            raise Trouble(str(error)) from None
        raise Trouble(
            f"No server answers at {url} ({_reason(error)}). Start one with `make run`, or name another with --url."
        ) from None


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "it took too long"
    return os.strerror(error.errno) if error.errno is not None and error.errno > 0 else str(error)


async def _enter(client: Client, slug: str) -> RoomJoined:
    try:
        return await client.call(JoinRoom(slug))
    except Refused as refused:
        if refused.code is not ErrorCode.NOT_FOUND:
            raise
    rooms = ", ".join(room.slug for room in (await client.call(ListRooms(limit=100))).rooms)
    raise Trouble(f"There is no looproom {slug!r} that is open to you. There are: {rooms or 'none'}.")


# The account


class _Kept(msgspec.Struct):
    email: str
    password: str


async def demo_account(url: str, name: str, data_dir: Path) -> Account:
    """Sign in with the account that was made for `name` at this server, or make one."""
    place = urlsplit(url)
    if not name.strip():
        raise Trouble("Your name in the room needs a letter at least.")
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower())[:SLUG_CHARACTERS].strip("-") or "someone"
    file = data_dir / "accounts" / f"{place.hostname}-{place.port or place.scheme}-{slug}.json"
    kept = _read(file)
    if kept is not None:
        try:
            return await sign_in(url, kept.email, kept.password)
        except Refused as refused:
            if refused.code is not ErrorCode.CREDENTIALS_REFUSED:
                raise
    new = _Kept(f"{slug}.{secrets.token_hex(4)}@demo.example.com", secrets.token_urlsafe(18))
    account = await register(url, new.email, new.password, name)
    _write(file, new)
    return account


def _read(file: Path) -> _Kept | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Kept)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _write(file: Path, kept: _Kept) -> None:
    """Keep the account; if that can't be done, the next visit makes another one."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(msgspec.json.encode(kept))


# The visit


class Visit:
    """One person in one looproom at one terminal."""

    def __init__(self, client: Client, joined: RoomJoined, terminal: Terminal) -> None:
        self._client = client
        self._joined = joined
        self._room = joined.room
        self._ref: RoomRef = str(joined.room.id)
        self._terminal = terminal
        self._people: dict[UserId, Person] = {person.id: person for person in joined.members}
        self._lines: dict[LineId, Person] = {}
        self._mine: LineId | None = None
        self._typing: list[Person] = []
        self._told_typing = 0.0
        self._work: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Show what happens and do what is typed, until one of both ends; return the exit code."""
        self._welcome()
        self._terminal.listen(self._edited)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._terminal.end)
        showing = asyncio.create_task(self._show_all())
        obeying = asyncio.create_task(self._obey_all())
        try:
            done, _ = await asyncio.wait({showing, obeying}, return_when=asyncio.FIRST_COMPLETED)
            if showing in done:
                return showing.result()
            await self._leave()
            return 0
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
            for task in (showing, obeying, *self._work):
                task.cancel()
            await asyncio.gather(showing, obeying, *self._work, return_exceptions=True)

    @property
    def _seen_as(self) -> Person:
        """As whom others see us here."""
        return self._joined.you or self._client.user

    @property
    def _me(self) -> UserId:
        return self._seen_as.id

    def _welcome(self) -> None:
        room, joined = self._room, self._joined
        say = self._terminal.show
        say(
            f"You are {readable(self._seen_as.name)} in {readable(room.title)}, by {readable(room.host.name)}."
        )
        for line in joined.recent:
            self._say_line(line)
        others = [p for p in joined.members if p.id != self._me]
        more = joined.online - 1 - len(others)
        names = ", ".join(readable(person.name) for person in others) or "nobody else yet"
        say(f"* Here: {names}{f' and {more} more' if more > 0 else ''}. /help says what you can do.")
        if joined.preview_ends_in is not None:
            say(f"* A premium room: your preview ends in {joined.preview_ends_in:.0f} s.")

    async def _leave(self) -> None:
        with contextlib.suppress(Refused, OSError):
            await self._client.call(LeaveRoom(self._ref), timeout=2)

    # What happens

    async def _show_all(self) -> int:
        async for occurrence in self._client:
            self.show(occurrence)
            if isinstance(occurrence, Departure):
                return 1
        return 0

    def show(self, occurrence: Occurrence) -> None:
        """Print an occurrence, or change the prompt by it."""
        say = self._terminal.show
        match occurrence:
            case ChatLine():
                self._say_line(occurrence.line)
            case ChatRevision():
                self._say_line(occurrence.line, "now says: ")
            case ChatRemoval():
                author = self._lines.pop(occurrence.line, None)
                whose = readable(author.name) if author is not None and not occurrence.departed else "someone"
                say(f"* A line of {whose}'s was removed.")
                if occurrence.line == self._mine:
                    self._mine = None
            case RoomPulse():
                self._pulse(occurrence)
            case Cue():
                say(f"* {readable(self._room.host.name)}: {readable(occurrence.cue)}")
            case Departure():
                where = f" {readable(occurrence.pay)}" if occurrence.pay else ""
                say(f"* You were taken out of the room. {readable(occurrence.message)}{where}")
            case OnAir():
                say("* The room is live." if occurrence.live else "* The room is not live any more.")
            case Notice():
                say(f"* To you: {readable(sentence(occurrence.notification))}.")
            case RoomUnlocked():
                say("* The room is open to you now, for as long as you like.")
            case Reconnecting():
                say(_reconnecting(occurrence))
                self._told_typing = 0.0
            case CaughtUp():
                say(f"* caught up ({occurrence.missed} missed)")
            case Snapshot():
                say("* You were away for too long to be told everything. The newest lines:")
                for line in occurrence.recent:
                    self._say_line(line)
                if occurrence.state is not None:
                    self._pulse(RoomPulse(occurrence.room, state=occurrence.state))
            case Shed():
                say("* Your terminal reads slowly; some reactions and typing were left out.")

    def _say_line(self, line: Line, verb: str = "") -> None:
        if line.removed:
            return
        self._lines[line.id] = line.author
        if len(self._lines) > LINES_KEPT:
            del self._lines[next(iter(self._lines))]
        if line.author.id == self._me:
            self._mine = line.id
        when = time.strftime("%H:%M", time.localtime(line.sent_at / 1000))
        self._terminal.show(f"{when} {readable(line.author.name)}: {verb}{readable(line.text)}")

    def _pulse(self, pulse: RoomPulse) -> None:
        say = self._terminal.show
        if pulse.state is not None:
            self._people = {person.id: person for person in pulse.state.members}
            self._now_typing(pulse.state.typing)
        for person in pulse.joins:
            self._people[person.id] = person
            if person.id != self._me:
                say(f"* {readable(person.name)} came in{_count(pulse.online)}")
        for user in pulse.leaves:
            gone = self._people.pop(user, None)
            if gone is not None:
                say(f"* {readable(gone.name)} left{_count(pulse.online)}")
        if pulse.online is not None and not pulse.joins and not pulse.leaves:
            say(f"* {pulse.online} here")
        for reaction, tally in pulse.reactions.items():
            names = [readable(r.person.name) for r in pulse.reactors if r.reaction is reaction]
            say(f"* {SIGNS[reaction]} {_given(reaction, tally.added, names)} ({tally.total} in all)")
        if pulse.confidence is not None:
            say(f"* {_confidence(pulse.confidence)}")
        if pulse.typing is not None:
            self._now_typing(pulse.typing)

    def _now_typing(self, people: list[Person]) -> None:
        others = [person for person in people if person.id != self._me]
        if not self._terminal.interactive:
            before = {person.id for person in self._typing}
            for person in others:
                if person.id not in before:
                    self._terminal.show(f"* {readable(person.name)} is writing…")
        names = ", ".join(readable(person.name) for person in others[:3])
        self._terminal.ask(f"({names} writing…) > " if names else "> ")
        self._typing = others

    # What is typed

    def _edited(self, text: str) -> None:
        """Tell the room that one is writing, now and then while one is."""
        writing = bool(text) and not text.startswith("/")
        now = time.monotonic()
        if writing and now - self._told_typing >= TYPING_AGAIN:
            self._told_typing = now
        elif not writing and self._told_typing:
            self._told_typing = 0.0
        else:
            return
        self._begin(self._tell_typing(writing=writing))

    async def _tell_typing(self, *, writing: bool) -> None:
        with contextlib.suppress(Refused, OSError):
            await self._client.call(SetTyping(self._ref, writing), timeout=2)

    def _begin(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _obey_all(self) -> None:
        async for line in self._terminal.lines():
            if line.strip() in {"/quit", "/exit", "/q"}:
                return
            try:
                await self.obey(line.strip())
            except Refused as refused:
                self._terminal.show(f"! {readable(refused.message)}")
            except Disconnected:
                return
            except (Unanswered, TimeoutError) as error:
                self._terminal.show(f"! {error}")

    async def obey(self, line: str) -> None:
        """Do what a line says. Raises what `Client.call` raises."""
        command, _, rest = line.partition(" ")
        rest = rest.strip()
        if not line:
            return
        if not line.startswith("/") or line.startswith("//"):
            sent = await self._client.send_chat(self._ref, line.removeprefix("/"), timeout=PATIENCE)
            self._mine = sent.line.id
        elif command[1:].upper() in Reaction.__members__ and rest in {"", "off"}:
            await self._react(Reaction[command[1:].upper()], off=rest == "off")
        elif command == "/who":
            await self._who()
        elif command == "/confidence" and re.fullmatch(r"[1-9]|10", rest):
            await self._client.call(SetConfidence(self._ref, int(rest)))
            self._terminal.show(f"* You are at {rest}.")
        elif command == "/edit" and rest and self._mine is not None:
            await self._client.call(EditChat(self._ref, self._mine, rest))
        elif command == "/remove" and self._mine is not None:
            await self._client.call(RemoveChat(self._ref, self._mine))
            self._mine = None
        elif command == "/block" and rest:
            await self._block(rest)
        elif command == "/unblock" and rest:
            await self._unblock(rest)
        elif command in {"/edit", "/remove"} and self._mine is None:
            self._terminal.show("! You have said nothing here yet.")
        elif command == "/help":
            reactions = " ".join(f"/{reaction.lower()}" for reaction in Reaction)
            self._terminal.show(HELP.format(reactions=reactions))
        else:
            self._terminal.show(
                f"! {readable(line)} is nothing that this terminal knows. /help says what it does."
            )

    async def _react(self, reaction: Reaction, *, off: bool) -> None:
        target = Target(kind=TargetKind.LOOPROOM, id=self._room.id)
        if off:
            taken = await self._client.call(RemoveReaction(target, reaction))
            if not taken.removed:
                self._terminal.show(f"! You have given no {reaction.lower()}.")
        else:
            given = await self._client.call(AddReaction(target, reaction))
            if not given.added:
                self._terminal.show(f"! You have given your {reaction.lower()} already.")

    async def _block(self, name: str) -> None:
        known = [*self._people.values(), *self._lines.values()]
        person = next((one for one in known if readable(one.name) == name and one.id != self._me), None)
        if person is None:
            self._terminal.show(f"! You see nobody here who is called {readable(name)}.")
            return
        done = await self._client.call(BlockPerson(person=person.id, room=self._ref))
        self._people.pop(person.id, None)
        self._terminal.show(
            f"* You and {readable(done.relation.person.name)} are not there for each other any more."
        )

    async def _unblock(self, name: str) -> None:
        blocked = await self._client.call(ListRelations(RelationKind.BLOCKED, limit=100))
        people = [one.person for one in blocked.relations if readable(one.person.name) == name]
        for person in people:
            await self._client.call(UnblockPerson(person.id))
        self._terminal.show(
            f"* {readable(name)} is there for you again."
            if people
            else f"! You have blocked nobody who is called {readable(name)}."
        )

    async def _who(self) -> None:
        page = await self._client.call(ListPresence(self._ref, limit=50))
        names = ", ".join(readable(person.name) for person in page.members)
        more = page.online - len(page.members)
        self._terminal.show(f"* {page.online} here: {names}{f' and {more} more' if more > 0 else ''}")


def readable(text: str) -> str:
    """Return what others wrote so that it can do nothing to a terminal; further lines of it are indented."""
    return normalised(text).replace("\n", "\n      ")


def _reconnecting(state: Reconnecting) -> str:
    if state.attempt == 1:
        return "* reconnecting…"
    return f"* reconnecting… (attempt {state.attempt}, in {state.wait:.0f} s)"


def _count(online: int | None) -> str:
    return "" if online is None else f" ({online} here)"


def _confidence(confidence: Confidence) -> str:
    if confidence.count == 0:
        return "The confidence meter is empty"
    people = "1 person" if confidence.count == 1 else f"{confidence.count} people"
    return f"The room's confidence is {confidence.mean:.1f} ({people})"


def _given(reaction: Reaction, added: int, names: list[str]) -> str:
    if added < 0:
        return f"{-added} {reaction.lower()} taken back"
    by = f" from {', '.join(names)}" if names else ""
    more = added - len(names)
    return f"{added} {reaction.lower()}{by}{f' and {more} more' if names and more > 0 else ''}"
