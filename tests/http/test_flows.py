"""A sign-in under way: what follows from its cookie, and what does not."""

from __future__ import annotations

from uuid import uuid4

import pytest

from protocol.envelope import SessionId
from server.http.flows import FLOW_SECONDS, Flows, UnderWay
from server.process.keys import new_key
from server.settings import Settings
from server.tokens import Tokens

KEY_A, KEY_B = new_key(), new_key()


class Clock:
    """Time that a test moves."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


def flows(*keys: str, clock: Clock | None = None) -> Flows:
    """Make what begins and takes up, on a node with these keys."""
    return Flows(Tokens(Settings(signing_keys=keys or (KEY_A,))), clock=clock or Clock())


def everything(under_way: UnderWay) -> tuple[str, str, str, str, bytes]:
    """Return all that follows."""
    return under_way.state, under_way.nonce, under_way.verifier, under_way.challenge, under_way.spent


def test_another_node_finishes_it() -> None:
    """From the cookie alone any node with the key knows all of it; also what it is for."""
    session = SessionId(uuid4())
    begun = flows().begin("google", "/then", link=session, name="Ada Lovelace é")
    taken = flows().taken_up(begun.cookie, "google")
    assert taken is not None
    assert taken.flow == begun.flow
    assert everything(taken) == everything(begun)
    assert taken.fits(begun.state)
    assert not taken.fits(begun.nonce)
    assert not taken.fits("é")


def test_no_two_are_alike() -> None:
    """Nothing of one tells anything of another, nor one part of another part."""
    first, second = (flows().begin("google", "/") for _ in range(2))
    parts = [str(part) for one in (first, second) for part in everything(one)]
    assert len(set(parts)) == len(parts)
    assert not any(part in first.cookie for part in everything(first)[:4])
    assert len(first.verifier) == len(first.challenge) == 43


def test_keys_rotate_meanwhile() -> None:
    """Begun under one key, it is finished under the next, with the same state; without the key it never was."""
    begun = flows(KEY_A).begin("google", "/")
    after = flows(KEY_B, KEY_A).taken_up(begun.cookie, "google")
    assert after is not None
    assert everything(after) == everything(begun)
    assert flows(KEY_B).taken_up(begun.cookie, "google") is None


def test_ten_minutes() -> None:
    """Then it is too late."""
    clock = Clock()
    begun = flows(clock=clock).begin("google", "/")
    clock.now += FLOW_SECONDS - 1
    assert flows(clock=clock).taken_up(begun.cookie, "google") is not None
    clock.now += 1
    assert flows(clock=clock).taken_up(begun.cookie, "google") is None


def test_the_other_provider() -> None:
    """What was begun at one is not finished at the other."""
    assert flows().taken_up(flows().begin("google", "/").cookie, "apple") is None


@pytest.mark.parametrize("place", [0, 5, 50, -1, -20])
def test_a_changed_cookie(place: int) -> None:
    """One character makes it nobody's."""
    cookie = list(flows().begin("google", "/").cookie)
    cookie[place] = "A" if cookie[place] != "A" else "B"
    assert flows().taken_up("".join(cookie), "google") is None


@pytest.mark.parametrize("cookie", [None, "", ".", "a.b", "a", f"{'a' * 3000}.b"])
def test_no_cookie(cookie: str | None) -> None:
    """What was never one is nothing."""
    assert flows().taken_up(cookie, "google") is None
