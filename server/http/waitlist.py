"""The waitlist over HTTP: asking for a place, and confirming it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from starlette.requests import Request

from protocol.refusals import ErrorCode
from server.emails import Email, mailbox, normalised_email
from server.http.auth import ASKED_LETTERS, LETTERS
from server.http.emails import LINK_EXAMPLE, Link
from server.http.endpoint import Endpoint
from storage.waitlist import ask_for_place, confirm_place

if TYPE_CHECKING:
    from server.node import Node


class JoinWaitlist(Struct):
    """An address that would like to have an account."""

    email: Email


class Waitlist:
    """The operations on the waitlist, of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def join_waitlist(self, _: Request, body: JoinWaitlist) -> None:
        """Ask for a place; a link to confirm it is mailed. Twice is once, and the answer is the same for every address."""
        email = normalised_email(body.email)
        await self._node.quotas.demand(LETTERS, mailbox(email))
        await ask_for_place(self._node.stores.pool, self._node.stores.sealer, email)

    async def confirm_waitlist(self, _: Request, body: Link) -> None:
        """Confirm a place with the link that was mailed."""
        await self.confirm(body.token)

    async def confirm(self, token: str) -> None:
        """Confirm a place. Raises `Refused` (link_invalid)."""
        await confirm_place(self._node.stores.pool, token)


def endpoints(waitlist: Waitlist) -> list[Endpoint]:
    """List the operations on the waitlist."""
    return [
        Endpoint(
            method="POST",
            path="/waitlist",
            summary="Ask for a place",
            handle=waitlist.join_waitlist,
            limits=(ASKED_LETTERS,),
            body=JoinWaitlist,
            example=JoinWaitlist("ada@example.org"),
            status=202,
            refuses=(ErrorCode.UNAVAILABLE,),
            group="Waitlist",
        ),
        Endpoint(
            method="POST",
            path="/waitlist/confirm",
            summary="Confirm a place",
            handle=waitlist.confirm_waitlist,
            body=Link,
            example=LINK_EXAMPLE,
            status=204,
            refuses=(ErrorCode.LINK_INVALID, ErrorCode.UNAVAILABLE),
            group="Waitlist",
        ),
    ]
