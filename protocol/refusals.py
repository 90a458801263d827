"""The two ways to say no: `Refused` answers one command, `Disconnect` closes the connection.

Both may be raised from any layer. Whatever else is raised is a bug: it is answered with ``internal_error`` and logged.

The same codes serve the websocket (`protocol.envelope.Error`) and HTTP (``application/problem+json``, RFC 9457).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from protocol.closing import CloseCode


class ErrorCode(StrEnum):
    """A stable reason, its HTTP status, whether the same request may succeed later, and a sentence that says what to do."""

    status: int
    retryable: bool
    advice: str

    def __new__(cls, code: str, status: int, retryable: bool, advice: str) -> Self:  # noqa: FBT001 - a row of a table
        """Make a member that carries what clients of either side need."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.status = status
        member.retryable = retryable
        member.advice = advice
        return member

    MALFORMED = (
        "malformed",
        400,
        False,
        "Send one message per frame, encoded as the negotiated subprotocol says.",
    )
    UNKNOWN_TYPE = (
        "unknown_type",
        400,
        False,
        "Use a message type of this protocol version; see the documents.",
    )
    INVALID = "invalid", 422, False, "Correct the field that `path` names."
    HELLO_FIRST = "hello_first", 401, False, "Send hello with an access token before anything else."
    HELLO_AGAIN = (
        "hello_again",
        409,
        False,
        "This connection has already said hello. Use token.refresh for a new token.",
    )
    TOKEN_INVALID = "token_invalid", 401, False, "Sign in again and use the new access token."
    TOKEN_EXPIRED = "token_expired", 401, False, "Refresh the access token, then try again."
    SESSION_ENDED = "session_ended", 401, False, "Sign in again."
    CREDENTIALS_REFUSED = "credentials_refused", 401, False, "Check the e-mail address and the password."
    PROOF_REQUIRED = (
        "proof_required",
        403,
        False,
        "Send your password; or sign in again, and ask within 10 minutes.",
    )
    FORBIDDEN = "forbidden", 403, False, "Only the author, the host or a moderator may do this."
    ORIGIN_REFUSED = "origin_refused", 403, False, "Use an origin that this server allows."
    HOST_REFUSED = "host_refused", 400, False, "Use a host name that this server answers to."
    NOT_FOUND = "not_found", 404, False, "It does not exist, or is not open to you."
    METHOD_REFUSED = "method_refused", 405, False, "Use one of the methods that the Allow header names."
    ALREADY_DECIDED = (
        "already_decided",
        409,
        False,
        "Somebody has decided it in another way. Look at it again.",
    )
    NOT_READY = (
        "not_ready",
        409,
        False,
        "It is being made. Ask how far it is, and fetch it when it is finished.",
    )
    NOT_IN_ROOM = "not_in_room", 409, False, "Join the looproom first."
    PREMIUM_REQUIRED = (
        "premium_required",
        402,
        False,
        "Your preview of this looproom is over. Subscribe to stay.",
    )
    SUBSCRIPTION_ENDED = (
        "subscription_ended",
        402,
        False,
        "What you have paid for has ended. Subscribe again to come back.",
    )
    PASS_REQUIRED = (
        "pass_required",
        402,
        False,
        "This looproom is exclusive. Buy a pass with `POST /payments/passes` to come in.",
    )
    PASS_ENDED = (
        "pass_ended",
        402,
        False,
        "Your pass to this looproom has ended, or its money went back. Buy another one to come back.",
    )
    PASS_HELD = "pass_held", 409, False, "This looproom is open to you. There is nothing to pay."
    NOT_FOR_SALE = (
        "not_for_sale",
        409,
        False,
        "This looproom is not sold in this way. Its prices are in `room.get`.",
    )
    ALREADY_SUBSCRIBED = (
        "already_subscribed",
        409,
        False,
        "There is a subscription already. Change or end it on the page that `POST /payments/portal` leads to.",
    )
    NOT_SUBSCRIBED = "not_subscribed", 409, False, "Subscribe first: there is nothing to manage."
    PAYMENTS_OFF = "payments_off", 501, False, "Nothing can be paid on this server."
    SIGNATURE_REFUSED = (
        "signature_refused",
        400,
        False,
        "Sign the bytes of the body, at most 300 seconds ago, with the secret of this server.",
    )
    TEXT_EMPTY = "text_empty", 422, False, "Write something: nothing readable is left of this text."
    KEY_REUSED = (
        "key_reused",
        409,
        False,
        "This key was used for something else. Make a new key for each new thing.",
    )
    EMAIL_TAKEN = (
        "email_taken",
        409,
        False,
        "Somebody has proven meanwhile that this address is theirs. Sign in with that account.",
    )
    LINK_INVALID = (
        "link_invalid",
        410,
        False,
        "The link was used already, or is too old. Ask for a new one.",
    )
    INVITATION_REQUIRED = (
        "invitation_required",
        403,
        False,
        "One needs an invitation to make an account. Ask for a place on the waitlist, and use the link that you are sent.",
    )
    PASSWORD_WEAK = (
        "password_weak",
        422,
        False,
        "Choose a password of 8 to 1,024 characters that is not a common one.",
    )
    SIGN_IN_REFUSED = (
        "sign_in_refused",
        401,
        False,
        "Sign in at Google or Apple again: what came from there is not good any more, or not for you.",
    )
    ACCOUNT_EXISTS = (
        "account_exists",
        409,
        False,
        "There is an account with this address. Sign in to it, then link this way of signing in.",
    )
    EMAIL_UNVERIFIED = (
        "email_unverified",
        403,
        False,
        "Open the link that was mailed to your address first.",
    )
    IDENTITY_TAKEN = (
        "identity_taken",
        409,
        False,
        "It belongs to another account here, or yours has one of this provider already.",
    )
    LAST_IDENTITY = (
        "last_identity",
        409,
        False,
        "Add another way to sign in before you remove the last one.",
    )
    TOO_MANY_ROOMS = "too_many_rooms", 409, False, "Leave a looproom before you join another."
    TOO_LARGE = "too_large", 413, False, "Send less in one request."
    TOO_SLOW = "too_slow", 408, False, "Send the whole request within 10 seconds."
    MEDIA_TYPE_REFUSED = "media_type_refused", 415, False, "Send application/json."
    MEDIA_REFUSED = (
        "media_refused",
        422,
        False,
        "It can't be read as what it was said to be, is too large a picture, or holds something else beside it.",
    )
    OFFSET_REFUSED = (
        "offset_refused",
        409,
        False,
        "The upload stands elsewhere. Ask for it, and go on from `Upload-Offset`.",
    )
    QUOTA_REACHED = (
        "quota_reached",
        409,
        False,
        "You have stored as much as you may. Delete something first.",
    )
    RANGE_REFUSED = (
        "range_refused",
        416,
        False,
        "The file has no such bytes; `Content-Range` says how many it has.",
    )
    RATE_LIMITED = "rate_limited", 429, True, "Wait for `retry_after` seconds, then try again."
    BUSY = "busy", 503, True, "The server has more to do than it can carry. Wait for `retry_after` seconds."
    UNAVAILABLE = (
        "unavailable",
        503,
        True,
        "A store is out of reach. Wait for `retry_after` seconds, then try again.",
    )
    INTERNAL = "internal_error", 500, True, "Something went wrong here. It was noted; try again."


class Refused(Exception):  # noqa: N818 - it is not an error of ours; the field's word is "refused"
    """A command or a request is answered with an error; nothing else happens.

    `message` defaults to the code's own advice; `retry_after` is in seconds; `path` names a field as ``$.room``.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str | None = None,
        *,
        retry_after: float | None = None,
        path: str | None = None,
    ) -> None:
        super().__init__(message or code.advice)
        self.code = code
        self.message = message or code.advice
        self.retry_after = retry_after
        self.path = path


class Disconnect(Exception):  # noqa: N818 - see Refused
    """The connection is closed with `code`; `reason` is cut to what a close frame holds (RFC 6455, section 5.5)."""

    def __init__(self, code: CloseCode, reason: str | None = None) -> None:
        super().__init__(reason or code.meaning)
        self.code = code
        self.reason = reason or code.meaning
