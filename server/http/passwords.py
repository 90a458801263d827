"""One's password over HTTP: proving that one knows it, changing it, and getting another one when it is forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, Struct
from starlette.requests import Request

from protocol.envelope import UserId
from protocol.refusals import ErrorCode, Refused
from server.emails import Email, mailbox, normalised_email
from server.http.auth import ASKED_LETTERS, LETTERS, SIGN_INS, NewPassword, Password
from server.http.callers import REFUSALS, Caller, address_of, caller_of, only_fresh
from server.http.endpoint import Endpoint
from server.http.guesses import Guesses
from server.passwords import LONGEST, Passwords, check_strength
from server.session import Changed
from storage.emails import Identity
from storage.links import Purpose, subject_of_link
from storage.passwords import ask_for_reset, change_password, identity_of, reset_password
from storage.people import Account

if TYPE_CHECKING:
    from server.node import Node


OwnPassword = Annotated[
    str,
    Meta(
        max_length=4096,
        description="Yours, if your account has one. Without it you must have signed in within the last 10 minutes.",
    ),
]


class ForgotPassword(Struct):
    """An address, and no password."""

    email: Email


class ResetPassword(Struct):
    """A link that was mailed, and the new password. The link is used up by this."""

    token: Annotated[
        str,
        Meta(min_length=1, max_length=256, description="What stands after the `#` of the link in the mail."),
    ]
    password: NewPassword


class ChangePassword(Struct):
    """The password that one has, and the one that one wants."""

    password: Password
    new_password: NewPassword


class Proofs:
    """Asks for the password of somebody who is signed in, before what a borrowed device must not be able to do."""

    def __init__(self, node: Node, passwords: Passwords) -> None:
        self._node = node
        self._passwords = passwords
        self._guesses = Guesses(node.quotas, node.stores.redis)

    async def of_password(self, request: Request, account: Account, password: str) -> Identity:
        """Return how one signs in, if that is the password. Raises `Refused`: credentials_refused, rate_limited, busy."""
        address, email = address_of(self._node, request), account.email or ""
        await self._guesses.check(address, email)
        identity = await identity_of(self._node.stores.pool, self._node.stores.sealer, account.id)
        stored = None if identity is None else identity.password_hash
        matches = await self._passwords.matches(stored, password[: LONGEST + 1])
        if identity is None or not matches:
            await self._guesses.wrong(address, email)
            raise Refused(ErrorCode.CREDENTIALS_REFUSED, "This is not your password.", path="$.password")
        return identity

    async def of_person(self, request: Request, caller: Caller, password: str | None) -> None:
        """Make sure that it is the person who asks: by their password, or by a sign-in of a moment ago, as those do who have none.

        Raises `Refused`: proof_required, credentials_refused, rate_limited, busy.
        """
        if password is None or caller.account.email is None:
            await only_fresh(self._node, caller)
        else:
            await self.of_password(request, caller.account, password)


class PasswordChanges:
    """The operations on passwords, of one node."""

    def __init__(self, node: Node, passwords: Passwords, proofs: Proofs) -> None:
        self._node = node
        self._passwords = passwords
        self._proofs = proofs

    async def forgot_password(self, _: Request, body: ForgotPassword) -> None:
        """Have a link for a new password mailed. The answer is the same for every address, and takes the same time."""
        await self.forgot(body.email)

    async def forgot(self, email: str) -> None:
        """Have a link mailed. Raises `Refused`: invalid, rate_limited."""
        email = normalised_email(email)
        await self._node.quotas.demand(LETTERS, mailbox(email))
        await ask_for_reset(self._node.stores.pool, self._node.stores.sealer, email)

    async def reset_password(self, _: Request, body: ResetPassword) -> None:
        """Set a new password with the link that was mailed, within an hour. All sessions of the account end."""
        await self.reset(body.token, body.password)

    async def reset(self, token: str, password: str) -> None:
        """Set a new password. Raises `Refused`: link_invalid, password_weak, email_taken, busy."""
        stores = self._node.stores
        user = UserId(await subject_of_link(stores.pool, Purpose.RESET, token))
        identity = await identity_of(stores.pool, stores.sealer, user)
        if identity is None:
            raise Refused(ErrorCode.LINK_INVALID)
        check_strength(password, *_personal(identity))
        new = await self._passwords.hash(password)
        await reset_password(stores.pool, stores.sealer, token, new)
        self._node.announcements.announce(Changed(users=[user]))

    async def change_password(self, request: Request, body: ChangePassword) -> None:
        """Change your password. All your other sessions end."""
        caller = await caller_of(self._node, request)
        identity = await self._proofs.of_password(request, caller.account, body.password)
        check_strength(body.new_password, *_personal(identity), path="$.new_password")
        new = await self._passwords.hash(body.new_password)
        user = caller.account.id
        await change_password(
            self._node.stores.pool, user, caller.session, old=identity.password_hash, new=new
        )
        self._node.announcements.announce(Changed(users=[user]))


def _personal(identity: Identity) -> tuple[str, str, str]:
    """What a password must not be."""
    return identity.email, identity.email.partition("@")[0], identity.account.name


def endpoints(passwords: PasswordChanges) -> list[Endpoint]:
    """List the operations on passwords."""
    return [
        Endpoint(
            method="POST",
            path="/auth/password/forgot",
            summary="I have forgotten my password",
            handle=passwords.forgot_password,
            limits=(ASKED_LETTERS,),
            body=ForgotPassword,
            example=ForgotPassword("ada@example.org"),
            status=202,
            refuses=(ErrorCode.UNAVAILABLE,),
            group="E-mail and password",
        ),
        Endpoint(
            method="POST",
            path="/auth/password/reset",
            summary="Set a new password with a mailed link",
            handle=passwords.reset_password,
            body=ResetPassword,
            example=ResetPassword("kD3yT9bQwEr5uZxA1sVfGhJmNpLc7oRiXt2YqUeKjWs", "lanterns over the lake"),
            status=204,
            refuses=(
                ErrorCode.LINK_INVALID,
                ErrorCode.PASSWORD_WEAK,
                ErrorCode.EMAIL_TAKEN,
                ErrorCode.BUSY,
                ErrorCode.UNAVAILABLE,
            ),
            group="E-mail and password",
        ),
        Endpoint(
            method="POST",
            path="/me/password",
            summary="Change your password",
            handle=passwords.change_password,
            limits=(SIGN_INS,),
            body=ChangePassword,
            example=ChangePassword("violets under a lamp", "lanterns over the lake"),
            status=204,
            signed_in=True,
            refuses=(*REFUSALS, ErrorCode.CREDENTIALS_REFUSED, ErrorCode.PASSWORD_WEAK, ErrorCode.BUSY),
            group="E-mail and password",
        ),
    ]
