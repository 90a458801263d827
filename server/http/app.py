"""The Starlette application of one node: every route, from one list of endpoints."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Final

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from protocol.refusals import Refused
from server.http import (
    account,
    auth,
    creators,
    downloads,
    emails,
    grants,
    home,
    identities,
    keys,
    operations,
    page,
    passes,
    pay,
    payments,
    privacy,
    providers,
    sessions,
    uploads,
    waitlist,
)
from server.http import passwords as account_passwords
from server.http.documents import contract, openapi
from server.http.endpoint import JSON, Endpoint
from server.http.gate import Gate
from server.http.guards import Guard
from server.http.problems import answer_refused, answer_routing
from server.passwords import Passwords

if TYPE_CHECKING:
    from server.node import Node

_DOCUMENT_HEADERS: Final = {"cache-control": "no-cache"}

Respond = Callable[[Request], Awaitable[Response]]


def create_app(node: Node) -> Starlette:
    """Make the HTTP side of `node`. It uses its settings, stores and tokens, and tells it of sessions that were ended."""
    passwords = Passwords()
    granting = grants.Grants(node)
    accounts = auth.Accounts(node, passwords, granting)
    arrivals = providers.Arrivals(node, granting)
    proofs = account_passwords.Proofs(node, passwords)
    own_emails = emails.Emails(node, passwords, proofs)
    own_password = account_passwords.PasswordChanges(node, passwords, proofs)
    places = waitlist.Waitlist(node)
    endpoints = [
        *auth.endpoints(accounts),
        *providers.endpoints(arrivals),
        *identities.endpoints(identities.OwnIdentities(node, arrivals, passwords, proofs)),
        *emails.endpoints(own_emails),
        *account_passwords.endpoints(own_password),
        *waitlist.endpoints(places),
        *account.endpoints(account.AccountPages(accounts, own_emails, own_password, places)),
        *sessions.endpoints(sessions.OwnSessions(node)),
        *privacy.endpoints(privacy.OwnData(node, proofs)),
        *payments.endpoints(payments.Payments(node)),
        *passes.endpoints(passes.Passes(node)),
        *creators.endpoints(creators.Creators(node)),
        *uploads.endpoints(uploads.OwnUploads(node)),
        *downloads.endpoints(downloads.Downloads(node)),
        *keys.endpoints(keys.PublishedKeys(node)),
        *operations.endpoints(operations.Operations(node)),
    ]
    app = Starlette(
        routes=[*_routes(endpoints, Gate(node)), *_documents(endpoints, node.settings.registration)],
        middleware=[
            Middleware(
                Guard,
                hosts=node.settings.allowed_hosts,
                origins=node.settings.allowed_origins,
                elsewhere=providers.elsewhere(node),
                methods={endpoint.method for endpoint in endpoints},
                addresses=node.addresses,
                https=node.settings.public_url.startswith("https:"),
            )
        ],
        exception_handlers={Refused: answer_refused, HTTPException: answer_routing},
    )
    app.router.redirect_slashes = False
    app.state.passwords = passwords
    return app


def _routes(endpoints: Sequence[Endpoint], gate: Gate) -> list[Route]:
    """One route per path, whatever its methods, so that the Allow header of a 405 names them all."""
    paths: dict[str, dict[str, Endpoint]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method] = endpoint
    return [Route(path, _by_method(methods, gate), methods=list(methods)) for path, methods in paths.items()]


def _by_method(methods: dict[str, Endpoint], gate: Gate) -> Respond:
    async def respond(request: Request) -> Response:
        return await gate.respond(methods["GET" if request.method == "HEAD" else request.method], request)

    return respond


def _documents(endpoints: Sequence[Endpoint], registration: str) -> list[Route]:
    """What is described is written when it is first asked for: that is a good part of a node's start."""
    described, messages = cache(lambda: openapi(endpoints)), cache(contract)
    return [
        Route("/", _constant(home.render(registration).encode(), "text/html; charset=utf-8", home.POLICY)),
        Route("/home.css", _constant(home.STYLE.read_bytes(), "text/css; charset=utf-8")),
        Route("/home.js", _constant(home.SCRIPT.read_bytes(), "text/javascript; charset=utf-8")),
        Route("/live.js", _constant(home.LIVE.read_bytes(), "text/javascript; charset=utf-8")),
        Route("/favicon.ico", _constant(home.ICON.encode(), "image/svg+xml")),
        Route("/openapi.json", _written(lambda: msgspec.json.encode(described()), JSON)),
        Route("/schema.json", _written(lambda: msgspec.json.encode(messages()), "application/schema+json")),
        Route(
            "/docs",
            _written(
                lambda: page.render(described(), messages()).encode(), "text/html; charset=utf-8", page.POLICY
            ),
        ),
        Route("/account.css", _constant(account.STYLE.read_bytes(), "text/css; charset=utf-8")),
        Route("/account.js", _constant(account.SCRIPT.read_bytes(), "text/javascript; charset=utf-8")),
        Route("/docs.css", _constant(page.STYLE.read_bytes(), "text/css; charset=utf-8")),
        Route("/docs.js", _constant(page.SCRIPT.read_bytes(), "text/javascript; charset=utf-8")),
        Route("/pay", _constant(pay.PAGE.encode(), "text/html; charset=utf-8", pay.POLICY)),
        Route("/pay.css", _constant(pay.STYLE.read_bytes(), "text/css; charset=utf-8")),
        Route("/pay.js", _constant(pay.SCRIPT.read_bytes(), "text/javascript; charset=utf-8")),
    ]


def _constant(content: bytes, media_type: str, policy: str | None = None) -> Respond:
    return _written(lambda: content, media_type, policy)


def _written(write: Callable[[], bytes], media_type: str, policy: str | None = None) -> Respond:
    content = cache(write)
    headers = _DOCUMENT_HEADERS | {"content-type": media_type}
    if policy is not None:
        headers["content-security-policy"] = policy

    async def respond(_: Request) -> Response:
        return Response(content(), headers=headers)

    return respond
