"""What a command about the feed may say, and what little a pulse is."""

from __future__ import annotations

from protocol.codec import JSON
from protocol.feed import FeedPulse, OpenFeed
from tests.protocol.wires import read, refused_field


def test_positions() -> None:
    """A position is an epoch and an offset that there can be; who has none says nothing."""
    assert read(type="feed.open") == OpenFeed()
    assert read(type="feed.open", epoch="e", offset=2**63 - 1) == OpenFeed(epoch="e", offset=2**63 - 1)
    assert refused_field(type="feed.open", epoch="e", offset=-1) == "$.offset"
    assert refused_field(type="feed.open", epoch="e", offset=2**63) == "$.offset"
    assert refused_field(type="feed.open", epoch="e" * 129, offset=1) == "$.epoch"


def test_a_pulse_as_it_travels() -> None:
    """A count costs some bytes, whatever it counts."""
    assert JSON.encode(FeedPulse(offset=1037, new=37)) == b'{"type":"feed.pulse","offset":1037,"new":37}'
