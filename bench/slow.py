"""Slow: do people notice that somebody in their room does not read?

Lines are said in a room, in spans that take turns: one in which everyone reads, one in which some more people came in who
never read a byte. Those are shed, then closed, as the server sees fit. What counts is whether the others have every line, and by
how much the 99th percentile of their arrivals differs between the spans.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from bench import fanout
from bench.crowd import Crowd
from bench.fanout import Figures, one_span, plans, settle
from bench.ground import Ground
from bench.histogram import Histogram
from bench.result import LESS, Figure, Result, curve, latency_figures, new_result
from bench.roomlog import Unexpected
from bench.team import employed
from bench.tongue import Looprooms, Seat
from bench.wire import client_frame, frames, opening_request

RECEIVE_BYTES = 4096
"""What the system of one who does not read takes for them: as little as can be."""
_PATIENCE = 10.0


class Question(msgspec.Struct, kw_only=True):
    """What is asked. The rate is lines a second."""

    members: Annotated[int, Meta(description="People in the room who read.")] = 500
    slow: Annotated[int, Meta(description="People who come in and read nothing.")] = 1
    rate: Annotated[float, Meta(description="Lines a second.")] = 50.0
    size: Annotated[int, Meta(description="Characters of a line.")] = 1000
    rounds: Annotated[int, Meta(description="Spans of each kind, taking turns.")] = 3
    seconds: Annotated[float, Meta(description="Length of each span.")] = 5.0
    warmup: Annotated[
        float, Meta(description="Seconds before it, in which whoever reads nothing falls behind.")
    ] = 3.0
    authors: Annotated[int, Meta(description="People who speak.")] = 16
    clients: Annotated[int, Meta(description="Processes of listeners.")] = 1
    sample: Annotated[int, Meta(description="One in so many listeners has its latencies taken.")] = 5


class Spans(msgspec.Struct):
    """All spans of one kind."""

    latencies: Histogram
    answers: Histogram
    missing: int = 0
    cpu: float = 0.0
    seconds: float = 0.0

    def add(self, figures: Figures) -> None:
        """Take one more."""
        self.latencies.update(figures.latencies)
        self.answers.update(figures.answers)
        self.missing += figures.missing
        self.cpu += sum(figures.usage.cpu.values())
        self.seconds += figures.seconds


def ask(question: Question, ground: Ground) -> Result:
    """Put the question."""
    seats = ground.seats(rooms=1, members=question.members + question.slow, authors=question.authors)
    listeners, late = seats.listeners[0][question.slow :], seats.listeners[0][: question.slow]
    as_fanout = fanout.Question(
        members=question.members, size=question.size, clients=question.clients, sample=question.sample
    )
    tongue = Looprooms(ground.subprotocol)
    made = plans(as_fanout, tongue, ground.addresses, members=[listeners], authors=seats.authors)
    alone, beside = Spans(Histogram(), Histogram()), Spans(Histogram(), Histogram())
    with (
        employed(Crowd, made, ground.tester_cores) as team,
        ground.progress.counting("spans", 2 * question.rounds) as ready,
    ):
        settled = settle(team, ground.pids)

        def span() -> Figures:
            return one_span(team, ground.pids, settled, question.rate, question.warmup, question.seconds)

        for number in range(question.rounds):
            alone.add(span())
            ready(2 * number + 1)
            with unread(tongue, ground.addresses, late):
                beside.add(span())
            ready(2 * number + 2)
    return result(question, alone, beside, ground.conditions)


@contextlib.contextmanager
def unread(tongue: Looprooms, addresses: Sequence[tuple[str, int]], seats: Sequence[Seat]) -> Iterator[None]:
    """Have people in their rooms who read nothing any more. Raises `Unexpected` when they can't come in."""
    with contextlib.ExitStack() as stack:
        for seat in seats:
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
            sock.settimeout(_PATIENCE)
            try:
                sock.connect(addresses[seat.place])
                _enter(sock, tongue, seat, addresses[seat.place])
            except OSError as error:
                raise Unexpected(f"one who reads nothing can't come in: {error}") from error
        yield


def _enter(sock: socket.socket, tongue: Looprooms, seat: Seat, address: tuple[str, int]) -> None:
    sock.sendall(opening_request(*address, tongue.subprotocol))
    held = b""
    while b"\r\n\r\n" not in held:
        held += _received(sock)
    held = held.partition(b"\r\n\r\n")[2]
    steps = tongue.enter(seat)
    word = next(steps)
    with contextlib.suppress(StopIteration):
        while True:
            if word is not None:
                sock.sendall(client_frame(tongue.opcode, word))
            while (found := next(iter(frames(held)), None)) is None:
                held += _received(sock)
            payload, held = held[found.payload : found.end], held[found.end :]
            word = steps.send(payload)


def _received(sock: socket.socket) -> bytes:
    data = sock.recv(65536)
    if not data:
        raise ConnectionResetError("the server ended it")
    return data


def result(question: Question, alone: Spans, beside: Spans, conditions: dict[str, str]) -> Result:
    """Return what is kept of a run."""
    found = new_result(
        "slow",
        __doc__,
        f"slow: {question.members:,} members, {question.slow:,} who read nothing, {question.rate:g} lines/s",
        question,
        conditions,
    )
    before, after = (spans.latencies.percentile(99) for spans in (alone, beside))
    found.figures = [
        *latency_figures("arrival, all read", alone.latencies.counts),
        *latency_figures("arrival, some don't", beside.latencies.counts),
        Figure(
            "change of the 99th percentile",
            round((after / before - 1) * 100, 1) if before else 0.0,
            "%",
            LESS,
        ),
        *latency_figures("answer, some don't", beside.answers.counts),
        Figure("CPU, all read", round(alone.cpu / alone.seconds * 100, 1), "% of a core"),
        Figure("CPU, some don't", round(beside.cpu / beside.seconds * 100, 1), "% of a core"),
        Figure("missing", alone.missing + beside.missing),
    ]
    found.curves = [
        curve("all read", alone.latencies.counts),
        curve("some don't", beside.latencies.counts),
    ]
    return found
