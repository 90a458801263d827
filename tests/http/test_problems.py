"""Problems: refusals in the words of RFC 9457, with the codes of the websocket."""

from __future__ import annotations

import msgspec
import pytest

from protocol.refusals import ErrorCode
from tests.http.serving import Site

STATUSES = {code.value: code.status for code in ErrorCode}


@pytest.fixture
def site(standing: Site) -> Site:
    """Share a node."""
    return standing


async def test_every_problem_is_one(site: Site) -> None:
    """A problem's status is that of the response, its code is one of the protocol's, its type leads to the page."""
    page = (await site.client.get("/docs")).text
    answers = [
        await site.client.get("/nothing"),
        await site.client.post("/me"),
        await site.client.post("/auth/login"),
        await site.client.get("/me"),
        await site.post("/auth/login", email="a@example.org", password="not this one"),
    ]
    for answer in answers:
        problem = msgspec.json.decode(answer.content)
        assert answer.headers["content-type"] == "application/problem+json"
        assert problem["status"] == answer.status_code
        assert STATUSES[problem["code"]] == answer.status_code
        path, _, anchor = problem["type"].partition("#")
        assert path == "/docs"
        assert f"id='{anchor}'" in page
