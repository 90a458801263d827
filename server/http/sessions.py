"""One's own sessions over HTTP: where am I signed in, and ending it. The websocket has the same as `session.list` and `session.revoke`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from msgspec import Meta, Struct
from starlette.requests import Request

from protocol.envelope import SessionId
from protocol.refusals import ErrorCode, Refused
from protocol.session import SessionEntry
from server.http.callers import REFUSALS, caller_of
from server.http.endpoint import Endpoint, Link, Parameter
from server.session import end_others, end_session
from storage.session import sessions_of

if TYPE_CHECKING:
    from server.node import Node


class Sessions(Struct):
    """Sessions that have not ended: the one that asks first, then the newest seen; at most 100."""

    sessions: Annotated[list[SessionEntry], Meta(description="Yours; nobody else sees them.")]


class OwnSessions:
    """The operations on one's own sessions, of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lifetime = node.settings.refresh_token_days * 86400

    async def sessions(self, request: Request) -> Sessions:
        """List where you are signed in."""
        caller = await caller_of(self._node, request)
        stores = self._node.stores
        found = await sessions_of(
            stores.pool, stores.sealer, caller.account.id, caller.session, lifetime=self._lifetime
        )
        return Sessions(found)

    async def end_session(self, request: Request) -> None:
        """End one of your sessions: its tokens are worth nothing from now on, its connections close within a second.

        One that has ended already is no error. Somebody else's is as unknown as one that never was.
        """
        caller = await caller_of(self._node, request)
        try:
            session = SessionId(UUID(request.path_params["session"]))
        except ValueError:
            raise Refused(ErrorCode.NOT_FOUND) from None
        await end_session(self._node, caller.account.id, session)

    async def end_other_sessions(self, request: Request) -> None:
        """End all your sessions but the one that asks."""
        caller = await caller_of(self._node, request)
        await end_others(self._node, caller.account.id, caller.session)


def endpoints(own: OwnSessions) -> list[Endpoint]:
    """List the operations on one's own sessions."""
    return [
        Endpoint(
            method="GET",
            path="/me/sessions",
            summary="Where am I signed in",
            handle=own.sessions,
            answer=Sessions,
            links=(
                Link(
                    operation="end_session",
                    meaning="Sign one of the listed devices out.",
                    parameters={"session": "/sessions/0/id"},
                ),
                Link(operation="end_other_sessions", meaning="Sign out everywhere else."),
            ),
            signed_in=True,
            refuses=REFUSALS,
            group="Sessions",
        ),
        Endpoint(
            method="DELETE",
            path="/me/sessions",
            summary="Sign out everywhere else",
            handle=own.end_other_sessions,
            status=204,
            signed_in=True,
            refuses=REFUSALS,
            group="Sessions",
        ),
        Endpoint(
            method="DELETE",
            path="/me/sessions/{session}",
            summary="Sign out one device",
            handle=own.end_session,
            parameters=(Parameter("session", "path", "The id of one of your sessions.", form="uuid"),),
            status=204,
            signed_in=True,
            refuses=(*REFUSALS, ErrorCode.NOT_FOUND),
            group="Sessions",
        ),
    ]
