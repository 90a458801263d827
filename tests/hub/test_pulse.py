"""The pulse, as a plain object: exact whatever is merged, silent when nothing changed, never faster than its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from protocol.envelope import Person, RoomId, UserId
from protocol.presence import Confidence, RoomPulse
from protocol.reactions import Reaction, Reactor, Tally
from server.hub.pulse import NAMED, SAMPLE, Pulse
from tests.audience import Listener

ROOM = RoomId(UUID(int=7))
INTERVAL = 0.05


def person(number: int, name: str = "") -> Person:
    """Return a person whose id is `number`."""
    return Person(id=UserId(UUID(int=number)), name=name or f"person {number}")


@dataclass
class Truth:
    """What is true of a room, to be changed at will."""

    people: dict[UserId, Person] = field(default_factory=dict)
    typing: Sequence[Person] = ()
    confidence: Confidence = field(default_factory=lambda: Confidence(mean=0.0, count=0))


class Subject:
    """A pulse and the truth that it tells of."""

    def __init__(self, small_room: int = 200) -> None:
        self.truth = Truth()
        self.pulse = Pulse(ROOM, self.truth, small_room=small_room, interval=INTERVAL)
        self.now = 100.0

    def come(self, *people: Person) -> None:
        """Let people enter, or enter again under another name."""
        for who in people:
            before = self.truth.people.get(who.id)
            self.truth.people[who.id] = who
            self.pulse.touch(who.id, before)

    def go(self, *people: Person) -> None:
        """Let people leave."""
        for who in people:
            self.pulse.touch(who.id, self.truth.people.pop(who.id))

    def take(self) -> RoomPulse | None:
        """Let the interval pass, and take the pulse."""
        self.now += INTERVAL
        return self.pulse.take(self.now)


def test_nothing_happened() -> None:
    """A room in which nothing changed has no pulse."""
    assert Subject().take() is None


def test_joins_and_leaves() -> None:
    """A small room is told exactly who came and who went."""
    room = Subject()
    room.come(person(1), person(2))
    assert room.take() == RoomPulse(room=ROOM, online=2, joins=[person(1), person(2)])
    room.go(person(1))
    room.come(person(3))
    assert room.take() == RoomPulse(room=ROOM, joins=[person(3)], leaves=[person(1).id])
    assert room.take() is None


def test_join_and_leave_cancel() -> None:
    """Someone who came and went, or went and came, between two pulses is not mentioned."""
    room = Subject()
    room.come(person(1))
    room.take()
    room.come(person(2))
    room.go(person(2))
    room.go(person(1))
    room.come(person(1))
    assert room.take() is None


def test_renamed() -> None:
    """Someone who has another name now is told of as joining: the newest replaces what was known."""
    room = Subject()
    room.come(person(1))
    room.take()
    room.come(person(1, "another"))
    assert room.take() == RoomPulse(room=ROOM, joins=[person(1, "another")])


def test_at_once_when_quiet_and_spaced_when_busy() -> None:
    """The first pulse may go at once, the next one an interval later; a pulse of nothing does not count."""
    room = Subject()
    assert room.pulse.earliest(room.now) == room.now
    assert room.pulse.take(room.now) is None
    room.come(person(1))
    assert room.pulse.earliest(room.now) == room.now
    room.pulse.take(room.now)
    assert room.pulse.earliest(room.now) == room.now + INTERVAL
    assert room.pulse.earliest(room.now + 1) == room.now + 1


def test_typing_and_confidence_replace() -> None:
    """Who writes and the confidence meter are told whole, when they changed; five writers are named at most."""
    room = Subject()
    room.truth.typing = [person(number) for number in range(9)]
    room.truth.confidence = Confidence(mean=6.5, count=2)
    told = room.take()
    assert told is not None
    assert told.typing == [person(number) for number in range(NAMED)]
    assert told.confidence == Confidence(mean=6.5, count=2)
    room.truth.typing = []
    assert room.take() == RoomPulse(room=ROOM, typing=[])


def test_reactions_add_up() -> None:
    """Deltas of all commits since the last pulse are summed, the newest total counts, whatever the order of arrival."""
    room = Subject()
    room.pulse.counted({Reaction.HEART: (10, 4)})
    room.pulse.settle()
    room.pulse.reacted(Reaction.HEART, added=5, total=17, revision=6)
    room.pulse.reacted(Reaction.HEART, added=2, total=12, revision=5)
    room.pulse.reacted(Reaction.CLAP, added=1, total=1, revision=1)
    assert room.take() == RoomPulse(
        room=ROOM,
        reactions={Reaction.HEART: Tally(added=7, total=17), Reaction.CLAP: Tally(added=1, total=1)},
    )
    room.pulse.reacted(Reaction.CLAP, added=-1, total=0, revision=2)
    assert room.take() == RoomPulse(room=ROOM, reactions={Reaction.CLAP: Tally(added=-1, total=0)})


def test_total_that_was_not_known() -> None:
    """Where the total could not be read at first, a commit adds what it added and not all there are."""
    room = Subject()
    room.pulse.reacted(Reaction.FIRE, added=2, total=502, revision=90)
    assert room.take() == RoomPulse(room=ROOM, reactions={Reaction.FIRE: Tally(added=2, total=502)})


def test_total_that_is_read_late() -> None:
    """A total that is read after people entered is told without anybody having reacted."""
    room = Subject()
    room.pulse.counted({Reaction.FIRE: (500, 90)})
    assert room.take() == RoomPulse(room=ROOM, reactions={Reaction.FIRE: Tally(added=0, total=500)})
    room.pulse.counted({Reaction.FIRE: (400, 80)})
    assert room.take() is None
    room.pulse.counted({Reaction.FIRE: (501, 91), Reaction.CLAP: (3, 3)})
    assert room.take() == RoomPulse(
        room=ROOM,
        reactions={Reaction.FIRE: Tally(added=1, total=501), Reaction.CLAP: Tally(added=3, total=3)},
    )


def test_reactors_are_few_and_new() -> None:
    """The newest five reactors are named once each, and not if they took it back."""
    room = Subject()
    named = [Reactor(person=person(number), reaction=Reaction.HEART) for number in range(9)]
    for reactor in [*named, named[-1]]:
        room.pulse.reactor(reactor)
    room.pulse.unreactor(named[7])
    room.pulse.unreactor(named[0])
    told = room.take()
    assert told is not None
    assert told.reactors == [named[4], named[5], named[6], named[8]]
    assert room.take() is None


def test_large_room_is_counted() -> None:
    """Above the limit a sample and the number are told once, then only the number."""
    room = Subject(small_room=100)
    room.come(*[person(number) for number in range(101)])
    told = room.take()
    assert told is not None
    assert told.state is not None
    assert told.state.online == 101
    assert told.state.members == [person(number) for number in range(SAMPLE)]
    assert not told.state.complete
    assert (told.online, told.joins) == (None, [])
    room.come(person(200))
    room.go(person(1), person(2))
    assert room.take() == RoomPulse(room=ROOM, online=100)


def test_large_room_shrinks() -> None:
    """A large room is small again a tenth below the limit, not before, and then everyone is named again."""
    room = Subject(small_room=10)
    room.come(*[person(number) for number in range(11)])
    room.take()
    room.go(person(10))
    assert room.take() == RoomPulse(room=ROOM, online=10)
    room.go(person(9))
    told = room.take()
    assert told is not None
    assert told.state is not None
    assert (told.state.online, told.state.complete) == (9, True)
    assert told.state.members == [person(number) for number in range(9)]
    room.come(person(12))
    assert room.take() == RoomPulse(room=ROOM, online=10, joins=[person(12)])


def test_storm_of_newcomers_gets_samples() -> None:
    """A room that outgrew the limit since its last pulse hands out samples, and tells the others of its shape."""
    room = Subject(small_room=10)
    room.come(*[person(number) for number in range(100)])
    assert len(room.pulse.state().members) == SAMPLE
    room.go(*[person(number) for number in range(95)])
    told = room.take()
    assert told is not None
    assert told.state == room.pulse.state()
    assert told.state.complete


def test_newcomer_hears_what_cancelled() -> None:
    """What a newcomer was handed before the others were told, and is no longer true, is taken back."""
    room = Subject()
    room.come(person(1))
    room.take()
    room.come(person(2))
    room.truth.typing = [person(2)]
    room.truth.confidence = Confidence(mean=3, count=1)
    room.pulse.reacted(Reaction.HEART, added=1, total=1, revision=1)
    assert room.pulse.state().online == 2
    room.go(person(2))
    room.truth.typing = []
    room.truth.confidence = Confidence(mean=0, count=0)
    room.pulse.reacted(Reaction.HEART, added=-1, total=0, revision=2)
    assert room.take() == RoomPulse(
        room=ROOM,
        online=1,
        leaves=[person(2).id],
        typing=[],
        confidence=Confidence(mean=0, count=0),
        reactions={Reaction.HEART: Tally(added=0, total=0)},
    )
    assert room.take() is None


people = st.integers(min_value=0, max_value=15)
kinds = st.sampled_from([Reaction.HEART, Reaction.CLAP])


class Merging(RuleBasedStateMachine):
    """Anything happens in any order; people enter at any time; pulses go now and then."""

    @initialize(small_room=st.sampled_from([3, 10, 20]))
    def start(self, small_room: int) -> None:
        self.room = Subject(small_room)
        self.room.pulse.counted({})
        self.room.pulse.settle()
        self.clients = [Listener(self.room.pulse.state())]
        self.totals = dict.fromkeys((Reaction.HEART, Reaction.CLAP), 0)
        self.revisions = dict.fromkeys((Reaction.HEART, Reaction.CLAP), 0)
        self.given = dict.fromkeys((Reaction.HEART, Reaction.CLAP), 0)
        self.late: list[tuple[Reaction, int, int, int]] = []

    @rule(number=people, name=st.sampled_from(["", "renamed"]))
    def come(self, number: int, name: str) -> None:
        self.room.come(person(number, name))

    @rule(number=people)
    def go(self, number: int) -> None:
        if person(number).id in self.room.truth.people:
            self.room.go(person(number))

    @rule(count=st.integers(min_value=5, max_value=15))
    def storm(self, count: int) -> None:
        self.room.come(*[person(number) for number in range(count)])

    @rule(numbers=st.lists(people, max_size=7, unique=True))
    def write(self, numbers: list[int]) -> None:
        self.room.truth.typing = [person(number) for number in numbers]

    @rule(mean=st.integers(min_value=1, max_value=10))
    def feel(self, mean: int) -> None:
        self.room.truth.confidence = Confidence(mean=mean, count=1)

    @rule(kind=kinds, added=st.integers(min_value=-3, max_value=5), late=st.booleans())
    def react(self, kind: Reaction, added: int, late: bool) -> None:
        if self.totals[kind] + added < 0:
            return
        self.totals[kind] += added
        self.revisions[kind] += 1
        commit = (kind, added, self.totals[kind], self.revisions[kind])
        self.late.append(commit)
        if not late:
            self.arrive()

    @rule()
    def arrive(self) -> None:
        for kind, added, total, revision in reversed(self.late):
            self.room.pulse.reacted(kind, added=added, total=total, revision=revision)
        self.late.clear()

    @rule()
    def newcomer(self) -> None:
        self.clients.append(Listener(self.room.pulse.state()))

    @rule()
    def beat(self) -> None:
        pulse = self.room.take()
        if pulse is None:
            return
        assert pulse != RoomPulse(room=ROOM)
        for client in self.clients:
            client.hear(pulse)
        for kind, tally in pulse.reactions.items():
            self.given[kind] += tally.added

    @rule()
    def everyone_knows_the_truth(self) -> None:
        self.arrive()
        self.beat()
        truth = self.room.truth
        for client in self.clients:
            assert client.online == len(truth.people)
            assert client.typing == list(truth.typing)[:NAMED]
            assert client.confidence == truth.confidence
            assert {k: v for k, v in client.totals.items() if v} == {
                k: v for k, v in self.totals.items() if v
            }
            assert client.complete is not self.room.pulse.large
            if client.complete:
                assert client.members == truth.people
        assert self.given == self.totals
        assert self.room.take() is None

    def teardown(self) -> None:
        if hasattr(self, "room"):
            self.everyone_knows_the_truth()


Merging.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestMerging = Merging.TestCase
