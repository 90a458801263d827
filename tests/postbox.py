"""A real mail server for tests: it keeps what it gets, and can refuse, be slow, hang, and be away."""

from __future__ import annotations

import asyncio
import email
import re
import ssl
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from email.policy import SMTPUTF8

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.waiting import until

USER, PASSWORD = b"rooms@example.org", b"p@ss:word/ 1"


class Postbox:
    """What arrived, and how the server behaves: `refusals` are codes by the SMTP command that they answer."""

    def __init__(self) -> None:
        self.port = 0
        self.mails: list[EmailMessage] = []
        self.envelopes: list[Envelope] = []
        self.refusals: dict[str, str] = {}
        self.hanging = asyncio.Event()
        """Cleared: the server answers nothing after DATA."""
        self.hanging.set()
        self.encrypted: list[bool] = []
        self.attempts = 0
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """How to reach it without TLS."""
        return f"smtp+plain://127.0.0.1:{self.port}"

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Take a recipient or not."""
        self.attempts += 1
        if "RCPT" in self.refusals:
            return self.refusals["RCPT"]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_MAIL(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Take a sender or not."""
        if "MAIL" in self.refusals:
            return self.refusals["MAIL"]
        envelope.mail_from = address
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Take a mail or not, now or later."""
        await self.hanging.wait()
        if "DATA" in self.refusals:
            return self.refusals["DATA"]
        content = envelope.original_content
        assert content is not None
        self.mails.append(email.message_from_bytes(content, policy=SMTPUTF8))
        self.envelopes.append(envelope)
        assert server.transport is not None
        self.encrypted.append(server.transport.get_extra_info("sslcontext") is not None)
        return "250 OK"

    def authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, given: LoginPassword
    ) -> AuthResult:
        """Know one user."""
        known = (given.login, given.password) == (USER, PASSWORD)
        return AuthResult(success=known, handled=known)

    def of(self, address: str) -> list[EmailMessage]:
        """Return what somebody got, the first first."""
        return [mail for mail in self.mails if mail["To"] == address]

    async def next(self, address: str, nth: int = 1) -> EmailMessage:
        """Wait for the nth mail that somebody gets."""
        await until(lambda: len(self.of(address)) >= nth, within=10)
        return self.of(address)[nth - 1]

    async def open(self, tls: ssl.SSLContext | None = None, *, implicit: bool = False) -> None:
        """Listen: on the same port as before, if there was one."""
        loop = asyncio.get_running_loop()

        def protocol() -> SMTP:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that TLS is not required, where it was there from the start
                return SMTP(
                    self,
                    loop=loop,
                    enable_SMTPUTF8=True,
                    hostname="localhost",
                    tls_context=None if implicit else tls,
                    require_starttls=tls is not None and not implicit,
                    authenticator=self.authenticate if tls is not None else None,
                    auth_require_tls=not implicit,
                    auth_required=tls is not None,
                )

        self._server = await loop.create_server(
            protocol, "127.0.0.1", self.port, ssl=tls if implicit else None
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Be away."""
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()


@asynccontextmanager
async def postbox() -> AsyncIterator[Postbox]:
    """Run a mail server without TLS."""
    box = Postbox()
    await box.open()
    try:
        yield box
    finally:
        box.hanging.set()
        await box.close()


def link_in(mail: EmailMessage) -> str:
    """Return what is to be clicked in a mail; its two parts say the same."""
    plain, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert plain is not None
    assert html is not None
    found = re.search(r"^http\S+#\S+", plain.get_content(), re.MULTILINE)
    assert found is not None, plain.get_content()
    assert f'href="{found[0]}"' in html.get_content()
    return found[0]
