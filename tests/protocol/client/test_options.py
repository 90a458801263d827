"""The options of a client."""

from __future__ import annotations

import inspect

from protocol.client import Backoff, connect
from protocol.client.options import Options
from protocol.codec import JSON


def test_one_set_of_defaults() -> None:
    """What `connect` promises in its signature is what an option is when nobody sets it."""
    defaults = Options()
    parameters = inspect.signature(connect).parameters
    for name in (
        "compression",
        "call_timeout",
        "open_timeout",
        "close_timeout",
        "patience",
        "waiting",
        "sleep",
    ):
        assert parameters[name].default == getattr(defaults, name)
    assert (defaults.codec, parameters["encoding"].default) == (JSON, "json")
    assert isinstance(defaults.backoff, Backoff)
