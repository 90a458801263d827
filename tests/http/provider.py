"""Stand-ins for Google and Apple on loopback: they check what the real ones check, and sign what the real ones sign."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import html
import secrets
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, urlencode

import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

WEB = "rooms-web"
APP = "org.example.rooms.app"
SECRET = "what google gave us"
TEAM = "TEAM123456"
KEY_ID = "KEY1234567"
HALF_A_YEAR = 15_777_000


@cache
def rsa_key(number: int, bits: int = 2048) -> RSAPrivateKey:
    """Make the signing key of that number, once."""
    return generate_rsa_key(65537, bits + 0 * number)


@cache
def apple_client_key() -> EllipticCurvePrivateKey:
    """Make the key that Apple gave us."""
    return generate_private_key(SECP256R1())


def pem(key: EllipticCurvePrivateKey) -> str:
    """Write a key as Apple gives it, in one line."""
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return text.replace("\n", "\\n")


@dataclass(frozen=True)
class Someone:
    """Somebody with an account at the provider."""

    subject: str
    email: str | None = None
    verified: bool = True
    name: str | None = None
    private: bool = False


@dataclass
class Code:
    """A code that was given out, and what it was given out for."""

    someone: Someone
    client: str
    redirect_uri: str | None
    nonce: str | None
    challenge: str | None
    used: bool = False


@dataclass
class StandIn:
    """One provider. What a test changes: who is signed in there, and how it misbehaves."""

    kind: str
    redirect_uris: tuple[str, ...]
    url: str = ""
    someone: Someone = Someone("nobody")
    cancels: bool = False
    claims: dict[str, Any] = field(default_factory=dict)
    """Claims that are other than they should be; None leaves one out."""
    keys: dict[str, RSAPrivateKey] = field(default_factory=lambda: {"one": rsa_key(1)})
    answering: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared, it hangs."""
    status: int = 200
    codes: dict[str, Code] = field(default_factory=dict)
    greeted: set[str] = field(default_factory=set)
    """Subjects whose name was told already: Apple does so once."""
    refresh_tokens: set[str] = field(default_factory=set)
    revoked: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    """The paths that were asked for."""
    client_secrets: set[str] = field(default_factory=set)

    @property
    def apple(self) -> bool:
        """Whether it speaks as Apple does."""
        return self.kind == "apple"

    def fetches(self) -> int:
        """Count how often the keys were fetched."""
        return sum(path in ("/auth/keys", "/oauth2/v3/certs") for path in self.asked)

    def routes(self) -> list[Route]:
        """List what it answers."""
        paths = (
            ("/auth/authorize", "/auth/token", "/auth/keys", "/auth/revoke")
            if self.apple
            else ("/o/oauth2/v2/auth", "/token", "/oauth2/v3/certs", "/revoke")
        )
        authorize, token, keys, revoke = paths
        return [
            Route(authorize, self.authorize),
            Route(token, self.token, methods=["POST"]),
            Route(keys, self.key_set),
            Route(revoke, self.revoke, methods=["POST"]),
        ]

    async def authorize(self, request: Request) -> Response:
        """Take a browser, and send it back as the provider does."""
        query = request.query_params
        if query.get("client_id") != WEB or query.get("redirect_uri") not in self.redirect_uris:
            return JSONResponse(
                {"error": "invalid_client"}, 400
            )  # shown, and never sent to an address that is not known
        wrong = self._wrong_request(query)
        if wrong:
            return JSONResponse({"error": "invalid_request", "error_description": wrong}, 400)
        back = {"state": query["state"]}
        if self.cancels:
            return self._back(query["redirect_uri"], {**back, "error": self._word_for_cancelling()})
        code = self._new_code(
            Code(self.someone, WEB, query["redirect_uri"], query["nonce"], query["code_challenge"])
        )
        back["code"] = code
        if self.apple and self.someone.name and self.someone.subject not in self.greeted:
            self.greeted.add(self.someone.subject)
            first, _, last = self.someone.name.partition(" ")
            email = html.escape(self.someone.email or "")
            back["user"] = f'{{"name":{{"firstName":"{first}","lastName":"{last}"}},"email":"{email}"}}'
        return self._back(query["redirect_uri"], back)

    def _wrong_request(self, query: Mapping[str, str]) -> str:
        scope = set(query.get("scope", "").split())
        if query.get("response_type") != "code" or not query.get("state") or not query.get("nonce"):
            return "response_type, state and nonce"
        if query.get("code_challenge_method") != "S256" or len(query.get("code_challenge", "")) != 43:
            return "code_challenge"
        if self.apple:
            return "" if not scope or query.get("response_mode") == "form_post" else "response_mode"
        return "" if "openid" in scope else "scope"

    def _word_for_cancelling(self) -> str:
        return "user_cancelled_authorize" if self.apple else "access_denied"

    def _back(self, redirect_uri: str, fields: dict[str, str]) -> Response:
        if not self.apple:
            return RedirectResponse(f"{redirect_uri}?{urlencode(fields)}", 302)
        inputs = "".join(
            f'<input type="hidden" name="{name}" value="{html.escape(value)}">'
            for name, value in fields.items()
        )
        form = f'<form method="post" action="{redirect_uri}">{inputs}</form>'
        return HTMLResponse(f"<body onload='document.forms[0].submit()'>{form}</body>")

    def _new_code(self, code: Code) -> str:
        text = secrets.token_urlsafe(24)
        self.codes[text] = code
        return text

    def app_code(self, someone: Someone) -> str:
        """Give an app a code, on its device."""
        return self._new_code(Code(someone, APP, None, None, None))

    async def token(self, request: Request) -> Response:
        """Trade in a code."""
        form = dict(parse_qsl((await request.body()).decode()))
        if (trouble := await self._trouble(request)) is not None:
            return trouble
        if not self._knows_client(form):
            return JSONResponse({"error": "invalid_client"}, 401)
        code = self.codes.get(form.get("code", ""))
        if code is None or code.used or form.get("grant_type") != "authorization_code":
            return JSONResponse({"error": "invalid_grant"}, 400)
        code.used = True
        shown = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if (code.client, code.redirect_uri) != (form["client_id"], form.get("redirect_uri")):
            return JSONResponse({"error": "invalid_grant"}, 400)
        if code.challenge is not None and shown.rstrip(b"=").decode() != code.challenge:
            return JSONResponse({"error": "invalid_grant"}, 400)
        body = {
            "access_token": secrets.token_urlsafe(16),
            "token_type": "Bearer",
            "expires_in": 3600,
            "id_token": self.id_token(code.someone, nonce=code.nonce, client=code.client),
        }
        if self.apple:
            refresh_token = f"r.{secrets.token_urlsafe(16)}"
            self.refresh_tokens.add(refresh_token)
            body["refresh_token"] = refresh_token
        return JSONResponse(body)

    async def revoke(self, request: Request) -> Response:
        """Make a token worthless."""
        form = dict(parse_qsl((await request.body()).decode()))
        if (trouble := await self._trouble(request)) is not None:
            return trouble
        if not self._knows_client(form):
            return JSONResponse({"error": "invalid_client"}, 400)
        self.revoked.append(form["token"])
        self.refresh_tokens.discard(form["token"])
        return Response(status_code=200)

    async def key_set(self, request: Request) -> Response:
        """Publish the keys, among some that are of no use."""
        if (trouble := await self._trouble(request)) is not None:
            return trouble
        published = [
            jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
            | {"kid": kid, "use": "sig", "alg": "RS256"}
            for kid, key in self.keys.items()
        ]
        others = [{"kty": "EC", "kid": "odd"}, {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"}, 7]
        return JSONResponse({"keys": [*others, *published]})

    async def _trouble(self, request: Request) -> Response | None:
        self.asked.append(request.url.path)
        await self.answering.wait()
        return None if self.status == 200 else JSONResponse({}, self.status)

    def _knows_client(self, form: Mapping[str, str]) -> bool:
        if form.get("client_id") not in (WEB, APP):
            return False
        if not self.apple:
            return form.get("client_secret") == SECRET
        secret = form.get("client_secret", "")
        self.client_secrets.add(secret)
        try:
            claims = jwt.decode(
                secret,
                apple_client_key().public_key(),
                algorithms=["ES256"],
                audience=self.url,
                issuer=TEAM,
                subject=form["client_id"],
                options={"require": ["iss", "iat", "exp", "aud", "sub"]},
            )
        except jwt.PyJWTError:
            return False
        kid = jwt.get_unverified_header(secret)["kid"]
        return bool(kid == KEY_ID and claims["exp"] - claims["iat"] <= HALF_A_YEAR)

    def said_of(self, someone: Someone, *, nonce: str | None, client: str = APP) -> dict[str, Any]:
        """Return the claims of an ID token about somebody."""
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self.url,
            "aud": client,
            "sub": someone.subject,
            "iat": now,
            "exp": now + 3600,
            "nonce": nonce,
            "email": someone.email,
            "email_verified": ("true" if someone.verified else "false") if self.apple else someone.verified,
        }
        if self.apple:
            claims |= {"is_private_email": "true"} if someone.private else {}
        else:
            claims |= {"name": someone.name, "azp": client}
        claims |= self.claims
        return {name: value for name, value in claims.items() if value is not None}

    def id_token(self, someone: Someone, *, nonce: str | None, client: str = APP, kid: str = "") -> str:
        """Sign an ID token about somebody."""
        kid = kid or next(iter(self.keys))
        claims = self.said_of(someone, nonce=nonce, client=client)
        return jwt.encode(claims, self.keys[kid], algorithm="RS256", headers={"kid": kid})


@asynccontextmanager
async def standing_in(kind: str, *redirect_uris: str) -> AsyncIterator[StandIn]:
    """Run a stand-in on a port of its own."""
    stand_in = StandIn(kind, redirect_uris)
    stand_in.answering.set()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(
        socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
    )  # asyncio does it for its own sockets alone
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
