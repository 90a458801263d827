"""Access tokens: what is believed, and every way to be someone else that is known."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import string
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from jwt.algorithms import HMACAlgorithm

from protocol.envelope import SessionId, UserId
from protocol.refusals import ErrorCode, Refused
from server.settings import Settings
from server.tokens import LEEWAY_SECONDS, PROVEN, Tokens, new_refresh_token, refresh_hash

SEED_A, SEED_B = bytes(range(32)), bytes(range(1, 33))
USER, SESSION = UserId(uuid4()), SessionId(uuid4())
Mapping = dict[str, Any]


def encoded(data: bytes) -> str:
    """Encode as a part of a token."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def settings(*keys: tuple[str, bytes], **others: Any) -> Settings:
    """Make settings with these keys."""
    return Settings(signing_keys=tuple(f"{kid}:{encoded(seed)}" for kid, seed in keys), **others)


KEY_A = settings(("a", SEED_A))


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def signed(tokens: Tokens) -> str:
    """Make a token as the server does."""
    return tokens.sign(user=USER, session=SESSION, role="MEMBER", tier="FREE")[0]


def claims(**changes: Any) -> Mapping:
    """Make good claims, but for the changes; None takes a claim out."""
    now = int(time.time())
    good = {
        "iss": "looprooms",
        "aud": "looprooms",
        "sub": str(USER),
        "sid": str(SESSION),
        "role": "MEMBER",
        "subscriptionTier": "FREE",
        "jti": "x",
        "iat": now,
        "exp": now + 600,
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def forged(
    payload: Mapping | bytes, header: Mapping | str | None = None, seed: bytes = SEED_A, *, raw: bool = False
) -> str:
    """Sign anything under any header with a key."""
    if header is None:
        header = {"kid": "a", "alg": "EdDSA", "typ": "at+jwt"}
    head = header if isinstance(header, str) else json.dumps(header, separators=(",", ":"))
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    text = f"{encoded(head.encode())}.{encoded(body)}"
    if raw:
        return text
    return f"{text}.{encoded(Ed25519PrivateKey.from_private_bytes(seed).sign(text.encode()))}"


def refusal(token: str, tokens: Tokens | None = None) -> ErrorCode:
    """Return why a token is refused."""
    with pytest.raises(Refused) as refused:
        (tokens or Tokens(KEY_A)).verify(token)
    return refused.value.code


def test_there_and_back() -> None:
    """What was signed is what is verified."""
    tokens = Tokens(KEY_A)
    token, expires_in = tokens.sign(user=USER, session=SESSION, role="MEMBER", tier="FREE")
    found = tokens.verify(token)
    assert (found.user, found.session, expires_in) == (USER, SESSION, 600.0)
    assert abs(found.expires_at - time.time() - 600) < 2


def test_anyone_can_read_it() -> None:
    """It is an ordinary JWT: another library verifies it with the public key, and finds every claim."""
    public = Ed25519PrivateKey.from_private_bytes(SEED_A).public_key()
    token = signed(Tokens(KEY_A))
    found = jwt.decode(token, public, algorithms=["EdDSA"], audience="looprooms", issuer="looprooms")
    assert set(found) == {"iss", "aud", "sub", "sid", "role", "subscriptionTier", "jti", "iat", "exp"}
    assert jwt.get_unverified_header(token) == {"alg": "EdDSA", "typ": "at+jwt", "kid": "a"}
    assert "@" not in json.dumps(found)


def test_each_is_another() -> None:
    """Two tokens of the same moment have different ids."""
    tokens = Tokens(KEY_A, clock=Clock())
    assert signed(tokens) != signed(tokens)


def test_our_forger_is_able() -> None:
    """What the tests below refuse is refused for the one thing that is wrong in it."""
    assert Tokens(KEY_A).verify(forged(claims())).user == USER


def _with_public_key_as_secret() -> str:
    key = Ed25519PrivateKey.from_private_bytes(SEED_A).public_key()
    secret = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    text = forged(claims(), {"kid": "a", "alg": "HS256", "typ": "at+jwt"}, raw=True)
    return f"{text}.{encoded(HMACAlgorithm(HMACAlgorithm.SHA256).sign(text.encode(), secret))}"


def _with_own_jwk() -> str:
    own = Ed25519PrivateKey.generate()
    point = encoded(own.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
    header = {
        "kid": "a",
        "alg": "EdDSA",
        "typ": "at+jwt",
        "jwk": {"kty": "OKP", "crv": "Ed25519", "x": point},
    }
    return forged(claims(), header, own.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()))


def _header(**changes: Any) -> str:
    good = {"kid": "a", "alg": "EdDSA", "typ": "at+jwt"} | changes
    return forged(claims(), {name: value for name, value in good.items() if value is not None})


def _claims(**changes: Any) -> str:
    return forged(claims(**changes))


ATTACKS: dict[str, Callable[[], str]] = {
    "unsigned": lambda: forged(claims(), {"kid": "a", "alg": "none", "typ": "at+jwt"}, raw=True) + ".",
    "alg none, signed": lambda: _header(alg="none"),
    "alg nOnE": lambda: _header(alg="nOnE"),
    "alg HS256 with the public key as secret": _with_public_key_as_secret,
    "alg ES256": lambda: _header(alg="ES256"),
    "alg is a list": lambda: _header(alg=["EdDSA"]),
    "no alg": lambda: _header(alg=None),
    "typ of an ID token": lambda: _header(typ="JWT"),
    "no typ": lambda: _header(typ=None),
    "unknown kid": lambda: _header(kid="z"),
    "no kid": lambda: _header(kid=None),
    "kid is a path": lambda: _header(kid="../../dev/null"),
    "kid is a statement": lambda: _header(kid="a' or 1=1"),
    "jku": lambda: _header(jku="http://127.0.0.1:9/keys"),
    "x5u": lambda: _header(x5u="http://127.0.0.1:9/cert"),
    "jwk of one's own": _with_own_jwk,
    "crit": lambda: _header(crit=["exp"]),
    "b64": lambda: _header(b64=False, crit=["b64"]),
    "alg twice": lambda: forged(claims(), '{"kid":"a","alg":"EdDSA","typ":"at+jwt","alg":"none"}'),
    "another key": lambda: forged(claims(), seed=SEED_B),
    "another issuer": lambda: _claims(iss="elsewhere"),
    "no issuer": lambda: _claims(iss=None),
    "another audience": lambda: _claims(aud="elsewhere"),
    "audience is a list": lambda: _claims(aud=["looprooms", "elsewhere"]),
    "no audience": lambda: _claims(aud=None),
    "no expiry": lambda: _claims(exp=None),
    "expiry is a text": lambda: _claims(exp="never"),
    "expiry is infinite": lambda: forged(json.dumps(claims(exp=float("inf"))).encode()),
    "no time of issue": lambda: _claims(iat=None),
    "issued tomorrow": lambda: _claims(iat=int(time.time()) + 86400, exp=int(time.time()) + 90000),
    "no subject": lambda: _claims(sub=None),
    "subject is no id": lambda: _claims(sub="admin"),
    "no session": lambda: _claims(sid=None),
    "claims are a list": lambda: forged(b"[]"),
    "claims are no JSON": lambda: forged(b"{"),
    "claims are no text": lambda: forged(b'{"iss":"\xff"}'),
    "nested deeply": lambda: forged(b"[" * 3000),
    "empty": lambda: "",
    "dots": lambda: "..",
    "four parts": lambda: signed(Tokens(KEY_A)) + ".x",
    "no signature": lambda: signed(Tokens(KEY_A)).rpartition(".")[0],
    "empty signature": lambda: signed(Tokens(KEY_A)).rpartition(".")[0] + ".",
    "a space behind": lambda: signed(Tokens(KEY_A)) + " ",
    "padding": lambda: signed(Tokens(KEY_A)) + "==",
    "no ASCII": lambda: signed(Tokens(KEY_A)) + "é",
    "a surrogate": lambda: signed(Tokens(KEY_A)) + "\ud800",
    "too long": lambda: forged(claims(role="M" * 5000)),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_forgery(attack: Callable[[], str]) -> None:
    """Each is refused, and no answer tells more than that."""
    assert refusal(attack()) is ErrorCode.TOKEN_INVALID


def test_every_flipped_character() -> None:
    """A token with any one character changed, to any other, is refused."""
    token = signed(Tokens(KEY_A))
    alphabet = string.ascii_letters + string.digits + "-_."
    tokens = Tokens(KEY_A)
    for place, character in enumerate(token):
        other = alphabet[(alphabet.index(character) + 1) % len(alphabet)]
        assert refusal(token[:place] + other + token[place + 1 :], tokens) is ErrorCode.TOKEN_INVALID
    last = [token[:-1] + other for other in alphabet if other != token[-1]]
    assert {refusal(changed, tokens) for changed in last} == {ErrorCode.TOKEN_INVALID}


def test_expiry() -> None:
    """A token is good until it expires, and a moment longer for clocks that differ; then it says so."""
    clock = Clock()
    tokens = Tokens(KEY_A, clock=clock)
    token = signed(tokens)
    clock.now = int(clock.now) + 600 + LEEWAY_SECONDS - 0.1
    assert tokens.verify(token).user == USER
    clock.now += 0.1
    assert refusal(token, tokens) is ErrorCode.TOKEN_EXPIRED


def test_expired_and_not_ours() -> None:
    """Only a token that was once good is called expired."""
    past = int(time.time()) - 10
    assert refusal(_claims(exp=past)) is ErrorCode.TOKEN_EXPIRED
    assert refusal(forged(claims(exp=past), seed=SEED_B)) is ErrorCode.TOKEN_INVALID
    assert refusal(_claims(exp=past, aud="elsewhere")) is ErrorCode.TOKEN_INVALID


def test_clocks_that_differ() -> None:
    """A token of a node whose clock is a little ahead is believed."""
    assert Tokens(KEY_A).verify(_claims(iat=int(time.time()) + 1)).user == USER


def test_another_environment() -> None:
    """The same key does not make a token of one environment good in another."""
    token = signed(Tokens(settings(("a", SEED_A), issuer="staging")))
    assert refusal(token) is ErrorCode.TOKEN_INVALID
    token = signed(Tokens(settings(("a", SEED_A), audience="staging")))
    assert refusal(token) is ErrorCode.TOKEN_INVALID


def test_keys_rotate() -> None:
    """Through the three steps every token that was given out is good on every node that is a step ahead or behind."""
    steps = [
        settings(("a", SEED_A)),
        settings(("a", SEED_A), ("b", SEED_B)),
        settings(("b", SEED_B), ("a", SEED_A)),
    ]
    for one, other in itertools.pairwise(steps):
        for signer, verifier in ((one, other), (other, one)):
            assert Tokens(verifier).verify(signed(Tokens(signer))).user == USER
    last = Tokens(settings(("b", SEED_B)))
    assert last.verify(signed(Tokens(steps[2]))).user == USER
    assert refusal(signed(Tokens(steps[0])), last) is ErrorCode.TOKEN_INVALID


def test_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signature is checked once, that of one's own tokens never; what changes with time is looked at each time."""
    clock = Clock()
    other = Tokens(KEY_A, clock=clock)
    tokens = Tokens(KEY_A, clock=clock)
    checked: list[str] = []
    authentic = tokens._authentic

    def counting(token: str) -> Any:
        checked.append(token)
        return authentic(token)

    monkeypatch.setattr(tokens, "_authentic", counting)
    own, foreign = signed(tokens), signed(other)
    for token in (own, foreign) * 3:
        assert (tokens.verify(token).user, tokens.verify(token).session) == (USER, SESSION)
    assert checked == [foreign]
    for flipped in (foreign[:-2] + ("A" if foreign[-2] != "A" else "B") + foreign[-1], foreign + "\ud800"):
        assert refusal(flipped, tokens) is ErrorCode.TOKEN_INVALID
    clock.now += 600 + LEEWAY_SECONDS
    assert refusal(own, tokens) is ErrorCode.TOKEN_EXPIRED
    assert refusal(foreign, tokens) is ErrorCode.TOKEN_EXPIRED


def test_what_is_known_is_forgotten() -> None:
    """A token whose key was withdrawn is refused, however often it was believed; and no more than so many are kept."""
    tokens = Tokens(KEY_A)
    token = [signed(tokens) for _ in range(PROVEN + 10)][-1]
    assert tokens.verify(token).user == USER
    assert len(tokens._proven) == PROVEN
    tokens.take(settings(("b", SEED_B)).signing_keys)
    assert refusal(token, tokens) is ErrorCode.TOKEN_INVALID


def test_no_key() -> None:
    """Without a key there are no tokens."""
    with pytest.raises(ValueError, match="no key"):
        Tokens(Settings())


def test_successor() -> None:
    """A refresh token has one successor per key, the same on every node, unlike itself and unlike any other's."""
    token = new_refresh_token()
    both = Tokens(settings(("b", SEED_B), ("a", SEED_A))).successors(token)
    assert both[1:] == Tokens(KEY_A).successors(token)
    assert both == Tokens(settings(("b", SEED_B), ("a", SEED_A))).successors(token)
    assert len({token, *both, *Tokens(KEY_A).successors(new_refresh_token())}) == 4
    assert {len(text) for text in (token, *both)} == {43}


def test_successor_needs_the_secret() -> None:
    """Neither the token nor its hash is enough to compute what follows."""
    token = new_refresh_token()
    (successor,) = Tokens(KEY_A).successors(token)
    guesses = {
        encoded(hashlib.sha256(part).digest())
        for part in (token.encode(), refresh_hash(token), os.urandom(8))
    }
    assert successor not in guesses
    assert successor not in Tokens(settings(("a", SEED_B))).successors(token)


def test_settings_show_no_key() -> None:
    """A printed setting holds no seed."""
    assert encoded(SEED_A) not in repr(KEY_A)
    assert msgspec.structs.asdict(KEY_A)["signing_keys"][0].endswith(encoded(SEED_A))
