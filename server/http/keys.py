"""The public halves of the signing keys, for whoever checks access tokens without asking us: an edge, another service."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from server.http.endpoint import Endpoint
from server.rotation import PUBLISHED_SECONDS

if TYPE_CHECKING:
    from server.node import Node

_MEDIA_TYPE: Final = "application/jwk-set+json"


class Key(Struct, kw_only=True):
    """One Ed25519 key (RFC 8037)."""

    kty: Annotated[str, Meta(description="Always `OKP`.")] = "OKP"
    crv: Annotated[str, Meta(description="Always `Ed25519`.")] = "Ed25519"
    alg: Annotated[str, Meta(description="Always `EdDSA`.")] = "EdDSA"
    use: Annotated[str, Meta(description="Always `sig`.")] = "sig"
    kid: Annotated[str, Meta(description="As in the header of the tokens that it signed.")]
    x: Annotated[str, Meta(description="The 32 bytes of the key in base64url.")]


class KeySet(Struct):
    """All keys that verify now (RFC 7517). While they rotate there are two: one that signs, and the last or the next one."""

    keys: Annotated[list[Key], Meta(description="At least one.")]


class PublishedKeys:
    """The operation on keys, of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def key_set(self, _: Request) -> Response:
        """Return the keys. An access token is checked with the one that its header names, and nothing else in the header counts."""
        keys = [
            Key(kid=kid, x=urlsafe_b64encode(key).rstrip(b"=").decode())
            for kid, key in self._node.tokens.public_keys.items()
        ]
        headers = {"cache-control": f"public, max-age={PUBLISHED_SECONDS}"}
        return Response(msgspec.json.encode(KeySet(keys)), headers=headers, media_type=_MEDIA_TYPE)


def endpoints(keys: PublishedKeys) -> list[Endpoint]:
    """List the operation on keys."""
    return [
        Endpoint(
            method="GET",
            path="/.well-known/jwks.json",
            summary="Keys that verify access tokens",
            handle=keys.key_set,
            answer=KeySet,
            media_type=_MEDIA_TYPE,
            group="Sessions",
        )
    ]
