"""One's e-mail address over HTTP: proving it, changing it, taking it back. What is proven is that a mailbox can be read.

The links of the letters lead to `server.http.account`; an app that opens them itself says here what stands after the ``#``.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta, Struct
from starlette.requests import Request

from protocol.refusals import ErrorCode
from server.emails import Email, mailbox, normalised_email
from server.http.auth import ASKED_LETTERS, LETTERS, Password
from server.http.callers import REFUSALS, caller_of
from server.http.endpoint import Endpoint
from server.http.passwords import Proofs
from server.passwords import Passwords
from server.session import Changed
from storage.emails import ask_for_change, ask_for_welcome, confirm_change, undo_change, verify
from storage.links import Purpose, subject_of_link

if TYPE_CHECKING:
    from server.node import Node

Token = Annotated[
    str, Meta(min_length=1, max_length=256, description="What stands after the `#` of the link in the mail.")
]


class Link(Struct):
    """A link that was mailed. It is used up by this."""

    token: Token


LINK_EXAMPLE: Final = Link("kD3yT9bQwEr5uZxA1sVfGhJmNpLc7oRiXt2YqUeKjWs")


class ChangeEmail(Struct):
    """Another address, and the password of the account."""

    email: Email
    password: Password


class Emails:
    """The operations on addresses, of one node."""

    def __init__(self, node: Node, passwords: Passwords, proofs: Proofs) -> None:
        self._node = node
        self._passwords = passwords
        self._proofs = proofs

    async def verify_email(self, _: Request, body: Link) -> None:
        """Prove an address with the link that was mailed to it."""
        await self.verify(body.token)

    async def verify(self, token: str) -> None:
        """Prove an address. Raises `Refused`: link_invalid, email_taken."""
        await verify(self._node.stores.pool, self._node.stores.sealer, token)

    async def resend_verification(self, request: Request) -> None:
        """Send the link again, to the address of your account. One that is proven needs none, and gets none."""
        account = (await caller_of(self._node, request)).account
        if account.email is not None and not account.verified:
            await self._node.quotas.demand(LETTERS, mailbox(account.email))
            await ask_for_welcome(self._node.stores.pool, account.id)

    async def change_email(self, request: Request, body: ChangeEmail) -> None:
        """Ask for another address. It counts once the link is opened that is mailed to it, within a day.

        The answer is the same whether somebody has that address already or not. Then the old address is told, and for seven days
        the change can be taken back from there.
        """
        caller = await caller_of(self._node, request)
        email = normalised_email(body.email)
        await self._proofs.of_password(request, caller.account, body.password)
        await self._node.quotas.demand(LETTERS, mailbox(email))
        stores = self._node.stores
        await ask_for_change(stores.pool, stores.sealer, caller.account.id, email)

    async def confirm_email(self, _: Request, body: Link) -> None:
        """Prove the new address with the link that was mailed to it: from now on it is that of the account."""
        await self.confirm(body.token)

    async def confirm(self, token: str) -> None:
        """Give an account its new address. Raises `Refused`: link_invalid, email_taken."""
        await confirm_change(self._node.stores.pool, self._node.stores.sealer, token)

    async def undo_email(self, _: Request, body: Link) -> None:
        """Take a change of address back, with the link that was mailed to the old one.

        The account has its old address again, everybody is signed out of it, and a link for a new password is mailed.
        """
        await self.undo(body.token)

    async def undo(self, token: str) -> None:
        """Give an account its old address back. Raises `Refused`: link_invalid, email_taken, busy."""
        await subject_of_link(self._node.stores.pool, Purpose.UNDO, token)
        unknown = await self._passwords.hash(secrets.token_urlsafe(32))
        user = await undo_change(self._node.stores.pool, self._node.stores.sealer, token, unknown)
        self._node.announcements.announce(Changed(users=[user]))


def endpoints(emails: Emails) -> list[Endpoint]:
    """List the operations on addresses."""
    link = (ErrorCode.LINK_INVALID, ErrorCode.EMAIL_TAKEN, ErrorCode.UNAVAILABLE)
    return [
        Endpoint(
            method="POST",
            path="/auth/email/verify",
            summary="Prove an address",
            handle=emails.verify_email,
            body=Link,
            example=LINK_EXAMPLE,
            status=204,
            refuses=link,
            group="E-mail and password",
        ),
        Endpoint(
            method="POST",
            path="/me/email/verification",
            summary="Send the link again",
            handle=emails.resend_verification,
            limits=(ASKED_LETTERS,),
            status=202,
            signed_in=True,
            refuses=REFUSALS,
            group="E-mail and password",
        ),
        Endpoint(
            method="POST",
            path="/me/email",
            summary="Ask for another address",
            handle=emails.change_email,
            limits=(ASKED_LETTERS,),
            body=ChangeEmail,
            example=ChangeEmail("ada@new.example.org", "violets under a lamp"),
            status=202,
            signed_in=True,
            refuses=(*REFUSALS, ErrorCode.CREDENTIALS_REFUSED, ErrorCode.BUSY),
            group="E-mail and password",
        ),
        Endpoint(
            method="POST",
            path="/auth/email/confirm",
            summary="Prove the new address",
            handle=emails.confirm_email,
            body=Link,
            example=LINK_EXAMPLE,
            status=204,
            refuses=link,
            group="E-mail and password",
        ),
        Endpoint(
            method="POST",
            path="/auth/email/undo",
            summary="Take a change of address back",
            handle=emails.undo_email,
            body=Link,
            example=LINK_EXAMPLE,
            status=204,
            refuses=(*link, ErrorCode.BUSY),
            group="E-mail and password",
        ),
    ]
