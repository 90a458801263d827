"""Mail through a real SMTP server, or into a folder; what goes wrong is for good or for now, and says nothing of anybody."""

from __future__ import annotations

import asyncio
import email
import logging
import stat
from collections.abc import AsyncIterator
from email.message import EmailMessage
from email.policy import SMTPUTF8
from pathlib import Path
from urllib.parse import quote

import pytest

from server.gateways.mail import FolderMailer, Mail, SmtpMailer, Undeliverable, Unsent, open_mailer, written
from server.settings import Settings
from tests.postbox import PASSWORD, USER, Postbox, postbox
from tests.redis.valkeys import certificate

SENDER = "VYBE LOOPROOMS <rooms@example.org>"
MAIL = Mail(
    to="ada@example.org",
    subject="Hello",
    text="Plain words\n",
    html="<p>Rich words</p>\n",
    link="http://h/x#y",
)


@pytest.fixture
async def box() -> AsyncIterator[Postbox]:
    """Run a mail server."""
    async with postbox() as running:
        yield running


def words(mail: EmailMessage, kind: str) -> str:
    """Return one part of a mail."""
    part = mail.get_body((kind,))
    assert part is not None
    return str(part.get_content())


def names(folder: Path) -> set[str]:
    """Return what is in a folder."""
    return {file.name for file in folder.iterdir()}


async def test_a_mail_arrives(box: Postbox) -> None:
    """It arrives once, with both parts, from and to whom it should, marked as written by a machine."""
    await SmtpMailer(box.url, SENDER).send(MAIL)
    (mail,) = box.mails
    assert (mail["From"], mail["To"], mail["Subject"]) == (SENDER, "ada@example.org", "Hello")
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Message-ID"].endswith("@example.org>")
    assert mail["Date"]
    assert mail.get_content_type() == "multipart/alternative"
    assert words(mail, "plain").split() == ["Plain", "words"]
    assert words(mail, "html").strip() == "<p>Rich words</p>"
    (envelope,) = box.envelopes
    assert (envelope.mail_from, envelope.rcpt_tos) == ("rooms@example.org", ["ada@example.org"])


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
async def test_tls_and_a_password(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """STARTTLS or TLS, with user and password as any provider asks for them; their special characters are quoted in the URL."""
    caplog.set_level(logging.CRITICAL)
    context, authority = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    box = Postbox()
    await box.open(context, implicit=scheme == "smtps")
    try:
        user, password = quote(USER.decode(), safe=""), quote(PASSWORD.decode(), safe="")
        await SmtpMailer(f"{scheme}://{user}:{password}@127.0.0.1:{box.port}", SENDER).send(MAIL)
        assert box.encrypted == [True]
        with pytest.raises(Unsent, match="refused us"):
            await SmtpMailer(f"{scheme}://{user}:wrong@127.0.0.1:{box.port}", SENDER).send(MAIL)
    finally:
        await box.close()


async def test_without_the_tls_that_was_asked_for(box: Postbox) -> None:
    """A server that does not offer STARTTLS is told nothing: somebody in between may have taken the offer away."""
    for user in ("", "u:p@"):
        with pytest.raises(Unsent):
            await SmtpMailer(f"smtp://{user}127.0.0.1:{box.port}", SENDER).send(MAIL)
    assert box.attempts == 0


async def test_a_certificate_that_is_not_trusted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever only claims to be the server is told nothing."""
    caplog.set_level(logging.CRITICAL)
    context, _ = certificate(tmp_path)
    box = Postbox()
    await box.open(context)
    try:
        with pytest.raises(Unsent):
            await SmtpMailer(f"smtp://127.0.0.1:{box.port}", SENDER).send(MAIL)
        assert box.attempts == 0
    finally:
        await box.close()


@pytest.mark.parametrize(
    ("command", "answer", "kind"),
    [
        ("RCPT", "550 no such user ada@example.org", Undeliverable),
        ("RCPT", "451 try again, ada@example.org", Unsent),
        ("DATA", "554 looks like spam to ada@example.org", Undeliverable),
        ("DATA", "452 full, ada@example.org", Unsent),
        ("MAIL", "553 we do not know rooms@example.org", Unsent),
    ],
)
async def test_refused(box: Postbox, command: str, answer: str, kind: type[Exception]) -> None:
    """5xx about the recipient or the mail is for good, everything else for now; the reason names nobody."""
    box.refusals[command] = answer
    with pytest.raises(kind) as refused:
        await SmtpMailer(box.url, SENDER).send(MAIL)
    assert answer[:3] in str(refused.value)
    assert "example.org" not in str(refused.value)
    assert refused.value.__cause__ is None


async def test_away(box: Postbox) -> None:
    """A server that is not there may be there later."""
    await box.close()
    with pytest.raises(Unsent):
        await SmtpMailer(box.url, SENDER).send(MAIL)
    await box.open()


async def test_hanging(box: Postbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not answer is given up after its time."""
    monkeypatch.setattr("server.gateways.mail.STEP_SECONDS", 0.2)
    box.hanging.clear()
    with pytest.raises(Unsent):
        await SmtpMailer(box.url, SENDER).send(MAIL)


@pytest.mark.parametrize(
    "address",
    [
        "ada@example.org\r\nBcc: eve@example.org",
        "ada@example.org\nX: y",
        "ada@example.org, eve@example.org",
        "ada@example.org>\r\nRCPT TO:<eve@example.org",
        "",
        "ada",
        "@",
        f"ada@{'x' * 64}.org",
    ],
)
async def test_an_address_that_is_none(box: Postbox, address: str) -> None:
    """An address can't bring along a header, a command or a second recipient: the mail is not sent at all."""
    with pytest.raises(Undeliverable):
        await SmtpMailer(box.url, SENDER).send(Mail(address, "s", "t", "h"))
    assert box.attempts == 0


def test_a_subject_with_a_line_break() -> None:
    """No header can begin inside another one."""
    with pytest.raises(ValueError, match="linefeed"):
        written(Mail("ada@example.org", "Hello\r\nBcc: eve@example.org", "t", "h"), SENDER)


async def test_addresses_of_all_scripts(box: Postbox) -> None:
    """A host of any script goes out as mail servers know it; a name before the @ as it is."""
    await SmtpMailer(box.url, SENDER).send(Mail("jörg@exämple.org", "s", "t", "h"))
    assert box.envelopes[0].rcpt_tos == ["jörg@xn--exmple-cua.org"]


async def test_into_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without a server each mail is a file that only its owner reads, and the log says where to click, not who was meant."""
    caplog.set_level(logging.INFO)
    mailer = FolderMailer(tmp_path / "deep" / "mail", SENDER)
    await asyncio.gather(*(mailer.send(MAIL) for _ in range(10)))
    files = list((tmp_path / "deep" / "mail").iterdir())
    assert len(files) == 10
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    mail = email.message_from_bytes(files[0].read_bytes(), policy=SMTPUTF8)
    assert (mail["To"], mail["Subject"]) == ("ada@example.org", "Hello")
    assert "http://h/x#y" in caplog.text
    assert files[0].name in caplog.text
    assert "ada@example.org" not in caplog.text


async def test_the_folder_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest mails are kept."""
    monkeypatch.setattr("server.gateways.mail.MOST_FILES", 3)
    mailer = FolderMailer(tmp_path, SENDER)
    old = tmp_path / "20200101-000000-00000000.eml"
    old.write_bytes(b"")
    for _ in range(3):
        await mailer.send(MAIL)
    assert len(names(tmp_path)) == 3
    assert old.name not in names(tmp_path)


async def test_a_folder_that_can_not_be(tmp_path: Path) -> None:
    """What can't be written now may be written later."""
    (tmp_path / "mail").write_text("a file")
    with pytest.raises(Unsent):
        await FolderMailer(tmp_path / "mail", SENDER).send(MAIL)


def test_which_one(tmp_path: Path) -> None:
    """A server if one is set, else the folder."""
    assert isinstance(open_mailer(Settings(data_dir=str(tmp_path))), FolderMailer)
    assert isinstance(open_mailer(Settings(smtp_url="smtp://h")), SmtpMailer)
