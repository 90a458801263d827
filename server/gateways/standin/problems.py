"""How Stripe says no."""

from __future__ import annotations

from typing import Any


class StripeProblem(Exception):  # noqa: N818 - Stripe's word is "error", ours is taken
    """An answer that is an error, with Stripe's own type and code.

    With `done` it was looked into, not only at what was asked: then the same is answered to the same key, as any other answer is.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        done: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.kind = kind
        self.param = param
        self.done = done

    def body(self) -> dict[str, Any]:
        """Return the JSON of the answer."""
        error: dict[str, Any] = {"type": self.kind, "code": self.code, "message": self.message}
        if self.param is not None:
            error["param"] = self.param
        return {"error": error}


def missing(kind: str, id: str, param: str = "id") -> StripeProblem:  # noqa: A002 - Stripe's name
    """Say that there is no such object."""
    return StripeProblem(404, "resource_missing", f"No such {kind}: '{id}'", param=param)
