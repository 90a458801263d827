"""The pages that the links of letters lead to: one form each, which does what the letter said when its button is pressed.

Opening a page does nothing, so that whatever looks at a link on the way of a mail uses nothing up. What counts of a link stands
after the ``#``, which a browser sends to nobody: it is in no log and in no Referer. The page's script puts it into the form, and a person
without scripts can. The pages send their own origin along (``same-origin``): with ``no-referrer`` a browser would call
the origin of a form ``null``, which the guard refuses.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import parse_qsl

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from protocol.refusals import ErrorCode, Refused
from server.http.auth import ASKED_LETTERS, Accounts
from server.http.emails import Emails
from server.http.endpoint import FORM, Endpoint, Parameter, read_body
from server.http.passwords import PasswordChanges
from server.http.waitlist import Waitlist

PAGES: Final = ("verify", "forgot", "reset", "email", "undo", "waitlist", "invitation")
_MOST_FIELDS: Final = 10
STYLE: Final = Path(__file__).with_name("account.css")
SCRIPT: Final = Path(__file__).with_name("account.js")
_HEADERS: Final = {
    "cache-control": "no-store",
    "content-type": "text/html; charset=utf-8",
    "referrer-policy": "same-origin",
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
}
_TEMPLATE: Final = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    undefined=StrictUndefined,
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
).get_template("account.html")

Fields = Mapping[str, str]


class PageForm(Struct):
    """What is filled in on a page. Each page has some of these fields, and takes no notice of others."""

    token: Annotated[str, Meta(description="What stands after the `#` of the link in the mail.")] = ""
    email: Annotated[str, Meta(description="Of `forgot`: the address of the account.")] = ""
    name: Annotated[str, Meta(description="Of `invitation`: what others see; at most 80 characters.")] = ""
    password: Annotated[
        str, Meta(description="Of `reset` and `invitation`: 8 to 1,024 characters, none of the common ones.")
    ] = ""


class _Page(Struct, frozen=True):
    """One page: what it says, what one fills in, what the button says and does, and what is true then."""

    title: str
    words: str
    fields: tuple[str, ...]
    button: str
    act: Callable[[Fields], Awaitable[None]]
    done: str


class AccountPages:
    """The pages of one node."""

    def __init__(
        self, accounts: Accounts, emails: Emails, passwords: PasswordChanges, waitlist: Waitlist
    ) -> None:
        self._pages = {
            "verify": _Page(
                "Confirm your e-mail address",
                "One press, and the address is yours.",
                ("token",),
                "Confirm the address",
                lambda fields: emails.verify(fields["token"]),
                "The address is confirmed. You can close this page.",
            ),
            "forgot": _Page(
                "Forgotten your password?",
                "Say your e-mail address, and you get a link for a new one.",
                ("email",),
                "Send the link",
                lambda fields: passwords.forgot(fields["email"]),
                "Look into your mail: if there is an account with this address, there is a link for a new password.",
            ),
            "reset": _Page(
                "Choose a new password",
                "At least 8 characters, and none of the common ones. You are signed out everywhere, and sign in with the new one.",
                ("token", "password"),
                "Set the password",
                lambda fields: passwords.reset(fields["token"], fields["password"]),
                "You have a new password. Sign in with it.",
            ),
            "email": _Page(
                "Confirm your new e-mail address",
                "From then on you sign in with this address.",
                ("token",),
                "Use this address",
                lambda fields: emails.confirm(fields["token"]),
                "The address is yours now. If there was another one before, it was told.",
            ),
            "undo": _Page(
                "Take the change back",
                "Your account gets this address back, everybody is signed out, and you get a link for a new password.",
                ("token",),
                "Take it back",
                lambda fields: emails.undo(fields["token"]),
                "Your account has this address again. Look into your mail for the link for a new password.",
            ),
            "waitlist": _Page(
                "Confirm your place",
                "One press, and you hear from us as soon as there is a place.",
                ("token",),
                "Confirm my place",
                lambda fields: waitlist.confirm(fields["token"]),
                "Your place is confirmed. You can close this page.",
            ),
            "invitation": _Page(
                "Come in",
                "Choose what others call you, and a password of at least 8 characters that is none of the common ones.",
                ("token", "name", "password"),
                "Make my account",
                accounts.accept,
                "Your account is made. Sign in with your e-mail address and your password.",
            ),
        }

    async def account_page(self, request: Request) -> Response:
        """Return a page with a form. It changes nothing."""
        return _shown(self._page(request), {})

    async def account_form(self, request: Request) -> Response:
        """Do what the button of a page says, with what was filled in. What is wrong with that is said on the page.

        An app that opens the links itself has `POST /auth/email/verify` and its like for the same.
        """
        page = self._page(request)
        fields = _filled_in(page, await read_body(request, FORM))
        try:
            await page.act(fields)
        except Refused as refused:
            return _shown(page, fields, refused)
        return _shown(page, fields, done=True)

    def _page(self, request: Request) -> _Page:
        page = self._pages.get(request.path_params["page"])
        if page is None:
            raise Refused(ErrorCode.NOT_FOUND)
        return page


def _filled_in(page: _Page, body: bytes) -> Fields:
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS
        )
    except ValueError:  # UnicodeError is one
        raise Refused(ErrorCode.MALFORMED, "Send the fields of the form.") from None
    given = dict(pairs)
    return {
        name: given.get(name, "") if name == "password" else given.get(name, "").strip()
        for name in page.fields
    }


def _shown(page: _Page, fields: Fields, refused: Refused | None = None, *, done: bool = False) -> Response:
    status = 200 if refused is None else refused.code.status
    kept = {name: value for name, value in fields.items() if name != "password"}
    html = _TEMPLATE.render(
        page=page, values=kept, problem=None if refused is None else refused.message, done=done
    )
    headers = dict(_HEADERS)
    if refused is not None and refused.retry_after is not None:
        headers["retry-after"] = str(int(refused.retry_after) + 1)
    return Response(html, status, headers)


def endpoints(pages: AccountPages) -> list[Endpoint]:
    """List the two ways to use a page."""
    which = (
        Parameter(
            "page",
            "path",
            "What it is for: proving an address, a forgotten password, a new one, a new address, taking that back, a place on "
            "the waitlist, an invitation.",
            choices=PAGES,
        ),
    )
    return [
        Endpoint(
            method="GET",
            path="/account/{page}",
            summary="Where the links of letters lead",
            handle=pages.account_page,
            parameters=which,
            media_type="text/html",
            refuses=(ErrorCode.NOT_FOUND,),
            group="Pages",
        ),
        Endpoint(
            method="POST",
            path="/account/{page}",
            summary="Press the button of such a page",
            handle=pages.account_form,
            limits=(ASKED_LETTERS,),
            parameters=which,
            body=PageForm,
            reads=FORM,
            media_type="text/html",
            refuses=(
                ErrorCode.NOT_FOUND,
                ErrorCode.MALFORMED,
                ErrorCode.MEDIA_TYPE_REFUSED,
                ErrorCode.TOO_LARGE,
                ErrorCode.TOO_SLOW,
            ),
            shows=(
                ErrorCode.LINK_INVALID,
                ErrorCode.EMAIL_TAKEN,
                ErrorCode.INVALID,
                ErrorCode.TEXT_EMPTY,
                ErrorCode.PASSWORD_WEAK,
                ErrorCode.RATE_LIMITED,
                ErrorCode.BUSY,
                ErrorCode.UNAVAILABLE,
            ),
            group="Pages",
        ),
    ]
