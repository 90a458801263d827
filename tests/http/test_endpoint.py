"""Bodies: JSON of a known shape and a bounded size, or a refusal that says what is wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from server.http.endpoint import MOST_BODY_BYTES
from tests.http.serving import Site

POSTS = ["/auth/register", "/auth/login", "/auth/refresh", "/auth/logout"]


@pytest.fixture
def site(standing: Site) -> Site:
    """Share a node."""
    return standing


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonx",
        "application/json; charset=latin-1",
    ],
)
async def test_media_type(site: Site, path: str, content_type: str | None) -> None:
    """A body that is not called JSON is not read: so no page can send one without being asked about it first."""
    headers = {} if content_type is None else {"content-type": content_type}
    answer = await site.client.post(path, content=b"{}", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "media_type_refused")


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON", 'application/json; charset="UTF-8"']
)
async def test_media_type_spellings(site: Site, content_type: str) -> None:
    """JSON may be written in its other ways."""
    answer = await site.client.post(
        "/auth/logout", content=b'{"refresh_token":"x"}', headers={"content-type": content_type}
    )
    assert answer.status_code == 204


async def test_encoded_body(site: Site) -> None:
    """A compressed body is not inflated."""
    answer = await site.client.post(
        "/auth/logout", content=b"x", headers={"content-type": "application/json", "content-encoding": "gzip"}
    )
    assert answer.status_code == 415


@pytest.mark.parametrize("chunked", [False, True])
async def test_body_size(site: Site, chunked: bool) -> None:
    """64 KiB pass, a byte more does not, whether its length was told or not."""

    async def pieces(body: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(body), 5000):
            yield body[start : start + 5000]

    for size, status in ((MOST_BODY_BYTES, 204), (MOST_BODY_BYTES + 1, 413), (1_000_000, 413)):
        body = b'{"refresh_token":"x"}'.ljust(size)
        answer = await site.client.post(
            "/auth/logout",
            content=pieces(body) if chunked else body,
            headers={"content-type": "application/json"},
        )
        assert answer.status_code == status
        if status == 413:
            assert answer.json()["code"] == "too_large"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"refresh_token":"\xff"}',
        b'{"a":"\\ud800"}',
        b"[" * 60000,
        b'{"a":' * 10000,
        b"{} {}",
    ],
)
async def test_not_json(site: Site, body: bytes) -> None:
    """What is no JSON is malformed, also when it is nested deeply or no text."""
    answer = await site.client.post(
        "/auth/logout", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code in (400, 422)
    assert answer.json()["code"] in ("malformed", "invalid")


@pytest.mark.parametrize("body", [b"[]", b"null", b"5", b'"x"', b'{"refresh_token":[]}', b"{}"])
async def test_wrong_shape(site: Site, body: bytes) -> None:
    """JSON of another shape is invalid, and the place is named."""
    answer = await site.client.post(
        "/auth/logout", content=body, headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert answer.json()["path"].startswith("$")
