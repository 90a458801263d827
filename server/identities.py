"""What is done by itself about people who came through Google or Apple."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from protocol.refusals import ErrorCode, Refused
from server.jobs import GiveUp, TryAgain, performs
from storage.grants import RevokeToken, forget_token, token_to_revoke
from storage.identities import forget_spent
from storage.jobs import Periodic

if TYPE_CHECKING:
    from server.node import Node

_HOUR: Final = 3600.0


class ForgetSpentProofs(Periodic, tag="identity.forget"):
    """Deletes proofs that could not be used any more in any case."""


@performs(RevokeToken, attempts=40, backoff=30.0, together=2, within=30.0)
async def revoke(node: Node, job: RevokeToken) -> None:
    """Revoke a token at its provider, then forget it. Until then it is kept, for days if need be."""
    pool = node.stores.pool
    found = await token_to_revoke(pool, node.stores.sealer, job.token)
    if found is None:
        return
    try:
        provider = node.providers.find(found.provider.lower())
    except Refused:
        raise GiveUp("its provider is not offered any more") from None
    try:
        await provider.revoke(found.token, found.client)
    except Refused as refused:
        if refused.code is ErrorCode.SIGN_IN_REFUSED:
            raise TryAgain("its provider refuses") from None
        raise
    await forget_token(pool, job.token)


@performs(ForgetSpentProofs, every=_HOUR)
async def forget(node: Node, job: ForgetSpentProofs) -> None:  # noqa: ARG001 - whichever hour it is
    """Delete what has expired."""
    await forget_spent(node.stores.pool)
