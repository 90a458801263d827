"""Metrics in the text format of Prometheus, read from plain integers that the hot path counts in.

Every process serves its own; the label ``node`` tells them apart where several answer on one port.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from storage.postgres.timing import BOUNDS

if TYPE_CHECKING:
    from server.node import Node

FamilyT = TypeVar("FamilyT", bound=Metric)

LAGGING_ROOMS: Final = 20
"""Rooms whose lag has a series of its own: all of them would be more than a store of metrics can carry."""


def render(node: Node) -> bytes:
    """Return all metrics of `node`, in the text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_NodeCollector(node))
    return generate_latest(registry)


class _NodeCollector(Collector):
    def __init__(self, node: Node) -> None:
        self._node = node
        self._name = node.id.hex()

    def collect(self) -> Iterator[Metric]:
        """Read everything at one moment."""
        node = self._node
        hub = node.hub
        members = hub.members
        broker = node.stores.broker
        yield self._gauge("connections", "Open websocket connections.", len(members.connections))
        yield self._gauge("sessions", "Sessions with a connection here.", len(members.sessions()))
        yield self._gauge(
            "rooms", "Looprooms that are active, and vybes that are open here.", len(members.rooms)
        )
        slow = [connection for connection in members.connections if connection.outbox is not None]
        yield self._gauge("slow", "Connections whose client reads more slowly than it is told.", len(slow))
        yield self._gauge(
            "waiting_bytes",
            "Bytes that wait for them to read.",
            sum(connection.waiting for connection in slow),
        )
        yield self._gauge("draining", "1 while the node is stopping.", int(hub.draining))
        yield self._gauge("broker_healthy", "1 while Redis carries events.", int(broker.healthy))
        yield self._gauge(
            "broker_probe_seconds", "Last round trip through Redis.", broker.probe_seconds or float("nan")
        )
        yield self._gauge("tasks", "Tasks of the event loop.", len(asyncio.all_tasks(hub.loop)))
        yield self._gauge(
            "limits_alone",
            "1 while limits are this node's own, because Redis is away.",
            int(node.quotas.limiter.away),
        )
        yield self._gauge("loop_lag_seconds", "How late the event loop was lately.", hub.wheel.lag)
        yield self._gauge("gc_pause_worst_seconds", "Longest garbage collection so far.", node.garbage.worst)
        yield self._gauge("feeds", "Connections that have the feed open.", len(node.feed))
        yield self._gauge("commits_waiting", "Chat lines that wait for a commit.", len(node.chat.gather))
        for name, meaning, value in (
            ("gc_pause_seconds", "Seconds spent in garbage collections.", node.garbage.seconds),
            ("gc_collections", "Garbage collections.", node.garbage.collections),
            ("deliveries", "Events written or queued, once per receiver.", hub.fanout.deliveries),
            ("fanout_turns", "Turns of the fan-out.", hub.fanout.turns),
            ("commands", "Commands begun.", node.dispatcher.commands),
            ("refusals", "Commands answered with an error.", node.dispatcher.refused),
            ("put_aside", "Times that what a client sent waited for a later turn.", hub.intake.put_aside),
            (
                "turned_away",
                "Connections that were turned away because their address makes too many.",
                node.door.turned_away,
            ),
            (
                "limited",
                "Times that a limit which nodes share said no, over the websocket and HTTP.",
                node.quotas.limiter.refused,
            ),
            ("bugs", "Commands that failed with an internal error.", node.dispatcher.bugs),
            ("handshakes_refused", "Websocket handshakes refused.", hub.handshakes_refused),
            (
                "events_healed",
                "Events read from Postgres because Redis lost them.",
                node.subscriptions.healed,
            ),
            (
                "person_events_healed",
                "Events of persons read from Postgres because Redis lost them.",
                node.person_events.healed,
            ),
            ("broker_dropped", "Events that were not sent through Redis, or refused by it.", broker.dropped),
            ("broker_reconnects", "Times that Redis carried events again after a loss.", broker.reconnects),
            ("subscriptions_ended", "Subscriptions that ended by this node's clock.", node.expiry.ended),
            ("replayed", "Events replayed to clients that came back.", node.replayed),
            ("snapshots", "Positions that could not be replayed.", node.snapshots),
            ("shed_passing", "Passing frames dropped for slow clients.", hub.shed_passing),
            ("shed_latest", "Room states merged for slow clients.", hub.shed_latest),
            ("chat_lines", "Chat lines committed or found committed.", node.chat.gather.items),
            ("chat_commits", "Statements that committed chat lines.", node.chat.gather.batches),
            ("pushes_sent", "Pushes that the push service has taken.", node.pushes.sent),
            ("pushes_failed", "Pushes that it did not take.", node.pushes.failed),
            (
                "pushes_spared",
                "Pushes that were not sent, because it was read or acknowledged by then.",
                node.pushes.spared,
            ),
            ("push_devices_lost", "Devices that it did not know any more.", node.pushes.devices_lost),
            ("vybes", "Vybes committed or found committed.", node.vybes.gather.items),
            ("comments", "Comments committed or found committed.", node.comments.gather.items),
            ("feed_pulses", "Times that open feeds were told something.", node.feed.pulses),
            ("feed_told_whole", "Changes that open feeds were told as they are.", node.feed.told_whole),
            ("sessions_admitted", "New sessions let in.", node.admission.admitted),
            ("sessions_resumed", "Returning sessions let in.", node.admission.resumed),
            ("sessions_refused", "Sessions told to come back later.", node.admission.refused),
        ):
            yield self._counter(name, meaning, value)
        yield self._statements()
        yield self._gauge("persons", "Persons whose events are heard.", len(node.person_events))
        yield self._gauge("previews", "Previews of premium rooms that run.", len(node.previews))
        yield self._gauge(
            "payments_away",
            "1 while the payment provider is left alone, because it does not answer.",
            int(node.cards is not None and node.cards.away),
        )
        yield from self._money()
        uploads = node.uploads
        yield self._counter("uploads", "Uploads that were finished here, by kind.", uploads.finished, "kind")
        yield self._counter(
            "uploads_refused",
            "Uploads that could not be read as what they were said to be, by kind.",
            uploads.refused,
            "kind",
        )
        yield self._counter("uploaded_bytes", "Bytes of uploads that came here.", uploads.received)
        yield self._gauge(
            "push_away",
            "1 while the push service is left alone, because it does not answer or does not take us.",
            int(node.push is not None and node.push.away),
        )
        yield from self._jobs()
        yield self._gauge(
            "provider_away",
            "1 while a provider that people sign in with is left alone, because it does not answer.",
            {one.name: int(one.away) for one in node.providers.all()},
            "provider",
        )
        yield self._counter(
            "letters",
            "Letters by what became of them: sent, undeliverable, not sent for now, or waiting because enough have gone out.",
            node.postage.outcomes,
            "outcome",
        )
        yield self._counter(
            "closes",
            "Connections closed by this node, by code.",
            {str(int(code)): count for code, count in hub.closes.items()},
            "code",
        )
        yield self._gauge(
            "delivered_lag",
            "Events that the slowest reporting client had yet to show, of the rooms that lag most.",
            {str(room): behind for room, behind in node.lags.worst(hub.clock(), LAGGING_ROOMS)},
            "room",
        )

    def _money(self) -> Iterator[Metric]:
        node = self._node
        yield self._counter(
            "webhooks",
            "What the payment provider has sent to this node, by the kind of object, and what became of it.",
            node.webhooks,
            ("kind", "outcome"),
        )
        yield self._gauge(
            "payouts",
            "Payouts by their state, over all nodes, lately; blocked are creators who have earned enough and can't be paid.",
            node.payouts.by_state,
            "state",
        )
        gates = {one.name: one.gate for one in node.providers.all()}
        gates |= {"stripe": node.cards.gate} if node.cards is not None else {}
        gates |= {"fcm": node.push.gate} if node.push is not None else {}
        yield self._gauge(
            "outside_away",
            "1 while a service outside is left alone, because it does not answer.",
            {service: int(gate.breaker.open) for service, gate in gates.items()},
            "service",
        )
        yield self._counter(
            "outside_calls",
            "Calls of this node to services outside: answered, failed, or spared because they are left alone or have enough to do.",
            {
                (service, outcome): count
                for service, gate in gates.items()
                for outcome, count in gate.outcomes.items()
            },
            ("service", "outcome"),
        )

    def _statements(self) -> HistogramMetricFamily:
        times = self._node.statement_times
        family = HistogramMetricFamily(
            "looprooms_statement_seconds", "What statements of this node took in Postgres.", labels=["node"]
        )
        sums = accumulate(times.counts)
        buckets = [(f"{bound:g}", float(next(sums))) for bound in BOUNDS]
        family.add_metric([self._name], [*buckets, ("+Inf", float(next(sums)))], times.seconds)
        return family

    def _jobs(self) -> Iterator[Metric]:
        jobs = self._node.jobs
        counts = jobs.counts.items()
        yield self._gauge(
            "jobs_waiting",
            "Jobs that are due, over all nodes, lately.",
            {kind: count.waiting for kind, count in counts},
            "kind",
        )
        yield self._gauge(
            "jobs_dead",
            "Jobs that will never be done, over all nodes, lately.",
            {kind: count.dead for kind, count in counts},
            "kind",
        )
        yield self._counter("jobs_done", "Jobs done by this node.", jobs.done, "kind")
        yield self._counter("jobs_failed", "Attempts of this node at jobs that failed.", jobs.failed, "kind")

    def _gauge(
        self, name: str, meaning: str, values: float | Mapping[str, float], label: str = ""
    ) -> GaugeMetricFamily:
        return self._filled(GaugeMetricFamily(f"looprooms_{name}", meaning), values, label)

    def _counter(
        self,
        name: str,
        meaning: str,
        values: float | Mapping[str, float] | Mapping[tuple[str, str], float],
        label: str | tuple[str, ...] = "",
    ) -> CounterMetricFamily:
        return self._filled(CounterMetricFamily(f"looprooms_{name}", meaning), values, label)

    def _filled(
        self,
        family: FamilyT,
        values: float | Mapping[str, float] | Mapping[tuple[str, str], float],
        label: str | tuple[str, ...],
    ) -> FamilyT:
        """Give a family its value, or one for each value of `label`; of several labels, for each of their values together."""
        series: Mapping[Any, float] = values if isinstance(values, Mapping) else {(): values}
        names = (label,) if isinstance(label, str) else label
        for name, value in series.items():
            labels = {
                "node": self._name,
                **dict(zip(names, (name,) if isinstance(name, str) else name, strict=False)),
            }
            family.add_sample(family.name + ("_total" if family.type == "counter" else ""), labels, value)
        return family
