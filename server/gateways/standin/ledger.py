"""What the stand-in remembers: objects, idempotency keys and events; in memory, and in one file if it is given one."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from server.gateways.standin.problems import StripeProblem, missing

VERSION: Final = "2026-10-28.endive"
"""The version of the API that is spoken."""
KEY_SECONDS: Final = 86400.0
"""How long an idempotency key is remembered."""

Object = dict[str, Any]

PREFIXES: Final = {
    "customer": "cus",
    "product": "prod",
    "price": "price",
    "checkout.session": "cs_test",
    "billing_portal.session": "bps",
    "subscription": "sub",
    "subscription_item": "si",
    "invoice": "in",
    "invoice_payment": "inpay",
    "payment_intent": "pi",
    "charge": "ch",
    "refund": "re",
    "dispute": "du",
    "account": "acct",
    "transfer": "tr",
    "transfer_reversal": "trr",
    "topup": "tu",
    "event": "evt",
}


class Ledger:
    """All objects. `clock` is in seconds since 1970; `told` is called with each new event."""

    def __init__(
        self, clock: Callable[[], float], told: Callable[[Object], None], file: Path | None = None
    ) -> None:
        self._clock = clock
        self._told = told
        self._file = file
        self.objects: dict[str, Object] = {}
        self.keys: dict[str, Object] = {}
        """What was asked with each idempotency key, and the answer."""
        self.skipped = 0.0
        """Seconds that were skipped, so that months may pass."""
        if file is not None and file.exists():
            kept = json.loads(file.read_text("utf-8"))
            self.objects, self.keys, self.skipped = kept["objects"], kept["keys"], kept["skipped"]

    def now(self) -> int:
        """Return the moment, in whole seconds, as Stripe tells it."""
        return int(self._clock() + self.skipped)

    def save(self) -> None:
        """Write everything down, if there is a file; a crash leaves the one before or the one after."""
        if self._file is None:
            return
        written = self._file.with_suffix(".new")
        written.write_text(
            json.dumps({"objects": self.objects, "keys": self.keys, "skipped": self.skipped}), "utf-8"
        )
        os.replace(written, self._file)  # noqa: PTH105 - the usual name of it

    def add(self, kind: str, **fields: Any) -> Object:
        """Make an object with an id of its kind."""
        id = f"{PREFIXES[kind]}_{secrets.token_hex(12)}"  # noqa: A001 - Stripe's name
        made = {"id": id, "object": kind, "created": self.now(), "livemode": False, **fields}
        self.objects[id] = made
        return made

    def get(self, kind: str, id: str, param: str = "id") -> Object:  # noqa: A002 - Stripe's name
        """Return an object. Raises `StripeProblem`."""
        found = self.objects.get(id)
        if found is None or found["object"] != kind or found.get("deleted"):
            raise missing(kind, id, param)
        return found

    def all(self, kind: str, **equal: Any) -> Iterator[Object]:
        """Yield the objects of a kind whose fields have these values, the newest first."""
        for one in reversed(list(self.objects.values())):
            if one["object"] == kind and all(one.get(name) == value for name, value in equal.items()):
                yield one

    def page(self, path: str, found: list[Object], limit: int, after: str | None) -> Object:
        """Return a page of a list."""
        if not 1 <= limit <= 100:
            raise StripeProblem(400, "parameter_invalid_integer", "Invalid limit", param="limit")
        ids = [one["id"] for one in found]
        if after is not None and after not in ids:
            raise missing("object", after, "starting_after")
        start = 0 if after is None else ids.index(after) + 1
        return {
            "object": "list",
            "url": path,
            "has_more": len(found) > start + limit,
            "data": found[start : start + limit],
        }

    def tell(self, kind: str, about: Object, before: Object | None = None) -> Object:
        """Make an event of what happened to an object; `before` has what fields were that have changed."""
        data: Object = {"object": public(about)}
        if before is not None:
            data["previous_attributes"] = before
        event = self.add(
            "event",
            type=kind,
            api_version=VERSION,
            data=data,
            pending_webhooks=1,
            request={"id": None, "idempotency_key": None},
        )
        self._told(event)
        return event


def public(value: Any) -> Any:
    """Return a copy of an object as it is shown: without what the stand-in keeps in it for itself."""
    if isinstance(value, dict):
        return {name: public(one) for name, one in value.items() if name != "standin"}
    if isinstance(value, list):
        return [public(one) for one in value]
    return value
