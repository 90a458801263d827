"""A stand-in for Firebase Cloud Messaging on loopback: it checks what the real one checks, and shows pushes on the screens of devices."""

from __future__ import annotations

import asyncio
import re
import secrets
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import jwt
import msgspec
import uvicorn
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from msgspec import Struct
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.http.provider import rsa_key

PROJECT = "looprooms-test"
SENDER = f"push@{PROJECT}.iam.gserviceaccount.com"
KEY_ID = "key-of-the-account"
LONGEST_TTL = 4 * 7 * 86400
RESERVED = {"from", "notification", "message_type"}
"""Names that data must not have."""


class Shown(Struct, forbid_unknown_fields=True):
    """What a device shows."""

    title: str
    body: str = ""


class AndroidTag(Struct, forbid_unknown_fields=True):
    """By what it takes the place of an earlier one."""

    tag: str


class Android(Struct, forbid_unknown_fields=True):
    """How it is pushed to Android."""

    priority: str
    ttl: str
    notification: AndroidTag


class Apns(Struct, forbid_unknown_fields=True):
    """How it is pushed to Apple's devices."""

    headers: dict[str, str]


class Web(Struct, forbid_unknown_fields=True):
    """How it is pushed to browsers."""

    headers: dict[str, str]
    notification: AndroidTag


class Sent(Struct, forbid_unknown_fields=True):
    """A message, as FCM takes it: what it does not know it refuses."""

    token: str
    notification: Shown
    data: dict[str, str]
    android: Android
    apns: Apns
    webpush: Web


class Body(Struct, forbid_unknown_fields=True):
    """What is posted."""

    message: Sent


@dataclass
class Phone:
    """A device whose app is closed. `screen` is what it shows, by tag; `alerts` are all that came, in order, and when."""

    token: str
    screen: dict[str, Sent] = field(default_factory=dict)
    alerts: list[tuple[Sent, float]] = field(default_factory=list)

    def show(self, message: Sent) -> None:
        """Show a message, in the place of one with the same tag."""
        self.alerts.append((message, time.monotonic()))
        self.screen[message.android.notification.tag] = message


@dataclass
class StandInFcm:
    """FCM. What a test changes: which devices there are, and how it misbehaves."""

    url: str = ""
    phones: dict[str, Phone] = field(default_factory=dict)
    answering: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared, it takes a message and says nothing."""
    status: int = 200
    """What it answers instead of taking a message."""
    error: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    token_status: int = 200
    token_seconds: int = 3599
    bearers: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What the real one would have refused."""

    @property
    def account(self) -> str:
        """The JSON of the key that it gave us."""
        key: RSAPrivateKey = rsa_key(1)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        return msgspec.json.encode(
            {
                "type": "service_account",
                "project_id": PROJECT,
                "private_key_id": KEY_ID,
                "private_key": pem,
                "client_email": SENDER,
                "client_id": "1",
                "token_uri": "https://oauth2.googleapis.com/token",
            }
        ).decode()

    def phone(self) -> Phone:
        """Make a device that is known here."""
        phone = Phone(f"phone:{secrets.token_urlsafe(24)}")
        self.phones[phone.token] = phone
        return phone

    def uninstall(self, phone: Phone) -> None:
        """Let its token be known no more."""
        del self.phones[phone.token]

    def routes(self) -> list[Route]:
        """List what it answers."""
        return [
            Route("/token", self.token, methods=["POST"]),
            Route("/v1/projects/{project}/messages:send", self.send, methods=["POST"]),
        ]

    async def token(self, request: Request) -> Response:
        """Trade in an assertion."""
        self.asked.append("token")
        form = dict(parse_qsl((await request.body()).decode()))
        if self.token_status != 200:
            return JSONResponse({"error": "invalid_grant"}, self.token_status)
        if (wrong := self._wrong_assertion(form)) is not None:
            self.wrong.append(wrong)
            return JSONResponse({"error": "invalid_grant", "error_description": wrong}, 400)
        bearer = secrets.token_urlsafe(24)
        self.bearers.add(bearer)
        return JSONResponse(
            {"access_token": bearer, "expires_in": self.token_seconds, "token_type": "Bearer"}
        )

    def _wrong_assertion(self, form: dict[str, str]) -> str | None:
        if form.get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer":
            return "grant_type"
        assertion = form.get("assertion", "")
        try:
            claims = jwt.decode(
                assertion,
                rsa_key(1).public_key(),
                algorithms=["RS256"],
                audience=f"{self.url}/token",
                issuer=SENDER,
                options={"require": ["iss", "iat", "exp", "aud"]},
            )
        except jwt.PyJWTError as error:
            return str(error)
        if jwt.get_unverified_header(assertion).get("kid") != KEY_ID:
            return "kid"
        if claims.get("scope") != "https://www.googleapis.com/auth/firebase.messaging":
            return "scope"
        return None if 0 < claims["exp"] - claims["iat"] <= 3600 else "exp"

    async def send(self, request: Request) -> Response:
        """Take a message, and push it."""
        self.asked.append("send")
        body = await request.body()
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if bearer not in self.bearers:
            return _refused(401, "UNAUTHENTICATED")
        if request.path_params["project"] != PROJECT:
            return _refused(403, "PERMISSION_DENIED")
        if self.status != 200:
            return JSONResponse({"error": self.error}, self.status, headers=self.headers)
        try:
            message = msgspec.json.decode(body, type=Body).message
        except msgspec.MsgspecError as error:
            self.wrong.append(str(error))
            return _refused(400, "INVALID_ARGUMENT")
        if (wrong := _wrong_message(message)) is not None:
            self.wrong.append(wrong)
            return _refused(400, "INVALID_ARGUMENT")
        phone = self.phones.get(message.token)
        if phone is None:
            return _refused(404, "NOT_FOUND", _fcm("UNREGISTERED"))
        phone.show(message)
        await self.answering.wait()
        return JSONResponse({"name": f"projects/{PROJECT}/messages/{secrets.token_hex(8)}"})


def failing(status: int, code: str, *, details: bool = True) -> dict[str, Any]:
    """Return what FCM says of a message that it does not take."""
    error: dict[str, Any] = {"code": status, "message": "x", "status": code}
    return error | ({"details": [_fcm(code)]} if details else {})


def _fcm(code: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code}


def _refused(status: int, code: str, *details: dict[str, Any]) -> Response:
    error = {"code": status, "message": "x", "status": code, "details": list(details)}
    return JSONResponse({"error": error}, status)


def _wrong_message(message: Sent) -> str | None:
    """Say what the real one would not take, or what would not be shown once."""
    ttl = re.fullmatch(r"(\d+)s", message.android.ttl)
    if ttl is None or int(ttl[1]) > LONGEST_TTL:
        return "android.ttl"
    if message.android.priority not in ("normal", "high"):
        return "android.priority"
    tag = message.android.notification.tag
    headers = message.apns.headers
    if headers.get("apns-collapse-id") != tag or len(tag) > 64:
        return "apns-collapse-id"
    if int(headers.get("apns-expiration", "0")) < time.time() - 5:
        return "apns-expiration"
    if message.webpush.notification.tag != tag or len(message.webpush.headers.get("Topic", "x" * 33)) > 32:
        return "webpush"
    reserved = [name for name in message.data if name in RESERVED or name.startswith(("google.", "gcm."))]
    return f"data: {reserved}" if reserved else None


@asynccontextmanager
async def a_stand_in() -> AsyncIterator[StandInFcm]:
    """Run it on a port of its own."""
    stand_in = StandInFcm()
    stand_in.answering.set()
    listener = socket.create_server(("127.0.0.1", 0))
    stand_in.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = uvicorn.Config(
        Starlette(routes=stand_in.routes()),
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve(sockets=[listener]))
    try:
        while not server.started:
            assert not serving.done()
            await asyncio.sleep(0.001)
        yield stand_in
    finally:
        stand_in.answering.set()
        server.should_exit = True
        await serving
