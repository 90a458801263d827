"""The pages that links lead to: they do nothing by being opened, need nothing from elsewhere, and say what went wrong."""

from __future__ import annotations

import pytest

from tests.http.serving import Site
from tests.http.test_page import Outline

PAGES = ["verify", "forgot", "reset", "email", "undo", "waitlist", "invitation"]


@pytest.fixture
def site(standing: Site) -> Site:
    """Share a node."""
    return standing


@pytest.mark.parametrize("page", PAGES)
async def test_a_page(site: Site, page: str) -> None:
    """It is whole, loads only what is ours, has nothing inline, and is kept by nobody."""
    answer = await site.client.get(f"/account/{page}")
    assert answer.status_code == 200
    outline = Outline()
    outline.feed(answer.text)
    assert outline.open == []
    assert outline.inline == []
    assert sorted(outline.loaded) == ["/account.css", "/account.js"]
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "form-action 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["x-frame-options"] == "DENY"
    for loaded in outline.loaded:
        assert (await site.client.get(loaded)).status_code == 200


@pytest.mark.parametrize("page", PAGES)
async def test_pressed_with_nothing(site: Site, page: str) -> None:
    """A button that was pressed with empty fields shows the form again, and says what is wrong."""
    form = {"content-type": "application/x-www-form-urlencoded"}
    answer = await site.client.post(f"/account/{page}", content=b"", headers=form)
    assert answer.status_code in (410, 422)
    assert "<form" in answer.text
    assert 'role="alert"' in answer.text


async def test_what_was_typed_is_escaped(site: Site) -> None:
    """Nothing that somebody wrote becomes markup; a password is never written back."""
    bad = '"><script>alert(1)</script>'
    answer = await site.client.post(
        "/account/invitation", data={"token": bad, "name": bad, "password": "my secret words"}
    )
    assert answer.status_code == 410
    assert "<script>alert" not in answer.text
    assert "&#34;&gt;&lt;script&gt;" in answer.text
    assert "my secret words" not in answer.text


@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        (b"{}", "application/json", 415),
        (b"token=1", "multipart/form-data; boundary=x", 415),
        (b"token=%ff", "application/x-www-form-urlencoded", 400),
        (b"token=\xff", "application/x-www-form-urlencoded", 400),
        (b"&".join(b"a=1" for _ in range(11)), "application/x-www-form-urlencoded", 400),
        (b"token=" + b"x" * 65536, "application/x-www-form-urlencoded", 413),
        (b"token=" + b"x" * 60000, "application/x-www-form-urlencoded", 410),
        (b"token=%00", "application/x-www-form-urlencoded", 410),
    ],
)
async def test_what_is_no_form(site: Site, content: bytes, media_type: str, status: int) -> None:
    """What no form sends is refused in one of the known ways."""
    answer = await site.client.post("/account/verify", content=content, headers={"content-type": media_type})
    assert answer.status_code == status


async def test_from_elsewhere(site: Site) -> None:
    """A page of another origin can't press the button."""
    for origin in ("https://evil.example", "null"):
        answer = await site.client.post(
            "/account/forgot", data={"email": "ada@example.org"}, headers={"origin": origin}
        )
        assert (answer.status_code, answer.json()["code"]) == (403, "origin_refused")


async def test_no_such_page(site: Site) -> None:
    """There are no others."""
    for method in ("GET", "POST"):
        answer = await site.client.request(method, "/account/admin")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
