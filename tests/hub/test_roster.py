"""The roster, as a plain object: one person is one person, and whatever is lost is asked for and made good."""

from __future__ import annotations

import random
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from protocol.envelope import Person, UserId
from protocol.presence import Confidence
from server.hub.roster import HELD, LARGE, UNREAD, Roster
from storage.presence import Entry, Shift

NORTH, SOUTH = b"north---", b"south---"


def entry(number: int, level: int = 0, at: int = 0, name: str = "") -> Entry:
    """Return the entry of the person whose id is `number`."""
    person = Person(id=user(number), name=name or f"person {number}")
    return Entry(person, level, at)


def user(number: int) -> UserId:
    """Return an id."""
    return UserId(UUID(int=number))


class Told:
    """Keeps the first `before` of everyone who was touched, as a pulse does."""

    def __init__(self) -> None:
        self.touched: dict[UserId, Person | None] = {}
        self.roster = Roster(self.touch)

    def touch(self, user: UserId, before: Person | None) -> None:
        assert self.roster.people.get(user) == before
        self.touched.setdefault(user, before)

    def moves(self) -> tuple[set[UserId], set[UserId]]:
        """Return who came and who went since the last call."""
        people = self.roster.people
        came = {user for user, before in self.touched.items() if before is None and user in people}
        went = {user for user, before in self.touched.items() if before is not None and user not in people}
        self.touched.clear()
        return came, went


def test_one_person_on_two_nodes() -> None:
    """A person who is here and elsewhere comes once, and goes when the last place is left."""
    told = Told()
    told.roster.put(entry(1))
    assert told.moves() == ({user(1)}, set())
    assert told.roster.replace(NORTH, 5, [entry(1), entry(2)])
    assert told.moves() == ({user(2)}, set())
    told.roster.remove(user(1))
    assert told.moves() == (set(), set())
    assert told.roster.apply(Shift(NORTH, 6, gone=[user(1), user(7)]))
    assert told.moves() == (set(), {user(1)})
    assert list(told.roster.people) == [user(2)]


def test_gap_is_seen() -> None:
    """A change after a missing one is held back and asked for; what comes late is worth nothing any more."""
    told = Told()
    told.roster.replace(NORTH, 1, [])
    assert told.roster.apply(Shift(NORTH, 2, [entry(1)]))
    assert not told.roster.apply(Shift(NORTH, 4, [entry(3)]))
    assert list(told.roster.people) == [user(1)]
    assert told.roster.replace(NORTH, 4, [entry(1), entry(2), entry(3)])
    assert told.roster.apply(Shift(NORTH, 3, [entry(9)], [user(1)]))
    assert list(told.roster.people) == [user(1), user(2), user(3)]


def test_missing_change_comes_late() -> None:
    """When the missing change arrives after all, what was held follows it."""
    told = Told()
    told.roster.replace(NORTH, 1, [entry(1)])
    assert not told.roster.apply(Shift(NORTH, 3, [entry(1)]))
    assert told.roster.apply(Shift(NORTH, 2, [], [user(1)]))
    assert list(told.roster.people) == [user(1)]


def test_unknown_node_is_read_first() -> None:
    """Nothing of a node is believed before what it has written was read, and nothing is lost while it is read."""
    told = Told()
    assert not told.roster.apply(Shift(NORTH, 8, [entry(1)]))
    assert told.roster.people == {}
    assert told.roster.sequence(NORTH) == UNREAD
    assert told.roster.replace(NORTH, 7, [entry(2)])
    assert sorted(told.roster.people) == [user(1), user(2)]


def test_what_is_held_is_bounded() -> None:
    """Of very many changes that cannot be applied the newest are kept, and it is read again."""
    told = Told()
    for sequence in range(1, 1000):
        assert not told.roster.apply(Shift(NORTH, sequence, [entry(sequence)]))
    assert not told.roster.replace(NORTH, 10, [])
    assert told.roster.replace(NORTH, 999 - HELD, [])
    assert len(told.roster.people) == HELD


def test_older_reading_changes_nothing() -> None:
    """A reading that is older than what is known already is set aside."""
    told = Told()
    told.roster.replace(NORTH, 5, [entry(1)])
    assert told.roster.replace(NORTH, 4, [])
    assert list(told.roster.people) == [user(1)]


def test_node_is_dropped() -> None:
    """With a node go those whom only it had."""
    told = Told()
    told.roster.replace(NORTH, 1, [entry(1), entry(2)])
    told.roster.replace(SOUTH, 1, [entry(2), entry(3)])
    told.moves()
    told.roster.drop(NORTH)
    told.roster.drop(NORTH)
    assert told.moves() == (set(), {user(1)})
    assert list(told.roster.nodes) == [SOUTH]


def test_expected_node() -> None:
    """A node that is known to have somebody here is listed, without anybody."""
    told = Told()
    told.roster.expect(NORTH)
    assert list(told.roster.nodes) == [NORTH]
    assert told.roster.sequence(NORTH) == UNREAD
    told.roster.replace(NORTH, 2, [entry(1)])
    told.roster.expect(NORTH)
    assert told.roster.sequence(NORTH) == 2


def test_newest_level_counts() -> None:
    """Of a person on two nodes the level that was set last counts, once, in whatever order it is learned."""
    told = Told()
    told.roster.put(entry(1, level=4, at=100))
    told.roster.replace(NORTH, 1, [entry(1, level=9, at=200), entry(2, level=5, at=1)])
    assert told.roster.confidence == Confidence(mean=7.0, count=2)
    told.roster.put(entry(1, level=1, at=300))
    assert told.roster.confidence == Confidence(mean=3.0, count=2)
    told.roster.remove(user(1))
    assert told.roster.confidence == Confidence(mean=7.0, count=2)
    told.roster.drop(NORTH)
    assert told.roster.confidence == Confidence(mean=0.0, count=0)


def test_renamed() -> None:
    """A new name is a change that is told."""
    told = Told()
    told.roster.put(entry(1))
    told.touched.clear()
    told.roster.put(entry(1, name="another"))
    assert told.touched == {user(1): entry(1).person}


def test_writing() -> None:
    """Who writes is listed in the order of beginning, until the time is over, they stop or leave."""
    roster = Told().roster
    for number in (3, 1, 2, 4):
        roster.put(entry(number))
    for number in (1, 3, 2, 4, 5):
        roster.start_writing(user(number), until=10.0)
    roster.start_writing(user(1), until=12.0)
    assert [person.id for person in roster.typing] == [user(1), user(3), user(2), user(4)]
    roster.stop_writing(user(3))
    roster.stop_writing(user(3))
    roster.remove(user(2))
    roster.put(entry(2))
    assert [person.id for person in roster.typing] == [user(1), user(4)]
    assert roster.forget_writing(10.0)
    assert [person.id for person in roster.typing] == [user(1)]
    assert not roster.forget_writing(11.0)
    assert roster.writes
    assert roster.forget_writing(12.0)
    assert not roster.writes


def test_pages() -> None:
    """Everyone who is here is on exactly one page, in the order of ids, however they came."""
    roster = Told().roster
    for number in random.Random(1).sample(range(250), 250):
        roster.put(entry(number))
    first = roster.page(None, 100, now=0.0)
    assert (first.online, first.more) == (250, True)
    second = roster.page(first.members[-1].id, 100, now=0.0)
    third = roster.page(second.members[-1].id, 50, now=0.0)
    assert not third.more
    listed = [person.id for page in (first, second, third) for person in page.members]
    assert listed == [user(number) for number in range(250)]
    assert roster.page(user(249), 100, now=0.0).members == []


def test_pages_of_a_large_room() -> None:
    """A large room is sorted once a second; those who left since are on no page."""
    roster = Told().roster
    for number in range(LARGE + 2):
        roster.put(entry(number))
    assert len(roster.page(None, 1000, now=0.0).members) == LARGE + 2
    roster.remove(user(0))
    roster.put(entry(9999))
    page = roster.page(None, 1000, now=0.5)
    assert (page.online, len(page.members)) == (LARGE + 2, LARGE + 1)
    assert roster.page(None, 1000, now=1.5).members[-1].id == user(9999)


people = st.integers(min_value=0, max_value=7)
nodes = st.sampled_from([NORTH, SOUTH])


class Spreading(RuleBasedStateMachine):
    """Two other nodes change; their changes are lost, doubled and disordered; one node reads again what it is told to."""

    @initialize(seed=st.integers(min_value=0, max_value=2**32))
    def start(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.told = Told()
        self.known: set[UserId] = set()
        self.written: dict[bytes, tuple[int, dict[UserId, Entry]]] = {NORTH: (0, {}), SOUTH: (0, {})}
        self.on_the_way: list[Shift] = []
        self.to_read: set[bytes] = set()
        self.reading: dict[bytes, tuple[int, list[Entry]]] = {}

    @rule(node=nodes, comes=st.lists(people, max_size=3), goes=st.lists(people, max_size=3), at=people)
    def change(self, node: bytes, comes: list[int], goes: list[int], at: int) -> None:
        sequence, entries = self.written[node]
        gone = [user(number) for number in goes if user(number) in entries]
        came = [entry(number, level=1 + at, at=at) for number in comes]
        entries = {user: entry for user, entry in entries.items() if user not in gone}
        entries |= {one.person.id: one for one in came}
        self.written[node] = sequence + 1, entries
        self.on_the_way.append(Shift(node, sequence + 1, came, gone))

    @rule(node=nodes)
    def announce_anew(self, node: bytes) -> None:
        sequence, entries = self.written[node]
        self.written[node] = sequence + 1000, entries
        self.on_the_way.append(Shift(node, sequence + 1000))

    @rule(fate=st.sampled_from(["in order", "in order", "any", "doubled", "lost"]))
    def deliver(self, fate: str) -> None:
        if not self.on_the_way:
            return
        at = 0 if fate == "in order" else self.random.randrange(len(self.on_the_way))
        shift = self.on_the_way[at] if fate == "doubled" else self.on_the_way.pop(at)
        if fate != "lost" and not self.told.roster.apply(shift):
            self.to_read.add(shift.node)

    @rule(node=nodes)
    def ask(self, node: bytes) -> None:
        sequence, entries = self.written[node]
        self.reading[node] = sequence, list(entries.values())

    @rule(node=nodes)
    def read(self, node: bytes) -> None:
        if node in self.reading:
            self.to_read.discard(node)
            if not self.told.roster.replace(node, *self.reading.pop(node)):
                self.to_read.add(node)

    @rule(number=people)
    def own(self, number: int) -> None:
        if user(number) in self.told.roster.own:
            self.told.roster.remove(user(number))
        else:
            self.told.roster.put(entry(number, level=3, at=3))

    @rule(node=nodes)
    def believed_dead(self, node: bytes) -> None:
        self.told.roster.drop(node)

    @rule()
    def pulse(self) -> None:
        came, went = self.told.moves()
        assert not came & self.known
        assert went <= self.known
        self.known = (self.known | came) - went
        assert self.known == self.told.roster.people.keys()

    @rule()
    def settle(self) -> None:
        while self.on_the_way:
            self.deliver("in order")
        for node, (sequence, entries) in self.written.items():
            if (
                node in self.to_read or self.told.roster.sequence(node) != sequence
            ):  # as anti-entropy finds it
                assert self.told.roster.replace(node, sequence, list(entries.values()))
        self.to_read.clear()
        self.reading.clear()
        roster = self.told.roster
        everywhere = [roster.own, *[entries for _, entries in self.written.values()]]
        assert roster.people.keys() == set().union(*everywhere)
        newest = [
            max(
                (entries[one] for entries in everywhere if one in entries),
                key=lambda e: (e.level_at, e.level),
            )
            for one in roster.people
        ]
        levels = [one.level for one in newest if one.level]
        mean = round(sum(levels) / len(levels), 2) if levels else 0.0
        assert roster.confidence == Confidence(mean=mean, count=len(levels))
        self.pulse()

    def teardown(self) -> None:
        if hasattr(self, "told"):
            self.settle()


Spreading.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestSpreading = Spreading.TestCase
