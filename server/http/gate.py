"""How much may be asked over HTTP: one limit for everything that somebody asks, and narrower ones for what is dear.

Who is signed in is counted as that person, over all their devices, and more is allowed to who pays; everyone else is counted
by address. The narrower limits, as on signing in, are by address alone and the same for all.

Every answer tells what is left, in the header fields ``RateLimit-Policy`` and ``RateLimit`` (draft-ietf-httpapi-ratelimit-headers).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from starlette.requests import Request
from starlette.responses import Response

from protocol.refusals import Refused
from server.http.callers import address_of, claims_of
from server.http.endpoint import Endpoint
from server.http.problems import response_of
from server.limits import check
from storage.redis.limits import Limit, Verdict

if TYPE_CHECKING:
    from server.node import Node

REQUESTS: Final = Limit("requests", burst=200, rate=20)
"""Requests of a person, or of an address where nobody is signed in."""


class Gate:
    """Stands before every operation of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def respond(self, endpoint: Endpoint, request: Request) -> Response:
        """Let `endpoint` answer, if there is anything left of each of its limits; say no otherwise."""
        if endpoint.unlimited:
            return await endpoint.respond(request)
        found: list[tuple[Limit, Verdict]] = []
        try:
            found.append(self._request(request))
            check(found[-1][1])
            for limit in endpoint.limits:
                found.append(await self._dear(request, limit))
                check(found[-1][1])
            response = await endpoint.respond(request)
        except Refused as refused:
            response = response_of(refused)
        response.headers["ratelimit-policy"] = ", ".join(_policy(limit) for limit, _ in found)
        response.headers["ratelimit"] = ", ".join(_left(limit, verdict) for limit, verdict in found)
        return response

    def _request(self, request: Request) -> tuple[Limit, Verdict]:
        quotas = self._node.quotas
        try:
            claims = claims_of(self._node, request)
        except Refused:
            return quotas.sized(REQUESTS), quotas.spend(REQUESTS, address_of(self._node, request))
        return quotas.sized(REQUESTS, claims), quotas.spend(REQUESTS, str(claims.user), claims)

    async def _dear(self, request: Request, limit: Limit) -> tuple[Limit, Verdict]:
        quotas = self._node.quotas
        return quotas.sized(limit), await quotas.take(limit, address_of(self._node, request))


def _policy(limit: Limit) -> str:
    return f'"{limit.name}";q={math.floor(limit.burst)};w={math.ceil(limit.window)}'


def _left(limit: Limit, verdict: Verdict) -> str:
    return f'"{limit.name}";r={verdict.left};t={math.ceil(verdict.full_after)}'
