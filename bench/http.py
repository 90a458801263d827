"""HTTP: how late are the answers of the HTTP side at a given number of requests a second?

Requests go out at a fixed rate on connections that are kept open; each has its moment, and its latency counts from then,
waiting for a free connection included. The requests take turns; each is sent with the access token of one of the people. Signing
in is not among them: a password costs 20 ms of a core on purpose.

What is promised is 1,000 a second, mixed, with p95 below 200 ms, and 50 ms for what Postgres is asked:
``python -m bench http --workers 2``.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Annotated, Final, cast

import msgspec
from msgspec import Meta

from bench.fanout import START_SECONDS, cautions, cpu_plot, sleep_until, testers_line
from bench.ground import Ground
from bench.histogram import Histogram
from bench.meter import Meter, Reading, share_figures, usage
from bench.party import Tally, merged
from bench.result import LESS, MORE, Figure, Result, curve, latency_figures, new_result
from bench.roomlog import Unexpected
from bench.statements import at_most, between, counted
from bench.team import employed, paced, still_collector, until_true

MIXED: Final = (
    "/me,/me/sessions,/me/identities,/payments/subscription,DELETE /me/sessions,"
    "/payments/plans,/auth/providers,/.well-known/jwks.json,/health/ready,/docs"
)
"""What an app asks, a page, and an operator: five of ten are about the person and ask Postgres twice, one of them to write."""
_ANSWER_SECONDS = 30.0


class Question(msgspec.Struct, kw_only=True):
    """What is asked."""

    rate: Annotated[float, Meta(description="Requests a second.")] = 1000.0
    paths: Annotated[
        str,
        Meta(description="Paths, by commas, which take turns; one that is not got begins with its method."),
    ] = MIXED
    connections: Annotated[int, Meta(description="Connections that are kept open.")] = 50
    people: Annotated[int, Meta(description="Accounts whose tokens are used, in turn.")] = 50
    seconds: Annotated[float, Meta(description="Length of the measured span.")] = 10.0
    warmup: Annotated[float, Meta(description="Seconds of the same load before it.")] = 1.0


class Plan(msgspec.Struct, kw_only=True):
    """What the process is to do."""

    address: tuple[str, int]
    paths: list[str]
    tokens: list[str]
    connections: int


class Customer(asyncio.Protocol):
    """One connection that is kept open: a request at a time."""

    def __init__(self, counter: Counters) -> None:
        self._counter = counter
        self._asked: tuple[str, int] | None = None
        self._held = b""
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be free."""
        self._transport = cast("asyncio.Transport", transport)
        self._counter.free(self)

    def ask(self, path: str, request: bytes, due: int) -> None:
        """Send a request that was due at a moment."""
        self._asked = (path, due)
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Take an answer."""
        self._counter.bytes += len(data)
        data = self._held + data
        head, end, body = data.partition(b"\r\n\r\n")
        if not end or len(body) < _length(head):
            self._held = data
            return
        self._held = b""
        if self._asked is not None:
            path, due = self._asked
            self._asked = None
            self._counter.answered(path, due, int(head[9:12]))
        self._counter.free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it; nothing is asked on it any more."""
        self._counter.counts[f"connections lost: {exc or 'closed by the server'}"] += 1
        self._counter.gone(self)

    def close(self) -> None:
        """Let go of the connection."""
        self._transport.abort()


def _request(path: str, host: str, token: str) -> bytes:
    line = path if " " in path else f"GET {path}"
    return f"{line} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


class Counters:
    """The connections of one process, and what waits for a free one."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.bytes = 0
        self.counts: Counter[str] = Counter()
        self.window = (0, 0)
        self.times: dict[str, Histogram] = {path: Histogram() for path in [*plan.paths, "sent late"]}
        self._all: set[Customer] = set()
        self._idle: deque[Customer] = deque()
        self._waiting: deque[tuple[str, bytes, int]] = deque()
        host, port = plan.address
        self._requests = [
            (path, _request(path, f"{host}:{port}", token)) for token in plan.tokens for path in plan.paths
        ]

    def close(self) -> None:
        """Let go of every connection."""
        for customer in list(self._all):
            customer.close()

    def free(self, customer: Customer) -> None:
        """Give a connection the next request, if one waits."""
        self._all.add(customer)
        if self._waiting:
            customer.ask(*self._waiting.popleft())
        else:
            self._idle.append(customer)

    def gone(self, customer: Customer) -> None:
        """Forget a connection."""
        self._all.discard(customer)
        if customer in self._idle:
            self._idle.remove(customer)

    def answered(self, path: str, due: int, status: int) -> None:
        """Count an answer."""
        self.counts["answers"] += 1
        if status >= 400:
            self.counts[f"status {status} of {path}"] += 1
        if self.window[0] <= due < self.window[1]:
            self.times[path].add(time.monotonic_ns() - due)

    async def connect(self) -> int:
        """Open all connections."""
        host, port = self.plan.address
        loop = asyncio.get_running_loop()
        try:
            for _ in range(self.plan.connections):
                await loop.create_connection(lambda: Customer(self), host, port)
        except OSError as error:
            raise Unexpected(f"cannot connect: {error}") from error
        still_collector()
        return len(self._all)

    async def run(self, rate: float, start: int, measure_from: int, until: int) -> int:
        """Ask at that rate; return how many requests were made."""
        self.window = (measure_from, until)

        def ask(number: int, due: int) -> None:
            path, request = self._requests[number % len(self._requests)]
            if self._idle:
                self._idle.popleft().ask(path, request, due)
            else:
                self._waiting.append((path, request, due))

        sent = await paced(rate, start, until, ask, self.times["sent late"])
        await until_true(lambda: self.counts["answers"] >= sent or not self._all, _ANSWER_SECONDS)
        return sent

    async def tally(self) -> Tally:
        """Tell what there is to tell."""
        return Tally(
            people=len(self.plan.tokens),
            here=len(self._all),
            bytes=self.bytes,
            counts=dict(self.counts),
            times={name: dict(histogram.counts) for name, histogram in self.times.items()},
        )


def ask(question: Question, ground: Ground) -> Result:
    """Put the question."""
    plan = Plan(
        address=ground.addresses[0],
        paths=question.paths.split(","),
        tokens=ground.people(question.people),
        connections=question.connections,
    )
    with employed(Counters, [plan], ground.tester_cores) as team:
        team.ask("connect")
        meter = Meter(ground.pids, team.pids)
        start = time.monotonic_ns() + int(START_SECONDS * 1e9)
        measure_from = start + int(question.warmup * 1e9)
        until = measure_from + int(question.seconds * 1e9)
        team.order("run", question.rate, start, measure_from, until)
        sleep_until(measure_from)
        before = counted(ground.addresses)
        with ground.progress.lasting("asking", question.seconds) as tick:
            readings = meter.watch(until / 1e9, heed=tick)
        statements = between(before, counted(ground.addresses))
        sent = sum(team.reports())
        tally = merged(team.ask("tally"))
    return result(question, readings, sent, tally, ground.conditions, statements)


def result(
    question: Question,
    readings: list[Reading],
    sent: int,
    tally: Tally,
    conditions: dict[str, str],
    statements: Mapping[float, float],
) -> Result:
    """Return what is kept of a run. `statements` are those of Postgres within so many seconds."""
    paths = {path: counts for path, counts in tally.times.items() if path != "sent late"}
    found = new_result(
        "http",
        __doc__,
        f"http: {question.rate:,g} requests/s to {len(paths)} paths in turn",
        question,
        conditions,
    )
    used = usage(readings[0], readings[-1])
    answers = tally.counts.get("answers", 0)
    failed = sum(count for what, count in tally.counts.items() if what.startswith("status"))
    within = sum(sum(counts.values()) for counts in paths.values())
    found.figures = [
        Figure("answers", round(within / used.seconds), "/s", MORE),
        Figure("sent", sent),
        Figure("answered", answers),
        Figure("refused", failed),
    ]
    together: Counter[int] = Counter()
    for counts in paths.values():
        together.update(counts)
    for path, counts in {"all": dict(together), **paths}.items():
        found.figures += latency_figures(path, counts)
        found.figures.append(
            Figure(f"{path} p95", round(Histogram(counts).percentile(95) * 1000, 3), "ms", LESS)
        )
    found.figures += [
        Figure("statements", round(max(statements.values(), default=0))),
        Figure("statements p50 at most", at_most(statements, 50) * 1000, "ms", LESS),
        Figure("statements p95 at most", at_most(statements, 95) * 1000, "ms", LESS),
        Figure("statements p99 at most", at_most(statements, 99) * 1000, "ms", LESS),
    ]
    found.figures += latency_figures("sent late", tally.times["sent late"])
    found.figures += share_figures(used)
    if used.cpu and within:
        found.figures.append(
            Figure("CPU per request, server", round(used.server / within * 1e6, 1), "us", LESS)
        )
    found.curves = [curve(path, counts) for path, counts in paths.items()]
    found.plots = [cpu_plot(readings)] if len(readings) > 2 else []
    found.notes = [testers_line(used)]
    found.notes += [f"{n:,} {what}" for what, n in tally.counts.items() if what != "answers"]
    found.cautions = cautions(used)
    return found
