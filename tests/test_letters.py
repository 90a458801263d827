"""The letters: each has its words in both forms, and nothing of a stranger in it."""

from __future__ import annotations

import re

import pytest
from jinja2 import UndefinedError

from server.mail import LETTERS, compose

HOME = "https://rooms.example.org"
LINK = f"{HOME}/account/verify?a=1&b=2#token"


@pytest.mark.parametrize("letter", sorted(LETTERS))
def test_both_parts_say_the_same(letter: str) -> None:
    """Plain text and HTML have the same words, in the same order."""
    mail = compose(letter, "ada@example.org", home=HOME, link=LINK)
    assert mail.subject
    assert "\n" not in mail.subject
    plain = re.sub(r"http\S+", "", mail.text).replace(":\n", "\n").split()
    html = re.sub(r"<(head|style).*?</\1>|<[^>]*>|http\S+", " ", mail.html, flags=re.DOTALL).split()
    assert [word for word in plain if word not in html] == []
    assert LINK in mail.text
    assert LINK.replace("&", "&amp;") in mail.html
    assert max(map(len, mail.text.splitlines())) <= max(72, len(LINK))


def test_without_a_link() -> None:
    """A letter that has nothing to click says nothing about clicking."""
    mail = compose("stranger", "ada@example.org", home=HOME)
    assert "#" not in mail.text
    assert ":\n" not in mail.text


def test_what_is_written_is_escaped() -> None:
    """No value becomes markup."""
    mail = compose("verify", "ada@example.org", home='https://x/"><script>', link="https://y/<b>")
    assert "<script>" not in mail.html
    assert "<b>" not in mail.html


def test_a_missing_value_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """A letter never goes out with a hole in it."""
    from server import mail

    template = mail._TEXT.from_string("{{ nobody }}")
    with pytest.raises(UndefinedError):
        template.render()
