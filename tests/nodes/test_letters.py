"""Letters over processes: one whose node is killed before it was sent, and an invitation that an operator types."""

from __future__ import annotations

import asyncio
import http.client
import json
import re

import pytest

from tests.commands import a_folder, looprooms, served
from tests.nodes.cluster import Cluster
from tests.postbox import link_in, postbox
from tests.waiting import until, wait_for

pytestmark = [pytest.mark.nodes, pytest.mark.patient, pytest.mark.timeout(90)]

LEASE_ENDS = "update jobs set run_at = now() where kind = 'letters.welcome'"
PASSWORD = "violets under a lamp"


def post(port: int, path: str, body: str, media_type: str) -> tuple[int, str]:
    """Send a POST and return status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", path, body, {"Content-Type": media_type})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def register(port: int, **fields: str) -> int:
    """Make an account over HTTP; return the status."""
    body = json.dumps({"password": PASSWORD, "name": "Ada", **fields})
    return post(port, "/auth/register", body, "application/json")[0]


async def test_a_letter_survives_its_node(cluster: Cluster) -> None:
    """The node that committed an account is killed in the middle of its letter, which arrives from another one."""
    async with postbox() as box:
        box.hanging.clear()
        (lost,) = await cluster.start(1, smtp_url=box.url)
        status = await asyncio.to_thread(register, lost.port, email="ada@example.org")
        assert status == 201
        await until(lambda: box.attempts == 1)
        lost.kill()
        (other,) = await cluster.start(1, smtp_url=box.url)
        async with cluster.connection() as connection:
            await connection.execute(LEASE_ENDS)
        await until(lambda: box.attempts == 2, within=10)
        box.hanging.set()
        mail = await box.next("ada@example.org")
        assert link_in(mail).startswith("http://")
        assert other.alive
        assert cluster.complaints() == []


def test_an_operator_invites() -> None:
    """With registration closed, `looprooms invite` - while the server runs, embedded - has a link mailed that lets one in."""
    with (
        a_folder() as folder,
        served(folder, LOOPROOMS_REGISTRATION="invited", LOOPROOMS_LOG_FORMAT="text") as server,
    ):
        assert register(server.port, email="ada@example.org") == 403
        done = looprooms(folder, "invite", "Ada@Example.ORG")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "The invitation is on its way, as soon as a server runs.\n"
        link = re.compile(r"http\S+/account/invitation#(\S+)")
        wait_for(lambda: link.search(server.said) is not None, 20)
        found = link.search(server.said)
        assert found is not None
        assert found[0].startswith(f"http://127.0.0.1:{server.port}/")
        (file,) = (folder / ".looprooms" / "mail").glob("*.eml")
        assert "To: ada@example.org" in file.read_text("utf-8")
        assert "ada@example.org" not in server.said
        form = f"token={found[1]}&name=Ada&password=violets+under+a+lamp"
        status, page = post(server.port, "/account/invitation", form, "application/x-www-form-urlencoded")
        assert (status, "Your account is made" in page) == (200, True)
        sign_in = json.dumps({"email": "ada@example.org", "password": PASSWORD})
        status, _ = post(server.port, "/auth/login", sign_in, "application/json")
        assert status == 200
        nonsense = looprooms(folder, "invite", "nonsense")
        assert (nonsense.returncode, nonsense.stderr) == (2, "This is no e-mail address.\n")
