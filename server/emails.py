"""E-mail addresses: what is one, and in which spelling it is found, or counted."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Final

from msgspec import Meta

from protocol.refusals import ErrorCode, Refused

LONGEST_EMAIL: Final = 254

_LOCAL = re.compile(r"[^\s@\"(),:;<>\[\\\]]{1,64}")
_DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.)+[^\W_](?:[\w-]{0,61}[^\W_])")

Email = Annotated[
    str,
    Meta(
        min_length=3,
        max_length=1000,
        description="An e-mail address. Upper and lower case are the same.",
        extra_json_schema={"format": "email", "maxLength": LONGEST_EMAIL},
    ),
]


def normalised_email(text: str) -> str:
    """Return the one spelling of an address under which its account is found. Raises `Refused` (invalid)."""
    email = unicodedata.normalize("NFKC", text.strip()).lower()
    local, _, domain = email.rpartition("@")
    if (
        len(email) > LONGEST_EMAIL
        or not email.isprintable()
        or not _LOCAL.fullmatch(local)
        or not _DOMAIN.fullmatch(domain)
        or ".." in f".{local}."
    ):
        raise Refused(ErrorCode.INVALID, "This is no e-mail address.", path="$.email")
    return email


def mailbox(email: str) -> str:
    """Return one spelling for all that may reach one mailbox: case, dots, what follows a plus, the two names of Gmail and of a host.

    Accounts are told apart more finely (to some providers dots and tags are other people), but that a stranger's mailbox is
    counted together with its neighbour's costs nobody anything, and that one mailbox has a thousand spellings would.
    """
    local, _, domain = unicodedata.normalize("NFKC", email.strip()).casefold().rpartition("@")
    domain = _as_mailed(domain.rstrip("."))
    domain = "gmail.com" if domain == "googlemail.com" else domain
    return f"{local.partition('+')[0].replace('.', '')}@{domain}"


def _as_mailed(domain: str) -> str:
    """Return the name of a host as mail servers know it, whichever way it is written."""
    try:
        return domain.encode("idna").decode("ascii").lower()
    except UnicodeError:
        return domain
