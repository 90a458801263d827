"""Signatures of webhooks, and whether there is anybody to be paid by."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest

from protocol.refusals import ErrorCode, Refused
from server.gateways.cards import TOLERANCE_SECONDS, check_signature, open_cards
from server.settings import Settings

SECRET = "whsec_ours"
BODY = b'{\n  "id": "evt_1",\n  "type": "x"\n}'
NOW = 1_800_000_000


def v1(body: bytes = BODY, secret: str = SECRET, at: int = NOW) -> str:
    """Return one signature, as the provider makes it."""
    return hmac.new(secret.encode(), b"%d." % at + body, hashlib.sha256).hexdigest()


@pytest.mark.parametrize(
    "header",
    [
        f"t={NOW},v1={v1()}",
        f"t={NOW}, v1={v1()}",
        f"t={NOW},v1={v1(secret='whsec_old')},v1={v1()}",
        f"t={NOW},v1={v1()},v1={v1(secret='whsec_old')}",
        f"t={NOW},v0=aa,v1={v1()}",
        f"t={NOW - TOLERANCE_SECONDS},v1={v1(at=NOW - TOLERANCE_SECONDS)}",
        f"t={NOW + TOLERANCE_SECONDS},v1={v1(at=NOW + TOLERANCE_SECONDS)}",
    ],
)
def test_good_signatures(header: str) -> None:
    """One right signature is enough, wherever it stands, up to 300 seconds old."""
    check_signature(BODY, header, (SECRET,), NOW)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "x",
        f"v1={v1()}",
        f"t={NOW}",
        f"t={NOW},v1=",
        f"t={NOW},v1=é",
        f"t={NOW},v1={v1()[:-1]}",
        f"t={NOW},v1={v1().upper()}",
        f"t={NOW},v0={v1()}",
        f"t={NOW},v1={v1(secret='whsec_other')}",
        f"t={NOW},v1={v1(body=BODY + b' ')}",
        f"t={NOW},v1={v1(body=json.dumps(json.loads(BODY)).encode())}",
        f"t={NOW + 1},v1={v1()}",
        f"t={NOW},t={NOW},v1={v1()}",
        f"t=-1,v1={v1(at=-1)}",
        f"t=١٨٠٠٠٠٠٠٠٠,v1={v1()}",
        f"t={'9' * 400},v1={v1()}",
        f"t={NOW - 301},v1={v1(at=NOW - 301)}",
        f"t={NOW + 301},v1={v1(at=NOW + 301)}",
    ],
)
def test_bad_signatures(header: str) -> None:
    """Another secret, another body, another moment, an old one, and what is none."""
    with pytest.raises(Refused) as refused:
        check_signature(BODY, header, (SECRET,), NOW)
    assert refused.value.code is ErrorCode.SIGNATURE_REFUSED


def test_each_place_that_sends_has_its_secret() -> None:
    """One of them is enough, and none is as good as a wrong one."""
    for secrets in (("whsec_other", SECRET), (SECRET, "whsec_other")):
        check_signature(BODY, f"t={NOW},v1={v1()}", secrets, NOW)
    with pytest.raises(Refused):
        check_signature(BODY, f"t={NOW},v1={v1()}", (), NOW)


def test_a_body_that_was_written_again_is_refused() -> None:
    """The same object, but not the same bytes."""
    with pytest.raises(Refused):
        check_signature(json.dumps(json.loads(BODY)).encode(), f"t={NOW},v1={v1()}", (SECRET,), NOW)


def test_without_a_key_nothing_is_paid() -> None:
    """There is nobody to ask."""
    assert open_cards(Settings()) is None
