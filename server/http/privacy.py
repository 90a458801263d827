"""What is yours, over HTTP: all of it in one document, and an end of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Final
from uuid import UUID

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import StreamingResponse

from protocol.envelope import Milliseconds
from protocol.refusals import ErrorCode, Refused
from server.http.auth import SIGN_INS
from server.http.callers import REFUSALS, Caller, caller_of
from server.http.cookies import REFRESH, from_page, no_cookie
from server.http.endpoint import JSON, Endpoint, Link, Parameter, WithCookies
from server.http.passwords import OwnPassword, Proofs
from server.limits import check
from storage import privacy
from storage.departures import remove_person
from storage.redis.limits import Limit

if TYPE_CHECKING:
    from server.node import Node

EXPORTS: Final = Limit("exports", burst=5, rate=5 / 86400)
"""Exports that a person asks for."""

_EXPORT: Final = Parameter("export", "path", "Its id, as the answer to asking for it says.", form="uuid")

_EXPORTED: Final = (
    Link(operation="export_state", meaning="Ask how far it is.", parameters={"export": "/id"}),
    Link(operation="export_document", meaning="Fetch it when it is finished.", parameters={"export": "/id"}),
)


class Departing(Struct):
    """You leave for good. Without a password you must have signed in within the last 10 minutes."""

    password: OwnPassword | None = None


class ExportState(Struct, kw_only=True):
    """How far your export is."""

    id: Annotated[UUID, Meta(description="What the paths of this export name.")]
    finished: Annotated[bool, Meta(description="Whether the document can be fetched.")]
    progress: Annotated[float, Meta(ge=0, le=1, description="How much of it is made.")]
    created_at: Annotated[Milliseconds, Meta(description="When you asked, in milliseconds since 1970.")]
    expires_at: Annotated[Milliseconds, Meta(description="When it is deleted.")]


class OwnData:
    """The operations on all that is one's own, of one node."""

    def __init__(self, node: Node, proofs: Proofs) -> None:
        self._node = node
        self._proofs = proofs

    async def ask_export(self, request: Request) -> ExportState:
        """Have everything about you written down, as one JSON document. Asked for again while it is made it is the same one."""
        caller = await caller_of(self._node, request)
        account = caller.account
        check(await self._node.quotas.take(EXPORTS, str(account.id)))
        return _state(await privacy.ask_export(self._node.stores.pool, account.id))

    async def export_state(self, request: Request) -> ExportState:
        """Say how far an export is. It can be fetched for a day after it was asked for, by you alone."""
        _, export = await self._export(request)
        return _state(export)

    async def export_document(self, request: Request) -> StreamingResponse:
        """Fetch an export that is finished: one JSON object with a list for each kind of thing that is known of you."""
        caller, export = await self._export(request)
        if not export.finished:
            raise Refused(ErrorCode.NOT_READY)
        stores = self._node.stores
        pieces = privacy.read_export(stores.pool, stores.sealer, export.id, caller.account.id)
        first = await anext(pieces)  # what is refused is refused before the answer begins
        return StreamingResponse(
            _all(first, pieces),
            media_type=JSON,
            headers={
                "cache-control": "no-store",
                "content-disposition": f'attachment; filename="looprooms-{export.id}.json"',
            },
        )

    async def leave(self, request: Request, body: Departing) -> WithCookies | None:
        """Delete your account: at once, for good, on all your devices. What you said in looprooms is removed within moments.

        What stays of it, without your name, is listed in the documents.
        """
        caller = await caller_of(self._node, request)
        await self._proofs.of_person(request, caller, body.password)
        departure = await remove_person(self._node.stores.pool, self._node.stores.sealer, caller.account.id)
        if departure is None:
            raise Refused(ErrorCode.SESSION_ENDED)
        self._node.person_left(departure.user, departure.rooms)
        return WithCookies(None, (no_cookie(REFRESH),)) if from_page(request) else None

    async def _export(self, request: Request) -> tuple[Caller, privacy.Export]:
        caller = await caller_of(self._node, request)
        try:
            wanted = UUID(request.path_params["export"])
        except ValueError:
            raise Refused(ErrorCode.NOT_FOUND) from None
        export = await privacy.find_export(self._node.stores.pool, wanted, caller.account.id)
        if export is None:
            raise Refused(ErrorCode.NOT_FOUND)
        return caller, export


def endpoints(data: OwnData) -> list[Endpoint]:
    """List the operations on all that is one's own."""
    return [
        Endpoint(
            method="POST",
            path="/me/export",
            summary="Ask for everything about you",
            handle=data.ask_export,
            answer=ExportState,
            links=_EXPORTED,
            status=202,
            signed_in=True,
            refuses=(ErrorCode.RATE_LIMITED, *REFUSALS),
            group="Your data",
        ),
        Endpoint(
            method="GET",
            path="/me/exports/{export}",
            summary="How far is it",
            handle=data.export_state,
            parameters=(_EXPORT,),
            answer=ExportState,
            links=_EXPORTED,
            signed_in=True,
            refuses=(ErrorCode.NOT_FOUND, *REFUSALS),
            group="Your data",
        ),
        Endpoint(
            method="GET",
            path="/me/exports/{export}/document",
            summary="Fetch everything about you",
            handle=data.export_document,
            parameters=(_EXPORT,),
            signed_in=True,
            refuses=(ErrorCode.NOT_FOUND, ErrorCode.NOT_READY, *REFUSALS),
            group="Your data",
        ),
        Endpoint(
            method="DELETE",
            path="/me",
            summary="Leave for good",
            handle=data.leave,
            limits=(SIGN_INS,),
            body=Departing,
            example=Departing("violets under a lamp"),
            status=204,
            signed_in=True,
            refuses=(
                ErrorCode.PROOF_REQUIRED,
                ErrorCode.CREDENTIALS_REFUSED,
                ErrorCode.RATE_LIMITED,
                ErrorCode.BUSY,
                *REFUSALS,
            ),
            group="Your data",
        ),
    ]


def _state(export: privacy.Export) -> ExportState:
    return ExportState(
        id=export.id,
        finished=export.finished,
        progress=round(export.progress, 3),
        created_at=export.created_at,
        expires_at=export.expires_at,
    )


async def _all(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for piece in rest:
        yield piece
