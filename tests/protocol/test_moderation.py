"""What an application and its decision may say."""

from __future__ import annotations

from uuid import UUID

from protocol.moderation import MAX_ABOUT, MAX_REASON, ApplyAsCreator, ListApplications, Role
from tests.protocol.wires import read, refused_field

APPLICATION = str(UUID(int=1))


def test_roles() -> None:
    """Four roles, from the least to the most that one may do."""
    assert [str(role) for role in Role] == ["MEMBER", "CREATOR", "MODERATOR", "ADMIN"]


def test_about() -> None:
    """One says something of oneself, and no book."""
    assert read(type="creator.apply", about="x" * MAX_ABOUT) == ApplyAsCreator(about="x" * MAX_ABOUT)
    for about in ("", "x" * (MAX_ABOUT + 1)):
        assert refused_field(type="creator.apply", about=about) == "$.about"


def test_decisions() -> None:
    """A decision is a yes or a no about one application; its reason is short."""
    decision = {"type": "creator.decide", "application": APPLICATION, "approve": False}
    assert read(**decision).reason == ""
    assert refused_field(**decision, reason="x" * (MAX_REASON + 1)) == "$.reason"
    assert refused_field(**{**decision, "approve": "no"}) == "$.approve"
    assert refused_field(**{**decision, "application": "1"}) == "$.application"


def test_pages() -> None:
    """Applications come in pages of a hundred at most."""
    assert read(type="creator.list") == ListApplications(limit=20)
    for limit in (0, 101):
        assert refused_field(type="creator.list", limit=limit) == "$.limit"
