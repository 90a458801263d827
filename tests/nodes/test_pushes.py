"""Pushes over processes: one whose node is killed when FCM has it and nobody has noted that."""

from __future__ import annotations

import pytest

from tests.messaging import a_stand_in
from tests.nodes.cluster import Cluster
from tests.nodes.raw import open_raw
from tests.waiting import until

pytestmark = [pytest.mark.nodes, pytest.mark.patient, pytest.mark.timeout(90)]

LEASE_ENDS = "update jobs set run_at = now() where kind = 'notifications.push'"
LEFT = "select count(*) from jobs where kind = 'notifications.push'"


async def test_a_push_survives_its_node_and_is_shown_once(cluster: Cluster) -> None:
    """Another node pushes it again, under the same tag, so the screen shows one; what came after it is pushed once, behind it."""
    ada, bo, cy = await cluster.accounts(["Ada", "Bo", "Cy"])
    async with a_stand_in() as fcm:
        settings = {"fcm_service_account": fcm.account, "fcm_url": fcm.url, "push_seconds": 0.05}
        (lost,) = await cluster.start(1, **settings)
        phone = fcm.phone()
        app = await open_raw(lost.port, lambda _: None)
        await app.call("hello", token=ada.token)
        assert (await app.call("device.register", token=phone.token))["pushes"] is True
        app.transport.abort()
        fcm.answering.clear()
        others = [await open_raw(lost.port, lambda _: None) for _ in range(2)]
        for other, account in zip(others, (bo, cy), strict=True):
            await other.call("hello", token=account.token)
            asked = await other.call("friend.request", person=str(ada.user))
            assert asked["type"] == "friend.requested", asked
            await until(lambda: phone.alerts)
        lost.kill()
        fcm.answering.set()
        await cluster.start(1, **settings)
        async with cluster.connection() as connection:
            await connection.execute(LEASE_ENDS)

            async def all_done() -> bool:
                return not await connection.fetchval(LEFT)

            await until(all_done, within=20)
        pushed = [alert.data["id"] for alert, _ in phone.alerts]
        first, again, second = pushed
        assert first == again != second
        assert len(phone.screen) == 2
        assert fcm.wrong == []
        assert cluster.complaints() == []
