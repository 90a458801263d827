"""What is an e-mail address, which spellings are one account, and which one mailbox."""

from __future__ import annotations

import pytest

from protocol.refusals import Refused
from server.emails import mailbox, normalised_email


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ada@Example.org", "ada@example.org"),
        ("  ada@example.org\n", "ada@example.org"),
        ("ａｄａ@example.org", "ada@example.org"),
        ("ada+loops@mail.example.co.uk", "ada+loops@mail.example.co.uk"),
        ("o'hara@example.org", "o'hara@example.org"),
        ("jörg@exämple.de", "jörg@exämple.de"),
        ("a@xn--exmple-cua.de", "a@xn--exmple-cua.de"),
    ],
)
def test_one_spelling(text: str, expected: str) -> None:
    """An address has one normal form."""
    assert normalised_email(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ada",
        "@example.org",
        "ada@",
        "ada@localhost",
        "ada@@example.org",
        "ada@exa mple.org",
        "a da@example.org",
        "ada@-example.org",
        "ada@example-.org",
        "ada@.example.org",
        "ada@example..org",
        ".ada@example.org",
        "ada.@example.org",
        "a..da@example.org",
        "ada@example.org\x00",
        "ada\r\nbcc: x@example.org",
        "<ada@example.org>",
        f"{'a' * 65}@example.org",
        f"a@{'b' * 250}.org",
        f"a@{'b.' * 130}org",
    ],
)
def test_no_address(text: str) -> None:
    """What can't be an address is refused."""
    with pytest.raises(Refused):
        normalised_email(text)


@pytest.mark.parametrize(
    "spelling",
    [
        "ada.lovelace@gmail.com",
        "AdaLovelace@GMail.com",
        "a.d.a.lovelace+club@googlemail.com",
        " adalovelace+@gmail.com. ",
        "ａdalovelace@gmail.com",
    ],
)
def test_spellings_of_a_mailbox(spelling: str) -> None:
    """Case, dots, tags and compatibility characters make no second mailbox."""
    assert mailbox(spelling) == "adalovelace@gmail.com"


@pytest.mark.parametrize(
    "spelling", ["ada@bücher.example", "a.da@XN--BCHER-KVA.example", "ada+x@bu\u0308cher.example"]
)
def test_spellings_of_a_host(spelling: str) -> None:
    """A host that is written as people read it is the one that mail servers know."""
    assert mailbox(spelling) == "ada@xn--bcher-kva.example"


def test_other_mailboxes() -> None:
    """Other people are others, and what is no address is counted by what it is."""
    assert mailbox("ada@example.org") != mailbox("ada@example.com")
    assert mailbox("nonsense") == "@nonsense"
