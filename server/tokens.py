"""Tokens: the access token that says who one is for ten minutes, and the refresh token that gets the next one.

An access token is a JWT (RFC 9068, ``typ: at+jwt``) signed with Ed25519. It proves `sub` and `sid` alone; `role` and
`subscriptionTier` are hints for clients and edges, the live session decides. Only this code makes tokens, so their header is
one of a few known strings, one for each key, and it is compared as a whole: there is no algorithm to choose, no key to be
fetched, and no extension to be understood or ignored.

A refresh token is 256 opaque bits. Its successor is computed from it and a secret that no token holds, so that the same
token presented twice has the same successor, and nothing that a thief of the database could use is stored.

Keys rotate in three steps, without a token lost: add the new one at the end of `signing_keys` on every node, then put it
first, then, once the last token of the old one has expired, take the old one out. `server.rotation` does that to a file, and
nodes follow the file.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID, uuid4

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Struct

from protocol.envelope import SessionId, UserId
from protocol.refusals import ErrorCode, Refused
from server.settings import Settings

LEEWAY_SECONDS: Final = 2.0
"""How far the clocks of two nodes may be apart."""
LONGEST_TOKEN: Final = 4096
PROVEN: Final = 2048
"""Tokens whose signature is known here: a megabyte."""
_SUCCESSOR_PURPOSE: Final = b"looprooms: successor of a refresh token, v1"


class Claims(Struct, frozen=True):
    """What an access token proves. `expires_at` is in seconds since 1970. `role` and `tier` are as of when it was made: hints."""

    user: UserId
    session: SessionId
    expires_at: float
    role: str = "MEMBER"
    tier: str = "FREE"


class _Header(Struct):
    kid: str
    alg: str = "EdDSA"
    typ: str = "at+jwt"


class _Payload(Struct):
    iss: str
    aud: str
    sub: UUID
    sid: UUID
    role: str
    subscriptionTier: str  # noqa: N815 - the claim's name
    jti: str
    iat: int
    exp: int


_decode_payload = msgspec.json.Decoder(_Payload).decode


class Tokens:
    """Signs and checks tokens with the keys of the settings, which are loaded once.

    `clock` is in seconds since 1970. Raises `ValueError` when there is no key.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self._issuer = settings.issuer
        self._audience = settings.audience
        self._lifetime = settings.access_token_seconds
        self._clock = clock
        self._proven: dict[bytes, Claims] = {}
        """What was signed or checked here lately, by the hash of the token. A signature takes 80 us to check, a third of what a
        new connection costs; and who signs in connects, and asks over HTTP, with the same token again and again."""
        self.take(settings.signing_keys)

    def take(self, signing_keys: Sequence[str]) -> None:
        """Sign and verify with these keys from now on, as they stand in the settings. Raises `ValueError` when there is none."""
        seeds = {
            kid: urlsafe_b64decode(seed + "=")
            for kid, _, seed in (key.partition(":") for key in signing_keys)
        }
        if not seeds:
            raise ValueError("no key to sign access tokens with")
        self._proven.clear()  # a key may have been withdrawn
        keys = {kid: Ed25519PrivateKey.from_private_bytes(seed) for kid, seed in seeds.items()}
        first = next(iter(keys))
        self._signing_key = keys[first]
        self._signing_header = _header(first)
        self._verifying_keys: dict[str, Ed25519PublicKey] = {
            _header(kid): key.public_key() for kid, key in keys.items()
        }
        self._seeds = list(seeds.values())
        self._successor_keys = [_derived(seed, _SUCCESSOR_PURPOSE) for seed in seeds.values()]
        self.public_keys = {
            kid: key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw) for kid, key in keys.items()
        }
        """What others need to check an access token: the 32 bytes of each Ed25519 key, by its id, that of the signing key first."""

    def sign(self, *, user: UserId, session: SessionId, role: str, tier: str) -> tuple[str, float]:
        """Return an access token, and the seconds that it lives."""
        now = int(self._clock())
        payload = _Payload(
            iss=self._issuer,
            aud=self._audience,
            sub=user,
            sid=session,
            role=role,
            subscriptionTier=tier,
            jti=uuid4().hex,
            iat=now,
            exp=now + self._lifetime,
        )
        signed = f"{self._signing_header}.{_base64(msgspec.json.encode(payload))}"
        token = f"{signed}.{_base64(self._signing_key.sign(signed.encode()))}"
        self._remember(_digest(token), _claims(payload))
        return token, float(self._lifetime)

    def verify(self, token: str) -> Claims:
        """Return what `token` proves. Raises `Refused`: ``token_expired`` if it was good once, else ``token_invalid``."""
        now = self._clock()
        digest = _digest(token)
        claims = self._proven.get(digest)
        if claims is None:
            payload = self._authentic(token)
            if (
                payload.iss != self._issuer
                or payload.aud != self._audience
                or payload.iat > now + LEEWAY_SECONDS
            ):
                raise Refused(ErrorCode.TOKEN_INVALID)
            claims = _claims(payload)
        if claims.expires_at + LEEWAY_SECONDS <= now:
            raise Refused(ErrorCode.TOKEN_EXPIRED)
        self._remember(digest, claims)
        return claims

    def _remember(self, digest: bytes, claims: Claims) -> None:
        """Keep what a token proves. Of too many the first is forgotten: they expire in the order in which they came."""
        self._proven[digest] = claims
        if len(self._proven) > PROVEN:
            del self._proven[next(iter(self._proven))]

    def _authentic(self, token: str) -> _Payload:
        """Return what was signed with one of our keys. Raises `Refused`."""
        header, _, rest = token.partition(".")
        key = self._verifying_keys.get(header)
        if key is None or len(token) > LONGEST_TOKEN or not token.isascii():
            raise Refused(ErrorCode.TOKEN_INVALID)
        body, _, signature = rest.partition(".")
        try:
            raw = urlsafe_b64decode(signature + "==")
            if _base64(raw) != signature:  # some characters hold bits that decoding ignores
                raise Refused(ErrorCode.TOKEN_INVALID)
            key.verify(raw, f"{header}.{body}".encode())
            return _decode_payload(urlsafe_b64decode(body + "=="))
        except (Base64Error, InvalidSignature, msgspec.MsgspecError, UnicodeDecodeError):
            raise Refused(ErrorCode.TOKEN_INVALID) from None

    def derived(self, purpose: bytes) -> list[bytes]:
        """Return 32 bytes for another purpose from each key, those of the signing key first: secret, and known to every node."""
        return [_derived(seed, purpose) for seed in self._seeds]

    def successors(self, refresh_token: str) -> list[str]:
        """Return the successor of a refresh token under each key, that of the signing key first.

        While keys rotate, the one that was given out may have been computed with any of them.
        """
        token = refresh_token.encode()
        return [_base64(hmac.digest(key, token, "sha256")) for key in self._successor_keys]


def _claims(payload: _Payload) -> Claims:
    return Claims(
        UserId(payload.sub),
        SessionId(payload.sid),
        float(payload.exp),
        payload.role,
        payload.subscriptionTier,
    )


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()


def new_refresh_token() -> str:
    """Make the first refresh token of a session."""
    return _base64(secrets.token_bytes(32))


def refresh_hash(refresh_token: str) -> bytes:
    """Return what is stored of a refresh token. It is random enough that a plain hash keeps it secret."""
    return hashlib.sha256(refresh_token.encode()).digest()


def _header(kid: str) -> str:
    return _base64(msgspec.json.encode(_Header(kid)))


def _derived(seed: bytes, purpose: bytes) -> bytes:
    """Derive a key of another purpose from a signing seed."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose).derive(seed)


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
