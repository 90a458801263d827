"""The letters that are sent, by whom they are for. Each is a durable job: prepared, composed and handed over, again if need be.

A letter is prepared at the last moment, so that it goes to the address that counts then, with a link that was made for it
alone. One that may not go out yet (`server.postage`) waits. A mail server that is away for a day loses none; one that refuses a mail
for good is believed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

from protocol.envelope import UserId
from server.gateways.mail import Undeliverable, Unsent
from server.jobs import DAY, GiveUp, TryAgain, performs
from server.mail import compose
from storage import emails, identities, links, passwords, waitlist
from storage.emails import AddressAdded, Addressee, ChangeAsked, ChangeMade, TakenBack, Welcome
from storage.identities import Linked
from storage.jobs import Job, Periodic
from storage.passwords import Forgotten, PasswordSet
from storage.waitlist import Invited, Waiting

if TYPE_CHECKING:
    from server.node import Node

_KEPT: Final = 9 * DAY
"""A link that is good for seven days may be mailed a day or two late."""
_PATIENCE: Final[dict[str, Any]] = {"attempts": 40, "backoff": 10.0}
"""More than a day."""

JobT = TypeVar("JobT", bound=Job)
Write = Callable[["Node", JobT], Awaitable[None]]


def writes(job: type[JobT]) -> Callable[[Write[JobT]], Write[JobT]]:
    """Register the decorated function as what writes the letter of a job, once one may go out."""

    def register(write: Write[JobT]) -> Write[JobT]:
        @wraps(write)
        async def perform(node: Node, job: JobT) -> None:
            await node.postage.open()
            await write(node, job)

        return performs(job, **_PATIENCE)(perform)

    return register


@writes(Welcome)
async def welcome(node: Node, job: Welcome) -> None:
    """Have a new account's address proven; or tell its owner that somebody claims it."""
    to = await emails.welcome(node.stores.pool, node.stores.sealer, UserId(job.user))
    if to is None:
        return
    if to.taken:
        await _send(node, "taken", to, "forgot", asked=True)
    else:
        await _send(node, "verify", to, "verify", asked=True)


@writes(Forgotten)
async def forgotten(node: Node, job: Forgotten) -> None:
    """Send a link for a new password; or word that there is no account."""
    to = await passwords.forgotten(node.stores.pool, node.stores.sealer, job)
    await _send(node, "reset" if to.token else "stranger", to, "reset" if to.token else None, asked=True)


@writes(TakenBack)
async def taken_back(node: Node, job: TakenBack) -> None:
    """Send a link for a new password to whoever took their address back."""
    to = await passwords.reset_link(node.stores.pool, node.stores.sealer, UserId(job.user))
    if to is not None:
        await _send(node, "reset", to, "reset")


@writes(PasswordSet)
async def password_set(node: Node, job: PasswordSet) -> None:
    """Tell somebody that they have another password."""
    to = await passwords.addressee(node.stores.pool, node.stores.sealer, UserId(job.user))
    if to is not None:
        await _send(node, "password", to, "forgot")


@writes(ChangeAsked)
async def change_asked(node: Node, job: ChangeAsked) -> None:
    """Have a new address proven; or tell its owner that somebody wants it."""
    to = await emails.change_asked(node.stores.pool, node.stores.sealer, job.change)
    if to is None:
        return
    if to.taken:
        await _send(node, "change_taken", to, None, asked=True)
    else:
        await _send(node, "add" if to.first else "change", to, "email", asked=True)


@writes(ChangeMade)
async def change_made(node: Node, job: ChangeMade) -> None:
    """Tell the old address that there is another one, and how to take it back."""
    to = await emails.change_made(node.stores.pool, node.stores.sealer, job.change)
    if to is not None:
        await _send(node, "changed", to, "undo")


@writes(AddressAdded)
async def address_added(node: Node, job: AddressAdded) -> None:
    """Tell somebody, where their provider knows them, that one signs in to their account with a password, too."""
    email = await identities.address_of_provider(node.stores.pool, node.stores.sealer, UserId(job.user))
    if email is not None:
        await _send(node, "added", Addressee(email), "")


@writes(Linked)
async def linked(node: Node, job: Linked) -> None:
    """Tell somebody that a provider lets them in, too."""
    to = await passwords.addressee(node.stores.pool, node.stores.sealer, UserId(job.user))
    if to is not None:
        await _send(node, "linked", to, "")


@writes(Waiting)
async def waiting(node: Node, job: Waiting) -> None:
    """Have a place on the waitlist confirmed; whoever is invited already is invited again."""
    await _to_entry(node, job.entry, asked=True)


@writes(Invited)
async def invited(node: Node, job: Invited) -> None:
    """Invite somebody."""
    await _to_entry(node, job.entry, asked=False)


async def _to_entry(node: Node, entry: UUID, *, asked: bool) -> None:
    to = await waitlist.waiter(node.stores.pool, node.stores.sealer, entry)
    if to is not None:
        letter = "invitation" if to.invited else "waitlist"
        await _send(node, letter, Addressee(to.email, to.token), letter, asked=asked)


async def _send(node: Node, letter: str, to: Addressee, page: str | None, *, asked: bool = False) -> None:
    """Send a letter with a link to one of our pages, or, where `page` is empty, to the first of them.

    What anybody can have sent is `asked`: a mailbox gets so much of that, and the rest later. Raises `NotYet`, `GiveUp`, `TryAgain`.
    """
    if asked:
        await node.postage.open_to(to.email)
    home = node.settings.home
    token = f"#{to.token}" if to.token else ""
    link = None if page is None else f"{home}/account/{page}{token}" if page else f"{home}/"
    try:
        await node.mailer.send(compose(letter, to.email, home=home, link=link))
    except Undeliverable as refused:
        node.postage.outcomes["undeliverable"] += 1
        raise GiveUp(refused.reason) from None
    except Unsent as refused:
        node.postage.outcomes["unsent"] += 1
        raise TryAgain(refused.reason) from None
    await node.postage.sent(to.email, asked=asked)


class ForgetLinks(Periodic, tag="letters.forget"):
    """Deletes links, changes of address and places on the waitlist whose time is over."""


@performs(ForgetLinks, every=DAY, at=3 * 3600)
async def forget(node: Node, job: ForgetLinks) -> None:  # noqa: ARG001 - whichever night it is
    """Delete what nobody can open, take back or confirm any more."""
    pool = node.stores.pool
    await links.forget_links(pool)
    await emails.forget_changes(pool, _KEPT)
    await waitlist.forget_entries(pool, _KEPT)
