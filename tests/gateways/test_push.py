"""Pushing through FCM, against a stand-in that checks what the real one checks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx2
import msgspec
import pytest

from protocol.refusals import ErrorCode, Refused
from server.gateways.push import Fcm, Push, Unfit, Unregistered, service_account
from tests.messaging import Phone, StandInFcm, a_stand_in, failing


@dataclass
class Clock:
    """A clock that a test moves."""

    now: float = 1000.0

    def __call__(self) -> float:
        """Return the moment."""
        return self.now


@dataclass
class Scene:
    """FCM, us, and a device."""

    stand_in: StandInFcm
    fcm: Fcm
    phone: Phone
    clock: Clock

    async def send(self, **changes: Any) -> None:
        """Push something to the device."""
        await self.fcm.send(self.phone.token, msgspec.structs.replace(a_push(), **changes))

    async def refused(self) -> float:
        """Push in vain; return after how long it is tried again."""
        with pytest.raises(Refused) as caught:
            await self.send()
        assert caught.value.code is ErrorCode.UNAVAILABLE
        return caught.value.retry_after or 0.0


def a_push() -> Push:
    """Make one."""
    return Push(id=uuid4(), title="Something happened", body="", data={"kind": "reaction"}, seconds=600.0)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    """Run FCM, and know it."""
    async with a_stand_in() as stand_in:
        clock = Clock()
        fcm = Fcm(service_account(stand_in.account), stand_in.url, httpx2.AsyncClient(), clock)
        yield Scene(stand_in, fcm, stand_in.phone(), clock)
        await fcm.aclose()


async def test_it_is_shown(scene: Scene) -> None:
    """As it is, with what the app needs, under a tag of its own; sent again it takes its own place."""
    push = a_push()
    for _ in range(2):
        await scene.fcm.send(scene.phone.token, push)
    assert scene.stand_in.wrong == []
    (shown,) = scene.phone.screen.values()
    assert (shown.notification.title, shown.notification.body) == (push.title, "")
    assert shown.data == {"kind": "reaction"}
    assert shown.android.ttl == "600s"
    assert abs(int(shown.apns.headers["apns-expiration"]) - time.time() - 600) < 60
    assert len(scene.phone.alerts) == 2


async def test_one_token_for_all(scene: Scene) -> None:
    """An assertion is traded in once for all who push at the same time, and again a minute before its token ends."""
    await asyncio.gather(*(scene.send() for _ in range(20)))
    assert scene.stand_in.asked.count("token") == 1
    scene.clock.now += 3599 - 61
    await scene.send()
    assert scene.stand_in.asked.count("token") == 1
    scene.clock.now += 2
    await scene.send()
    assert scene.stand_in.asked.count("token") == 2
    assert scene.stand_in.wrong == []


async def test_a_token_that_was_taken_back(scene: Scene) -> None:
    """Another one is asked for, and the push goes out with it."""
    await scene.send()
    scene.stand_in.bearers.clear()
    await scene.send()
    assert len(scene.phone.alerts) == 2


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, failing(404, "UNREGISTERED")),
        (403, failing(403, "SENDER_ID_MISMATCH")),
        (
            400,
            failing(400, "INVALID_ARGUMENT")
            | {"details": [{"fieldViolations": [{"field": "message.token", "description": "x"}]}]},
        ),
    ],
    ids=["unregistered", "of another project", "no token"],
)
async def test_a_device_that_is_not_there_any_more(scene: Scene, status: int, error: dict[str, Any]) -> None:
    """FCM says it in three ways."""
    scene.stand_in.status, scene.stand_in.error = status, error
    with pytest.raises(Unregistered):
        await scene.send()
    assert not scene.fcm.away


async def test_a_push_that_is_never_taken(scene: Scene) -> None:
    """What FCM finds wrong is a bug of ours, and no reason to try it again."""
    scene.stand_in.status, scene.stand_in.error = 400, failing(400, "INVALID_ARGUMENT")
    with pytest.raises(Unfit) as unfit:
        await scene.send()
    assert unfit.value.reason == "FCM says INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("status", "code", "headers", "after"),
    [
        (429, "QUOTA_EXCEEDED", {"retry-after": "17"}, 17.0),
        (429, "QUOTA_EXCEEDED", {}, 60.0),
        (429, "QUOTA_EXCEEDED", {"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"}, 60.0),
        (429, "QUOTA_EXCEEDED", {"retry-after": "86400"}, 3600.0),
        (503, "UNAVAILABLE", {"retry-after": "9"}, 9.0),
        (500, "INTERNAL", {}, 1.0),
        (403, "PERMISSION_DENIED", {}, 60.0),
        (401, "THIRD_PARTY_AUTH_ERROR", {}, 60.0),
        (404, "NOT_FOUND", {}, 60.0),
    ],
)
async def test_when_it_is_tried_again(
    scene: Scene, status: int, code: str, headers: dict[str, str], after: float
) -> None:
    """After what FCM asks for; after a minute where it does not say, or where an operator has something to mend."""
    scene.stand_in.status, scene.stand_in.error = status, failing(status, code)
    scene.stand_in.headers = headers
    assert await scene.refused() == after
    asked = len(scene.stand_in.asked)
    if status < 500:
        assert scene.fcm.away
        await scene.refused()
        assert len(scene.stand_in.asked) == asked, "meanwhile nothing is asked"
        scene.clock.now += after
        scene.stand_in.status = 200
        await scene.send()


async def test_an_account_that_is_not_taken(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """Google says no to us: it is logged without a word of the assertion, and asked again in a minute."""
    scene.stand_in.token_status = 400
    with caplog.at_level(logging.INFO):
        assert await scene.refused() == 60.0
        await scene.refused()
    assert [record.message for record in caplog.records if record.name.startswith("looprooms")] == [
        "Google does not take our service account: invalid_grant"
    ]
    assert scene.stand_in.asked == ["token"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "{}",
        '{"project_id": "p-1-2", "client_email": "a", "private_key_id": "b", "private_key": "c"}',
        '{"project_id": "../../x", "client_email": "a", "private_key_id": "b", "private_key": "c"}',
    ],
)
def test_what_is_no_service_account(text: str) -> None:
    """It is said at the start, not at the first push."""
    with pytest.raises(ValueError, match=r"."):
        service_account(text)
