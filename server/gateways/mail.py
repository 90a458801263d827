"""Mail to people: through any SMTP server, or, where there is none, into a folder, with its link in the log.

A mail is sent by a durable job, never by a request: a server that hangs delays nobody, and one that is away loses nothing.
What can go wrong is one of two things. `Undeliverable` is about this mail: the server will never take it for this address. With
`Unsent` the next attempt may work; a refused password is one of those, because it is for the operator to mend, and the mail
waits meanwhile. Neither says to whom: reasons are logged and kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import time
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import formatdate, make_msgid, parseaddr
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import unquote, urlsplit

import aiosmtplib
from msgspec import Struct

from server.settings import Settings

_LOGGER = logging.getLogger("looprooms.mail")

STEP_SECONDS: Final = 15.0
"""How long the server may take for one answer."""
GOODBYE_SECONDS: Final = 2.0
MOST_FILES: Final = 1000
"""Mails that are kept in the folder; older ones make room."""
_LOCAL: Final = re.compile(r"[^\s\x00-\x1f\x7f@\"(),:;<>\[\\\]]+")
_HOST: Final = re.compile(r"[A-Za-z0-9.-]+")
_PORTS: Final = {"smtp": 587, "smtps": 465, "smtp+plain": 25}


class Mail(Struct, frozen=True):
    """What somebody is sent. `link` is the one thing to click in it, if there is one."""

    to: str
    subject: str
    text: str
    html: str
    link: str | None = None


class Undeliverable(Exception):  # noqa: N818 - it says what the mail is
    """A mail that will never be taken for this address. `reason` holds nothing personal."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Unsent(Exception):  # noqa: N818 - see Undeliverable
    """The mail could not be sent now. `reason` holds nothing personal."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Mailer(Protocol):
    """What sends mails."""

    async def send(self, mail: Mail) -> None:
        """Hand `mail` over for good. Raises `Undeliverable` and `Unsent`."""


def open_mailer(settings: Settings) -> Mailer:
    """Return what sends mails by these settings."""
    if settings.smtp_url:
        return SmtpMailer(settings.smtp_url, settings.mail_from)
    return FolderMailer(FolderMailer.place(settings.data_dir), settings.mail_from)


class SmtpMailer:
    """Sends through the server at `url`, each mail over a connection of its own.

    With ``smtp://`` the server must offer STARTTLS: a password or a link never goes out in the clear because somebody in
    between took the offer away.
    """

    def __init__(self, url: str, sender: str) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname
        self._port = parts.port or _PORTS[parts.scheme]
        self._username = unquote(parts.username) if parts.username else None
        self._password = unquote(parts.password) if parts.password else None
        self._tls = parts.scheme == "smtps"
        self._start_tls = parts.scheme == "smtp"
        self._sender = sender

    async def send(self, mail: Mail) -> None:
        """Hand `mail` over to the server. Raises `Undeliverable` and `Unsent`."""
        message = written(mail, self._sender)
        client = aiosmtplib.SMTP(
            hostname=self._host,
            port=self._port,
            username=self._username,
            password=self._password,
            use_tls=self._tls,
            start_tls=self._start_tls,
            timeout=STEP_SECONDS,
        )
        try:
            await client.connect()
            await client.send_message(
                message, sender=parseaddr(self._sender)[1], recipients=[_on_the_wire(mail.to)]
            )
            with contextlib.suppress(aiosmtplib.SMTPException, OSError):  # it has the mail already
                await client.quit(timeout=GOODBYE_SECONDS)
        except aiosmtplib.SMTPRecipientsRefused as refused:
            raise _judged(refused.recipients[0].code, "the recipient was refused") from None
        except aiosmtplib.SMTPDataError as refused:
            raise _judged(refused.code, "the mail was refused") from None
        except aiosmtplib.SMTPNotSupported:
            raise Undeliverable("the mail server does not take such an address") from None
        except aiosmtplib.SMTPResponseException as refused:
            raise Unsent(f"the mail server refused us ({refused.code})") from None
        except (aiosmtplib.SMTPException, OSError) as error:
            raise Unsent(f"the mail server did not take it ({type(error).__name__})") from None
        finally:
            client.close()


class FolderMailer:
    """Writes each mail into a file that a mail program opens, and its link into the log."""

    def __init__(self, folder: Path, sender: str) -> None:
        self._folder = folder
        self._sender = sender

    @staticmethod
    def place(data_dir: str) -> Path:
        """Return the folder, in the data folder."""
        return Path(data_dir) / "mail"

    async def send(self, mail: Mail) -> None:
        """Write `mail`. Raises `Unsent` when the folder can't be written."""
        try:
            message = written(mail, self._sender).as_bytes(policy=SMTPUTF8)
            path = await asyncio.to_thread(self._keep, message)
        except OSError as error:
            raise Unsent(f"the mail could not be written ({type(error).__name__})") from None
        _LOGGER.info(
            "mail (not sent: no mail server is set): %s %s -> %s", mail.subject, mail.link or "", path
        )

    def _keep(self, message: bytes) -> Path:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}.eml"
        growing = path.with_suffix(".new")
        with os.fdopen(os.open(growing, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(message)
        growing.replace(path)
        for old in sorted(self._folder.glob("*.eml"))[:-MOST_FILES]:
            old.unlink(missing_ok=True)
        return path


def written(mail: Mail, sender: str) -> EmailMessage:
    """Return the message as it goes out: plain text and HTML. Raises `Undeliverable` when the address can't be written.

    No line break gets into a header: an address has none, and in the others the library refuses it.
    """
    name, address = parseaddr(sender)
    message = EmailMessage(SMTP)
    recipient, _, host = _on_the_wire(mail.to).rpartition("@")
    message["To"] = Address(username=recipient, domain=host)
    message["From"] = Address(name, addr_spec=address)
    message["Subject"] = mail.subject
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain=address.rpartition("@")[2])
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(mail.text)
    message.add_alternative(mail.html, subtype="html")
    return message


def _on_the_wire(address: str) -> str:
    """Return an address with the name of its host as mail servers know it. Raises `Undeliverable` when it is no address."""
    local, _, domain = address.rpartition("@")
    try:
        host = domain.encode("idna").decode("ascii")
    except UnicodeError:
        host = ""
    if not _LOCAL.fullmatch(local) or not _HOST.fullmatch(host):
        raise Undeliverable("the address can't be written")
    return f"{local}@{host}"


def _judged(code: int, reason: str) -> Undeliverable | Unsent:
    """Tell a refusal for good (5xx) from one for now."""
    kind = Undeliverable if code >= 500 else Unsent
    return kind(f"{reason} ({code})")
