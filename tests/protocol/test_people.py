"""What a command about oneself may say."""

from __future__ import annotations

from protocol.people import SetAnonymity
from tests.protocol.wires import read, refused_field


def test_anonymity_is_said() -> None:
    """Whether one is to be anonymous is said, as a yes or a no."""
    for on in (True, False):
        assert read(type="person.anonymous", on=on) == SetAnonymity(on=on)
    assert refused_field(type="person.anonymous") == "$"
    for neither in ("yes", 1, None):
        assert refused_field(type="person.anonymous", on=neither) == "$.on"
