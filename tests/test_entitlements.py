"""What somebody is entitled to is a pure function of what was seen, in whatever order and however often it came."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.subscriptions import Reason, SubscriptionStatus, Tier
from storage.entitlements import Seen, Standing, newer, standing, tied
from storage.payment_objects import CancellationDetails, Item, Items, Price, SubscriptionObject

DAY = 86400
GRACE = 3 * DAY
START = 1_800_000_000
END = START + 30 * DAY


def subscription(status: str, **fields: Any) -> SubscriptionObject:
    """Return a state of a monthly subscription that began at `START`."""
    tier = fields.pop("tier", "PREMIUM_MONTHLY")
    start, end = fields.pop("period", (START, END))
    price = Price("price_1", {"looprooms_tier": tier} if tier else {})
    items = Items((Item(price=price, current_period_start=start, current_period_end=end),))
    values = {"id": "sub_1", "customer": "cus_1", "created": START, **fields}
    return SubscriptionObject(status=status, items=items, **values)


def stands(found: Standing | None) -> tuple[str, str, int, bool, str, int | None] | None:
    """Return a standing as a row."""
    if found is None:
        return None
    return found.tier, found.status, found.until, found.renews, found.reason, found.changes_at


LATE = (END, END + 30 * DAY)
PAID = ("PREMIUM_MONTHLY", "ACTIVE", END, True, "paid", END + GRACE)


@pytest.mark.parametrize(
    ("state", "now", "expected"),
    [
        (subscription("active"), START, PAID),
        (subscription("active"), END + GRACE - 1, PAID),
        (subscription("active"), END + GRACE, ("FREE", "EXPIRED", END + GRACE, False, "ended", None)),
        (
            subscription("trialing"),
            END - 1,
            ("PREMIUM_MONTHLY", "TRIAL", END, True, "trial", END + GRACE),
        ),
        (
            subscription("active", cancel_at_period_end=True),
            END - 1,
            ("PREMIUM_MONTHLY", "CANCELED", END, False, "canceled", END),
        ),
        (
            subscription("active", cancel_at_period_end=True),
            END,
            ("FREE", "EXPIRED", END, False, "ended", None),
        ),
        (
            subscription("trialing", cancel_at=START + DAY),
            START,
            ("PREMIUM_MONTHLY", "CANCELED", START + DAY, False, "canceled", START + DAY),
        ),
        (
            subscription("past_due", period=LATE),
            END + GRACE - 1,
            ("PREMIUM_MONTHLY", "ACTIVE", END + GRACE, True, "payment_failed", END + GRACE),
        ),
        (
            subscription("past_due", period=LATE),
            END + GRACE,
            ("FREE", "EXPIRED", END + GRACE, False, "payment_failed", None),
        ),
        (subscription("unpaid", period=LATE), END, ("FREE", "EXPIRED", END, False, "payment_failed", None)),
        (subscription("paused", period=LATE), END, ("FREE", "EXPIRED", END, False, "payment_failed", None)),
        (
            subscription(
                "canceled", ended_at=START + DAY, cancellation_details=CancellationDetails("payment_failed")
            ),
            START,
            ("FREE", "EXPIRED", START + DAY, False, "payment_failed", None),
        ),
        (
            subscription(
                "canceled", ended_at=START + DAY, cancellation_details=CancellationDetails("payment_disputed")
            ),
            START,
            ("FREE", "EXPIRED", START + DAY, False, "disputed", None),
        ),
        (
            subscription(
                "canceled",
                ended_at=START + DAY,
                cancellation_details=CancellationDetails("cancellation_requested"),
            ),
            START,
            ("FREE", "EXPIRED", START + DAY, False, "canceled", None),
        ),
        (
            subscription(
                "canceled",
                ended_at=END + 7,
                cancellation_details=CancellationDetails("cancellation_requested"),
            ),
            END + 9,
            ("FREE", "EXPIRED", END, False, "ended", None),
        ),
        (subscription("canceled"), START, ("FREE", "EXPIRED", END, False, "ended", None)),
        (subscription("incomplete"), START, None),
        (subscription("incomplete_expired"), START, None),
        (subscription("something new"), START, None),
        (subscription("active", tier=None), START, None),
        (subscription("active", tier="FREE"), START, None),
        (subscription("active", tier="GOLD"), START, None),
    ],
)
def test_each_state_has_its_standing(
    state: SubscriptionObject, now: int, expected: tuple[Any, ...] | None
) -> None:
    """Trial, paid, canceled at its end, grace, ended; what never began and what is not of our table is nothing."""
    assert stands(standing([state], now, GRACE)) == expected


def test_what_ran_out_by_our_clock_is_what_the_provider_tells_later() -> None:
    """So nobody is told of the same end twice."""
    canceled = subscription("active", cancel_at_period_end=True)
    told = subscription(
        "canceled", ended_at=END + 2, cancellation_details=CancellationDetails("cancellation_requested")
    )
    assert standing([canceled], END, GRACE) == standing([told], END + 5, GRACE)


def test_an_older_version_of_the_api_has_the_period_elsewhere() -> None:
    """On the subscription itself; and without any it is as long as nothing."""
    items = Items((Item(price=Price("price_1", {"looprooms_tier": "CREATOR_PRO"})),))
    old = SubscriptionObject(
        id="sub_1",
        customer="cus_1",
        status="active",
        created=START,
        items=items,
        current_period_start=START,
        current_period_end=END,
    )
    found = standing([old], START, GRACE)
    assert found is not None
    assert (found.tier, found.until) == (Tier.CREATOR_PRO, END)
    bare = SubscriptionObject(id="sub_1", customer="cus_1", status="active", created=START, items=items)
    assert (bare.period_start, bare.period_end) == (START, START)


def test_of_several_the_best_counts() -> None:
    """The higher tier, then the later end; one that has ended is nothing beside one that counts."""
    monthly, pro = subscription("active"), subscription("active", tier="CREATOR_PRO")
    longer = subscription("active", period=LATE)
    ended = subscription("canceled", ended_at=END + 99 * DAY, tier="CREATOR_PRO")
    for order in itertools.permutations([monthly, pro, longer, ended]):
        found = standing(order, START, GRACE)
        assert found is not None
        assert found.tier is Tier.CREATOR_PRO
    for pair in itertools.permutations([monthly, longer, ended]):
        found = standing(pair, START, GRACE)
        assert found is not None
        assert (found.tier, found.until, found.status) == (
            Tier.PREMIUM_MONTHLY,
            END + 30 * DAY,
            SubscriptionStatus.ACTIVE,
        )
    assert standing([], START, GRACE) is None


LIFE: Sequence[Seen] = (
    Seen(START, subscription("incomplete")),
    Seen(START, subscription("active")),
    Seen(END, subscription("past_due", period=LATE)),
    Seen(END + DAY, subscription("active", period=LATE)),
    Seen(END + 2 * DAY, subscription("active", period=LATE, cancel_at_period_end=True)),
    Seen(
        END + 30 * DAY,
        subscription(
            "canceled",
            period=LATE,
            ended_at=END + 30 * DAY,
            cancel_at_period_end=True,
            cancellation_details=CancellationDetails("cancellation_requested"),
        ),
    ),
)


def last(states: Sequence[Seen]) -> Seen:
    """Return what is left of states that come in this order."""
    kept = states[0]
    for one in states[1:]:
        kept = newer(kept, one)
    return kept


@pytest.mark.parametrize("most", range(1, len(LIFE) + 1))
def test_any_order_leaves_the_newest(most: int) -> None:
    """The beginning of a life, in all orders, some of it twice."""
    states = LIFE[:most]
    for order in itertools.permutations(states):
        assert last(order) is states[-1]
        assert last([*order, *random.Random(most).choices(order, k=3)]) is states[-1]


def test_nothing_comes_after_the_end() -> None:
    """Whatever moment a state claims: ended is ended."""
    end, later = LIFE[-1], Seen(END + 99 * DAY, subscription("active"))
    assert newer(end, later) is end
    assert newer(later, end) is end


def test_a_tie_is_a_guess_and_always_the_same() -> None:
    """Two states of one second are put into the order of a life, and are known to be unsure."""
    one = Seen(START, subscription("active"))
    other = Seen(START, subscription("active", cancel_at_period_end=True))
    assert tied(one, other)
    assert tied(other, one)
    assert newer(one, other) is newer(other, one) is other
    assert not tied(one, one)
    assert not tied(one, Seen(START, subscription("active")))
    assert not tied(one, Seen(START + 1, other.subscription))


@pytest.mark.parametrize("sure", [subscription("incomplete"), LIFE[-1].subscription])
def test_a_beginning_and_an_end_are_no_guess(sure: SubscriptionObject) -> None:
    """Nothing comes before the one or after the other, so a purchase asks nobody anything."""
    one, other = Seen(START, sure), Seen(START, subscription("active"))
    assert not tied(one, other)
    assert not tied(other, one)


states = st.builds(
    Seen,
    st.integers(START, START + 3),
    st.builds(
        subscription,
        st.sampled_from(
            ["incomplete", "trialing", "active", "past_due", "unpaid", "paused", "canceled", "new"]
        ),
        cancel_at_period_end=st.booleans(),
        ended_at=st.none() | st.integers(START, END),
        period=st.tuples(st.integers(START, START + 2), st.integers(END, END + 2)),
    ),
)


@given(st.lists(states, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_order_and_repetition_never_count(seen: list[Seen], choose: random.Random) -> None:
    """However states come, and however often, the same one is left, so the same follows from it."""
    shuffled = seen * 2
    choose.shuffle(shuffled)
    assert last(shuffled) == last(seen)
    ways = [standing([last(some).subscription], END, GRACE) for some in (seen, shuffled)]
    assert ways[0] == ways[1]


@given(st.lists(states, min_size=1, max_size=4), st.integers(START, END + 9 * DAY))
def test_a_standing_holds_until_it_says(seen: list[Seen], now: int) -> None:
    """Between now and `changes_at` nothing changes, and at `changes_at` something does: a clock can rely on it."""
    objects = [one.subscription for one in seen]
    found = standing(objects, now, GRACE)
    if found is None:
        return
    if found.changes_at is None:
        assert standing(objects, now + 999 * DAY, GRACE) == found
    else:
        assert found.changes_at > now
        assert standing(objects, found.changes_at - 1, GRACE) == found
        assert standing(objects, found.changes_at, GRACE) != found
    assert (found.tier is Tier.FREE) == (found.status is SubscriptionStatus.EXPIRED)
    assert found.reason in Reason
