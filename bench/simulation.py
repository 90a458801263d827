"""A plan put to the test: nodes with queues, a burst in the live rooms, and the loss of the busiest node, from a seed.

Time goes in steps of 50 ms. In each, every node is given work (seconds of CPU) around its mean and does at most a step's worth
of it; what is left waits, and how long it waits is how late everything on that node is. When a node is lost, its people come
back to the others as clients do, after a random and growing pause, no faster than each node admits them.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from typing import Final

import msgspec

from protocol.client.backoff import Backoff

STEP: Final = 0.05
BURST: Final = (20.0, 30.0)
LOSS: Final = 60.0
END: Final = 120.0
ADMITTED: Final = 3000.0
"""Sessions a second that a node takes back."""
MOST_DELAY: Final = 0.1
"""Seconds of lateness that a plan may have in calm times and bursts."""
MOST_LOSS_DELAY: Final = 0.5
"""The same while those of a lost node come back."""
MOST_BACK: Final = 30.0
_NOTICED: Final = 1.0
"""Seconds until a client notices that its node is gone."""
_PIECE: Final = 0.0005
"""Work comes in pieces of half a millisecond: what makes it uneven."""


class Outcome(msgspec.Struct):
    """What became of a plan. Times in seconds."""

    burst_delay: float
    loss_delay: float
    back: float
    """From the loss until everyone was back."""
    busiest: list[tuple[float, float]]
    delays: list[tuple[float, float]]
    """Milliseconds, by the second."""

    @property
    def why(self) -> str:
        """Say what does not hold; empty when all does."""
        reasons = []
        if self.burst_delay > MOST_DELAY:
            reasons.append(f"in a burst the slowest node is {self.burst_delay:.2f} s late")
        if self.loss_delay > MOST_LOSS_DELAY:
            reasons.append(f"after a loss the slowest node is {self.loss_delay:.2f} s late")
        if self.back > MOST_BACK:
            reasons.append(f"after a loss the last is back after {self.back:.0f} s")
        return "; ".join(reasons)

    @property
    def holds(self) -> bool:
        """Whether the plan is good."""
        return not self.why


class Trial(msgspec.Struct, kw_only=True):
    """A plan as the simulation sees it. `calm` and `live` are seconds of CPU a second, of all nodes together."""

    nodes: int
    people: int
    calm: float
    """For everything but live rooms; it goes with the people."""
    live: float
    """For the live rooms; it goes with the rooms, and these are where chance puts them."""
    live_rooms: int
    live_spread: int
    """Nodes over which the people of a live room are spread; 0: over all."""
    burst: float
    """How many times as much live rooms do in a burst."""
    resume: float
    """Seconds of CPU of one session that comes back."""
    seed: int


def simulate(trial: Trial) -> Outcome:
    """Run a trial: a burst in all live rooms at once, then the loss of the node that has most to do."""
    chance = random.Random(trial.seed)
    nodes = trial.nodes
    weights = _weights(chance, trial)
    lost = max(range(nodes), key=weights.__getitem__) if nodes > 1 else -1
    people = [trial.people / nodes] * nodes
    queues = [0.0] * nodes
    waiting = [0.0] * nodes
    alive = list(range(nodes))
    returning = _returns(chance, trial.people // nodes) if nodes > 1 else {}
    back_at = LOSS
    busiest: list[tuple[float, float]] = []
    delays: list[tuple[float, float]] = []
    worst = {"burst": 0.0, "loss": 0.0}
    used = slowest = 0.0
    for tick in range(round(END / STEP)):
        now = tick * STEP
        if lost in alive and now >= LOSS:
            alive.remove(lost)
            share = weights[lost] / len(alive)  # its rooms are opened where their people come back
            weights = [weight + share for weight in weights]
        for _ in range(returning.pop(tick, 0)):
            waiting[chance.choice(alive)] += 1
        factor = trial.burst if BURST[0] <= now < BURST[1] else 1.0
        for node in alive:
            admitted = min(waiting[node], ADMITTED * STEP)
            if admitted:
                waiting[node] -= admitted
                people[node] += admitted
                back_at = now + STEP
            mean = (trial.calm * people[node] / trial.people + trial.live * weights[node] * factor) * STEP
            queues[node] += _around(chance, mean) + admitted * trial.resume
            used = max(used, min(1.0, queues[node] / STEP))
            queues[node] = max(0.0, queues[node] - STEP)
        late = max(queues[node] for node in alive)
        slowest = max(slowest, late)
        phase = "loss" if now >= LOSS else "burst"
        worst[phase] = max(worst[phase], late)
        if (tick + 1) % round(1 / STEP) == 0:
            busiest.append((round(now + STEP), round(used * 100, 1)))
            delays.append((round(now + STEP), round(slowest * 1000, 2)))
            used = slowest = 0.0
    unfinished = sum(returning.values()) + sum(waiting)
    back = math.inf if unfinished >= 1 else back_at - LOSS
    return Outcome(worst["burst"], worst["loss"], back if nodes > 1 else 0.0, busiest, delays)


def _weights(chance: random.Random, trial: Trial) -> list[float]:
    """Return which share of the live rooms' load each node has: chance puts each room on its nodes."""
    nodes = trial.nodes
    spread = min(trial.live_spread or nodes, nodes)
    if spread == nodes or not trial.live_rooms:
        return [1 / nodes] * nodes
    weights = [0.0] * nodes
    for _ in range(trial.live_rooms):
        for node in chance.sample(range(nodes), spread):
            weights[node] += 1 / (trial.live_rooms * spread)
    return weights


def _returns(chance: random.Random, lost: int) -> dict[int, int]:
    """Return in which tick how many of a lost node's people knock again, by our client's own pauses."""
    backoff = Backoff(random=chance.random)
    ticks: defaultdict[int, int] = defaultdict(int)
    for _ in range(lost):
        moment = LOSS + chance.random() * _NOTICED + backoff.wait(1)
        ticks[math.ceil(moment / STEP)] += 1
    return dict(ticks)


def _around(chance: random.Random, mean: float) -> float:
    """Return work around a mean, as uneven as so many pieces are (Poisson, by its normal form)."""
    return max(0.0, mean + chance.gauss(0.0, 1.0) * math.sqrt(mean * _PIECE))
