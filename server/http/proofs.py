"""From what a provider has signed to what is known here: who somebody is, and what is used up by saying so."""

from __future__ import annotations

import hashlib
import logging
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from protocol.refusals import Refused
from protocol.text import normalised
from server.emails import normalised_email
from server.gateways.identity import LEEWAY_SECONDS, Proof, Provider
from server.http.auth import LONGEST_NAME
from server.http.flows import UnderWay
from storage.grants import Granted
from storage.identities import Known, Spent

_LOGGER = logging.getLogger("looprooms.identity")

ID_TOKEN_EXAMPLE: Final = (
    "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJpc3MiOiJodHRwczovL2FjY291bnRzLmdvb2dsZS5jb20ifQ.c2ln"  # noqa: S105 - it is nobody's
)
UNNAMED: Final = "New member"
"""Who has not told us a name."""


class IdToken(Struct, kw_only=True):
    """An ID token that the provider gave to an app on its device, and what shows that it was made for this sign-in."""

    id_token: Annotated[str, Meta(min_length=1, max_length=8192, description="As the provider gave it.")]
    nonce: Annotated[
        str,
        Meta(
            min_length=16,
            max_length=256,
            description="A random text that the app made; what the provider was given is its SHA-256 in hexadecimal.",
        ),
    ]
    code: (
        Annotated[
            str,
            Meta(max_length=4096, description="Of Apple: the authorization code that came with the token."),
        ]
        | None
    ) = None
    name: (
        Annotated[
            str,
            Meta(
                max_length=1000,
                description="Of Apple: what the app was told the person is called, which is once.",
            ),
        ]
        | None
    ) = None


class Proven(Struct, frozen=True):
    """Who somebody is, what is used up by it, what the provider gave, and what they are called, if anybody said so."""

    known: Known
    spent: Spent
    granted: Granted | None
    name: str | None


class _AppleName(Struct):
    firstName: str = ""  # noqa: N815 - Apple's name
    lastName: str = ""  # noqa: N815 - same


class _AppleUser(Struct):
    name: _AppleName | None = None


async def proven_in_browser(provider: Provider, under_way: UnderWay, code: str, redirect_uri: str) -> Proven:
    """Trade in the code that a browser came back with. Raises `Refused` (sign_in_refused, unavailable)."""
    traded = await provider.trade(code, verifier=under_way.verifier, redirect_uri=redirect_uri)
    proof = await provider.verify(traded.id_token, under_way.nonce)
    granted = None if traded.refresh_token is None else Granted(traded.refresh_token, proof.client)
    return Proven(
        _known(proof), Spent(under_way.spent, under_way.flow.expires_at), granted, called(proof.name)
    )


async def proven_on_device(provider: Provider, body: IdToken) -> Proven:
    """Check the ID token of an app. Raises `Refused` (sign_in_refused, unavailable).

    The token holds the hash of the nonce, so whoever gets hold of the token alone has nothing; and both together count once.
    """
    proof = await provider.verify(body.id_token, hashlib.sha256(body.nonce.encode()).hexdigest())
    used = hashlib.sha256(f"nonce {proof.issuer} {proof.subject} {body.nonce}".encode()).digest()
    spent = Spent(used, proof.expires_at + LEEWAY_SECONDS)
    granted = await _granted(provider, body.code, proof) if provider.keeps_tokens and body.code else None
    return Proven(_known(proof), spent, granted, called(proof.name) or called(body.name))


def called(name: str | None) -> str | None:
    """Return what somebody is called as it may be shown; None when nothing is left of it."""
    return normalised(name or "").replace("\n", " ")[:LONGEST_NAME].strip() or None


def name_in(user: str | None) -> str | None:
    """Return the name in what Apple posts about somebody, the first time. Nobody has signed it: it is a name and nothing else."""
    if not user or len(user) > 2000:
        return None
    try:
        found = msgspec.json.decode(user, type=_AppleUser).name
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return None if found is None else called(f"{found.firstName} {found.lastName}")


async def _granted(provider: Provider, code: str, proof: Proof) -> Granted | None:
    """Trade in an app's code for what must be revoked one day. Without it one can sign in all the same."""
    try:
        traded = await provider.trade_of_app(code, proof.client)
    except Refused as refused:
        _LOGGER.warning(
            "the code of an app could not be traded in at %s: %s", provider.title, refused.code.value
        )
        return None
    return None if traded.refresh_token is None else Granted(traded.refresh_token, proof.client)


def _known(proof: Proof) -> Known:
    try:
        address = None if proof.address is None else normalised_email(proof.address)
    except Refused:  # it is no address, whatever it is
        address = None
    return Known(
        provider=proof.provider.upper(),
        issuer=proof.issuer,
        subject=proof.subject,
        address=address,
        hidden=proof.hidden,
    )
