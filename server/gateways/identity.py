"""Google and Apple say who somebody is: where a browser is sent, how its code is traded in, and what an ID token proves.

Of what a provider says three things count: the issuer, the subject, and whether the address is one that it has verified.
An account is found by the first two. An ID token counts only with a signature of one of the provider's published keys by
RS256, for one of our client ids, within its time, and with the nonce of whoever began: whatever else its header says - another
algorithm, a key, an address of keys - is not looked at.

Apple differs in what is written down here once: the secret of the client is a token that we sign (ES256), scopes come only with
a form that is posted across sites, flags may be the text "true", an address may be one that Apple forwards from, and an app
with accounts must revoke its tokens when an account is deleted.
"""

from __future__ import annotations

import hmac
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final
from urllib.parse import urlencode

import httpx2
import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from msgspec import Struct

from protocol.refusals import ErrorCode, Refused
from server.gateways.gate import Gate
from server.gateways.jwks import ProviderKeys
from server.gateways.outside import Answer, Outside, authorities
from server.settings import Settings

_LOGGER = logging.getLogger("looprooms.identity")

LEEWAY_SECONDS: Final = 30.0
LONGEST_TOKEN: Final = 8192
SECRET_SECONDS: Final = 86400.0
"""How long a client secret that we sign is good; Apple takes six months at most."""
GOOGLE: Final = "https://accounts.google.com"
_LONGEST_SUBJECT: Final = 255


class Proof(Struct, frozen=True, kw_only=True):
    """What an ID token has proven: who somebody is at a provider.

    `address` is only there if the provider has verified it; `hidden` says that it is one that the provider forwards from.
    `client` is the client id that it was made for, `expires_at` in seconds since 1970.
    """

    provider: str
    issuer: str
    subject: str
    address: str | None
    hidden: bool
    name: str | None
    client: str
    expires_at: float


class Traded(Struct, frozen=True):
    """What a code was traded in for. `refresh_token` is to be revoked one day."""

    id_token: str
    refresh_token: str | None


class Provider(ABC):
    """One provider. `client` is the client id of the web, `apps` are those of apps; the first of `issuers` is the one to keep."""

    name: ClassVar[str]
    title: ClassVar[str]
    posts: ClassVar[bool]
    """Whether the browser comes back with a form that is posted, instead of a query."""
    scope: ClassVar[str]
    keeps_tokens: ClassVar[bool]
    """Whether what a code is traded in for must be revoked one day."""

    def __init__(
        self,
        *,
        client: str,
        apps: Sequence[str],
        issuers: Sequence[str],
        authorize_url: str,
        token_url: str,
        keys_url: str,
        revoke_url: str,
        outside: Outside,
        clock: Callable[[], float],
    ) -> None:
        self.client = client
        self.issuer = issuers[0]
        self._clients = frozenset((client, *apps))
        self._issuers = frozenset(issuers)
        self._authorize_url = authorize_url
        self._token_url = token_url
        self._revoke_url = revoke_url
        self._outside = outside
        self.keys = ProviderKeys(lambda: outside.get(keys_url), clock)

    @property
    def away(self) -> bool:
        """Whether it is left alone for now, because it does not answer."""
        return self._outside.breaker.open

    @property
    def gate(self) -> Gate:
        """Through which it is asked."""
        return self._outside.gate

    def authorize_url(self, *, redirect_uri: str, state: str, nonce: str, challenge: str) -> str:
        """Return where a browser is sent to sign in. `challenge` is the SHA-256 of a secret that the trade will show."""
        query = {
            "client_id": self.client,
            "redirect_uri": redirect_uri,
            "response_type": "code",
            "scope": self.scope,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            "response_mode": "form_post" if self.posts else "query",
        }
        return f"{self._authorize_url}?{urlencode(query)}"

    async def trade(self, code: str, *, verifier: str, redirect_uri: str) -> Traded:
        """Trade in the code that a browser came back with. Raises `Refused` (sign_in_refused, unavailable)."""
        return await self._trade(
            self.client, {"code": code, "code_verifier": verifier, "redirect_uri": redirect_uri}
        )

    async def trade_of_app(self, code: str, client: str) -> Traded:
        """Trade in the code that an app got on its device. Raises `Refused` (sign_in_refused, unavailable)."""
        return await self._trade(client, {"code": code})

    async def verify(self, id_token: str, nonce: str) -> Proof:
        """Return what an ID token proves to whoever made `nonce`. Raises `Refused` (sign_in_refused, unavailable)."""
        claims = await self._claims(id_token)
        said = claims.get("nonce")
        if not isinstance(said, str) or not hmac.compare_digest(said.encode(), nonce.encode()):
            raise Refused(ErrorCode.SIGN_IN_REFUSED)
        verified = _is_true(claims.get("email_verified"))
        return Proof(
            provider=self.name,
            issuer=self.issuer,
            subject=claims["sub"],
            address=_text(claims.get("email")) if verified else None,
            hidden=_is_true(claims.get("is_private_email")),
            name=_text(claims.get("name")),
            client=claims["aud"],
            expires_at=float(claims["exp"]),
        )

    async def revoke(self, token: str, client: str) -> None:
        """Make a token worthless; one that is so already is no error. Raises `Refused` (sign_in_refused, unavailable)."""
        form = {"token": token, "token_type_hint": "refresh_token", **self._credentials(client)}
        answer = await self._outside.post(self._revoke_url, form)
        if not answer.good:
            raise self._refused("to revoke a token", answer)

    @abstractmethod
    def _credentials(self, client: str) -> dict[str, str]:
        """Return what says to the provider that it is us."""

    async def _trade(self, client: str, form: dict[str, str]) -> Traded:
        answer = await self._outside.post(
            self._token_url, {"grant_type": "authorization_code", **form, **self._credentials(client)}
        )
        id_token = answer.body.get("id_token")
        if not answer.good or not isinstance(id_token, str):
            raise self._refused("to trade in a code", answer)
        return Traded(id_token, _text(answer.body.get("refresh_token")) if self.keeps_tokens else None)

    def _refused(self, what: str, answer: Answer) -> Refused:
        error = _text(answer.body.get("error")) or "no reason"
        # An invalid grant is the browser's; anything else, an invalid client for example, is for the operator to mend.
        level = logging.INFO if error == "invalid_grant" else logging.ERROR
        _LOGGER.log(level, "%s refused %s: %.60s", self.title, what, error)
        return Refused(ErrorCode.SIGN_IN_REFUSED)

    async def _claims(self, id_token: str) -> dict[str, Any]:
        """Return what the provider has signed for us. Raises `Refused`."""
        if len(id_token) > LONGEST_TOKEN:
            raise Refused(ErrorCode.SIGN_IN_REFUSED)
        try:
            kid = jwt.get_unverified_header(id_token).get("kid")
            key = await self.keys.find(kid) if isinstance(kid, str) else None
            if key is None:
                raise Refused(ErrorCode.SIGN_IN_REFUSED)
            claims: dict[str, Any] = jwt.decode(
                id_token,
                key.key,
                algorithms=["RS256"],
                audience=self._clients,
                issuer=self._issuers,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iat", "aud", "iss", "sub"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise Refused(ErrorCode.SIGN_IN_REFUSED) from None
        subject = claims["sub"]
        # For several audiences at once it would be any one's to use, here too.
        if not isinstance(claims["aud"], str) or not isinstance(subject, str):
            raise Refused(ErrorCode.SIGN_IN_REFUSED)
        if not 0 < len(subject) <= _LONGEST_SUBJECT or "\0" in subject:
            raise Refused(ErrorCode.SIGN_IN_REFUSED)
        return claims


class Google(Provider):
    """Google, as it is for a web client with a secret; apps have client ids of their own."""

    name = "google"
    title = "Google"
    posts = False
    scope = "openid email profile"
    keeps_tokens = False

    def __init__(self, settings: Settings, outside: Outside, clock: Callable[[], float]) -> None:
        base = settings.google_url
        real = base == GOOGLE
        super().__init__(
            client=settings.google_client_id,
            apps=settings.google_app_ids,
            issuers=(base, base.removeprefix("https://")) if real else (base,),
            authorize_url=f"{base}/o/oauth2/v2/auth",
            token_url="https://oauth2.googleapis.com/token" if real else f"{base}/token",
            keys_url="https://www.googleapis.com/oauth2/v3/certs" if real else f"{base}/oauth2/v3/certs",
            revoke_url="https://oauth2.googleapis.com/revoke" if real else f"{base}/revoke",
            outside=outside,
            clock=clock,
        )
        self._secret = settings.google_client_secret

    def _credentials(self, client: str) -> dict[str, str]:
        return {"client_id": client, "client_secret": self._secret}


class Apple(Provider):
    """Apple, as it is for a services id; apps have their bundle ids."""

    name = "apple"
    title = "Apple"
    posts = True
    scope = "name email"
    keeps_tokens = True

    def __init__(self, settings: Settings, outside: Outside, clock: Callable[[], float]) -> None:
        base = settings.apple_url
        super().__init__(
            client=settings.apple_client_id,
            apps=settings.apple_app_ids,
            issuers=(base,),
            authorize_url=f"{base}/auth/authorize",
            token_url=f"{base}/auth/token",
            keys_url=f"{base}/auth/keys",
            revoke_url=f"{base}/auth/revoke",
            outside=outside,
            clock=clock,
        )
        self._team = settings.apple_team_id
        self._key_id = settings.apple_key_id
        self._key = apple_key(settings.apple_private_key)
        self._secrets: dict[str, tuple[str, float]] = {}

    def _credentials(self, client: str) -> dict[str, str]:
        return {"client_id": client, "client_secret": self._signed(client)}

    def _signed(self, client: str) -> str:
        """Return the client secret, made anew when half of its time is over."""
        now = time.time()
        secret, until = self._secrets.get(client, ("", 0.0))
        if now > until - SECRET_SECONDS / 2:
            until = now + SECRET_SECONDS
            claims = {
                "iss": self._team,
                "iat": int(now),
                "exp": int(until),
                "aud": self.issuer,
                "sub": client,
            }
            secret = jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self._key_id})
            self._secrets[client] = secret, until
        return secret


class Providers:
    """The providers of a deployment: those with a client id. `clock` is in seconds."""

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._client: httpx2.AsyncClient | None = None
        self._by_name: dict[str, Provider] = {}
        kinds: list[type[Google | Apple]] = []
        if settings.google_client_id:
            kinds.append(Google)
        if settings.apple_client_id:
            kinds.append(Apple)
        if kinds:
            self._client = httpx2.AsyncClient(verify=authorities())
        for kind in kinds:
            assert self._client is not None
            self._by_name[kind.name] = kind(settings, Outside(kind.title, self._client, clock), clock)

    def all(self) -> list[Provider]:
        """List them."""
        return list(self._by_name.values())

    def find(self, name: str) -> Provider:
        """Return one. Raises `Refused` (not_found) for one that is not offered."""
        if name not in self._by_name:
            raise Refused(ErrorCode.NOT_FOUND)
        return self._by_name[name]

    async def aclose(self) -> None:
        """Close what is open to them."""
        if self._client is not None:
            await self._client.aclose()


def apple_key(pem: str) -> EllipticCurvePrivateKey:
    """Read the key that client secrets are signed with; its lines may end in backslash and n. Raises `ValueError`."""
    key = load_pem_private_key(pem.replace("\\n", "\n").encode(), None)
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise ValueError("not a P-256 key")  # noqa: TRY004 - as for a text that is no key at all
    return key


def _is_true(value: Any) -> bool:
    return value is True or value == "true"


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
